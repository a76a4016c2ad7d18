"""The fused solve against plain PyTorch: every field of the solution and all gradients."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pyg_ea import (
    Checkpointed,
    EAAggregation,
    EAConv,
    EAGlobalPool,
    L2Prior,
    NesterovSolver,
    SumEAAggregation,
    Truncated,
    Unrolled,
    auxiliary_loss,
    collect_solutions,
    solve_backend,
)
from pyg_ea.energy import NoPrior
from pyg_ea.fused import native
from pyg_ea.fused.native import NativeBackend
from pyg_ea.fused.torch import TorchBackend
from pyg_ea.potentials import MeanPotential
from pyg_ea.potentials.closed_form import OUTPUTS
from pyg_ea.solver import Solution

EXACT = 1e-10  # of the largest entry, float64: sums in another order
SINGLE = 2e-4  # float32 through 5 steps

LAYOUTS = {  # name: (index, number of segments)
    "sorted": ([0, 0, 1, 1, 1, 2], 3),
    "unsorted-with-empty": ([3, 0, 4, 3, 2, 3, 0, 4, 3, 0, 3], 7),
    "single": ([0], 1),
    "singles": ([2, 0, 1], 3),
    "no-element": ([], 2),
    "no-segment": ([], 0),
    "one-large": ([0] * 700, 1),  # several blocks
    "many": (torch.randint(60, (1500,), generator=torch.Generator().manual_seed(0)).tolist(), 64),
}
WEIGHT = torch.ones((), requires_grad=True)
ADJOINTS = [Unrolled(), Checkpointed(), Truncated(2)]
RULES = {"free": (0.0, None), "gtol-and-clip": (0.3, 0.2)}

needs_native = pytest.mark.skipif(native.LIBRARY is None, reason="the C code was not built")
backends = pytest.mark.parametrize("backend", [pytest.param("native", marks=needs_native), "torch"])


@pytest.fixture(params=[1, 3], ids="{}-threads".format)
def _threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def run(
    backend: str,
    layout: str,
    adjoint: object = ADJOINTS[0],
    rule: str = "free",
    prior: object = None,
    dtype: torch.dtype = torch.float64,
    steps: int = 5,
) -> list[Tensor]:
    """Fields of the solution, and the gradients of a functional of it in x and all parameters."""
    index, segments = LAYOUTS[layout]
    gtol, clip = RULES[rule]
    torch.manual_seed(0)
    layer = EAAggregation(
        5,
        7,
        6,
        steps,
        solver=NesterovSolver(0.02, gtol=gtol, clip=clip),
        adjoint=adjoint,
        prior=prior,
    ).double()
    x = torch.randn(len(index), 5, dtype=torch.float64)
    weight = torch.randn(segments, 7, dtype=torch.float64).to(dtype)
    layer, x = layer.to(dtype), x.to(dtype).requires_grad_()
    with solve_backend(backend):
        _, s = layer(
            x, torch.tensor(index, dtype=torch.long), dim_size=segments, return_solution=True
        )
        loss = (weight * s.y).sum() + (weight.flip(0) * s.velocity).sum()
        loss = loss + 0.7 * s.gradient_mean_square.sum() + 0.3 * s.path_mean_square.sum()
        gradients = torch.autograd.grad(
            loss, [x, *layer.parameters()], allow_unused=True, materialize_grads=True
        )
    return [field.detach() for field in s] + list(gradients)


def check_close(got: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for one, other in zip(got, expected, strict=True):
        assert one.shape == other.shape
        if one.numel():
            scale = max(1.0, float(other.double().abs().max()))
            assert (one.double() - other.double()).abs().max() < tolerance * scale


@pytest.mark.usefixtures("_threads", "device")
@backends
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("adjoint", "rule"), list(itertools.product(ADJOINTS, RULES)), ids=lambda v: str(v)
)
def test_equals_plain_pytorch(backend, layout, adjoint, rule) -> None:
    for prior in (L2Prior(0.3), NoPrior()):
        got = run(backend, layout, adjoint, rule, prior)
        check_close(got, run("plain", layout, adjoint, rule, prior), EXACT)


def test_the_rules_are_at_work() -> None:
    """Otherwise the test above would show nothing of them."""
    s = run("plain", "many", rule="gtol-and-clip")
    y, steps = s[0], s[6]
    assert (y.abs() == 0.2).any()
    assert steps.min() < 5
    assert steps.max() == 5


@backends
@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("layout", ["unsorted-with-empty", "many"])
def test_float32(backend, layout) -> None:
    got = run(backend, layout, dtype=torch.float32)
    assert got[0].dtype == torch.float32
    check_close(got, run("plain", layout), SINGLE)


@backends
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_stays_in_its_segment_and_is_seen(backend, bad) -> None:
    layer = EAAggregation(4, 4, steps=3, validate=False)
    x, index = torch.randn(6, 4), torch.tensor([1, 0, 1, 2, 0, 2])
    expected = layer(x, index)
    x[1] = bad  # of segment 0
    with solve_backend(backend):
        _, solution = layer(x, index, return_solution=True)
    assert solution.gradient_max[0].isnan()
    assert solution.y[0].isnan().all()
    assert (solution.converged[0], solution.diverged[0]) == (False, True)
    torch.testing.assert_close(solution.y[1:], expected[1:])


@backends
@pytest.mark.usefixtures("device")
def test_saturated_tanh(backend) -> None:
    torch.manual_seed(0)
    layer = EAAggregation(4, 4, steps=3)
    with torch.no_grad():
        layer.potential.norm1.weight.mul_(1e30)
    x = torch.randn(9, 4)
    with solve_backend(backend):
        y = layer(x)
    with solve_backend("plain"):
        torch.testing.assert_close(y, layer.double()(x.double()).float(), rtol=1e-3, atol=1e-3)


@needs_native
def test_the_result_does_not_depend_on_the_number_of_threads() -> None:
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        results.append(run("native", "many")[:10])
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


def test_a_whole_solve_is_one_node_and_its_second_derivative_runs_the_plain_solve() -> None:
    layer = EAAggregation(4, 4, steps=7)
    x = torch.randn(9, 4, requires_grad=True)
    _, solution = layer(x, return_solution=True)
    assert type(solution.y.grad_fn).__name__ == "FusedSolveBackward"
    (gradient,) = torch.autograd.grad(solution.y.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), x)
    with solve_backend("plain"):
        (plain,) = torch.autograd.grad(layer(x).sum(), x, create_graph=True)
        torch.testing.assert_close(gradient, plain, rtol=1e-4, atol=1e-6)
        expected = torch.autograd.grad(plain.square().sum(), x)[0]
        torch.testing.assert_close(second, expected, rtol=1e-3, atol=1e-5)


def test_several_backward_passes_through_one_graph_agree() -> None:
    layer = EAAggregation(4, 4, steps=3).double()
    x = torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
    loss = layer(x).square().sum()
    first = torch.autograd.grad(loss, x, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(loss, x, retain_graph=True)[0], first)
    created = torch.autograd.grad(loss, x, create_graph=True)[0]
    torch.testing.assert_close(created, first, rtol=1e-10, atol=1e-12)


def is_fused(layer: EAAggregation, x: Tensor) -> bool:
    layer.validate = False  # so tiny a layer may diverge
    _, solution = layer(x, return_solution=True)
    return type(solution.y.grad_fn).__name__ == "FusedSolveBackward"


def test_where_it_is_used() -> None:
    torch.manual_seed(0)
    x = torch.randn(9, 4)
    assert is_fused(EAAggregation(4, 4, steps=2), x)
    assert is_fused(EAAggregation(4, 4, steps=2, prior=NoPrior()), x)
    for backend, fused in (("auto", True), ("torch", True), ("plain", False)):
        with solve_backend(backend):
            assert is_fused(EAAggregation(4, 4, steps=2), x) == fused

    class OwnSolver(NesterovSolver):
        pass

    class OwnPrior(L2Prior):
        pass

    for settings in ({"solver": OwnSolver()}, {"prior": OwnPrior()}):
        assert not is_fused(EAAggregation(4, 4, steps=2, **settings), x)
    assert not is_fused(EAAggregation(4, 4, steps=2).bfloat16(), x.bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert is_fused(EAAggregation(4, 4, steps=2), x)

    weight = torch.ones((), requires_grad=True)
    assert not is_fused(EAAggregation(4, 4, steps=2, scaling=lambda n: weight / n), x)


NOT_SUPPORTED = {  # (backend, layer, dtype of x, part of the reason)
    "potential": ("torch", {"potential": MeanPotential()}, torch.float32, "ResNetPotential"),
    "prior": ("native", {"prior": lambda y: y.square().sum(dim=1)}, torch.float32, "the prior is"),
    "scaling": ("torch", {"scaling": lambda n: WEIGHT / n}, torch.float32, "scaling"),
    "bf16": ("native", {}, torch.bfloat16, "a parameter is torch.bfloat16"),
}


@pytest.mark.parametrize(
    ("backend", "settings", "dtype", "reason"), NOT_SUPPORTED.values(), ids=NOT_SUPPORTED
)
def test_a_backend_chosen_by_name_runs_or_says_why_not(backend, settings, dtype, reason) -> None:
    layer = EAAggregation(4, 4, steps=2, validate=False, **settings).to(dtype)
    x = torch.randn(9, 4, dtype=dtype)
    with solve_backend(backend), pytest.raises(RuntimeError, match=reason) as caught:
        layer(x)
    assert f'solve_backend("{backend}") does not support this solve' in str(caught.value)
    assert "\n" not in str(caught.value)
    assert layer(x).isfinite().all()


@needs_native
def test_the_c_code_chosen_by_name_refuses_autocast() -> None:
    layer, x = EAAggregation(4, 4, steps=2), torch.randn(9, 4)
    with (
        solve_backend("native"),
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(RuntimeError, match="products run in"),
    ):
        layer(x)


def test_solve_backend_is_restored_and_refuses_other_names() -> None:
    with pytest.raises(RuntimeError, match="boom"), solve_backend("plain"):
        raise RuntimeError("boom")
    assert is_fused(EAAggregation(4, 4, steps=2), torch.randn(9, 4))
    with pytest.raises(ValueError, match=r"one of \[.*'triton', 'plain'\], got 'c'"):
        solve_backend("c").__enter__()


def test_the_c_code_is_chosen_only_where_it_can_read_the_tensors(monkeypatch) -> None:
    built, calls = native.LIBRARY is not None, []
    for backend in (NativeBackend, TorchBackend):
        original = backend.forward

        def forward(self, *arguments, original=original, **options):
            calls.append(type(self))
            return original(self, *arguments, **options)

        monkeypatch.setattr(backend, "forward", forward)
    layer, x = EAAggregation(4, 4, steps=2), torch.randn(9, 4)
    layer(x)
    monkeypatch.setattr(native, "LIBRARY", None)
    layer(x)
    layer.to("meta")(x.to("meta"))
    assert calls == [NativeBackend if built else TorchBackend, *2 * [TorchBackend]]


class OnMeta(TorchDispatchMode):
    """Refuses operations with a tensor on another device than meta."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves((args, kwargs, out)):
            assert not isinstance(tensor, Tensor) or tensor.device.type == "meta", function
        return out


@pytest.mark.parametrize("adjoint", ADJOINTS, ids=str)
def test_training_and_evaluation_read_no_value_and_stay_on_the_device(adjoint) -> None:
    """On a GPU each reading, and each copy from the CPU, would make the host wait.

    Meta tensors have no values. The device is not a CPU, so the layers' own defaults hold.
    """
    settings = {"steps": 4, "adjoint": adjoint}
    conv = EAConv(8, 8, aggr=SumEAAggregation(8, **settings), edge_dim=3).to("meta")
    pool = EAGlobalPool(8, 24, hidden_channels=OUTPUTS, **settings).to("meta")  # a skip less
    model = nn.ModuleList([conv, pool])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x, batch = torch.empty(40, 8, device="meta"), torch.empty(40, dtype=torch.long, device="meta")
    edges = torch.empty(2, 90, dtype=torch.long, device="meta")
    bonds = torch.empty(90, 3, device="meta")

    def forward() -> Tensor:
        return pool(conv(x, edges, bonds), batch, size=5)

    with OnMeta():
        with collect_solutions() as solutions:
            out = forward()
        (out.sum() + auxiliary_loss(solutions)).backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
        with torch.no_grad():
            model.eval()
            assert forward().shape == (5, 24)


@pytest.mark.parametrize("channels", [16, 64])
def test_error_of_bf16_products(channels) -> None:
    """State and mean squares are float32, products bf16, which keeps 8 bits."""
    torch.manual_seed(0)
    layer = EAAggregation(channels, channels)
    x, index = torch.randn(260, channels), torch.arange(260) // 26
    x.requires_grad_()
    exact = copy.deepcopy(layer).double()

    def gradients(layer: EAAggregation, x: Tensor, solution: Solution) -> list[Tensor]:
        loss = solution.y.square().sum() + auxiliary_loss(solution)
        return torch.autograd.grad(loss, [x, *layer.parameters()])

    with torch.autocast("cpu", torch.bfloat16):
        y, solution = layer(x, index, return_solution=True)
    double = x.detach().double().requires_grad_()
    expected, wanted = exact(double, index, return_solution=True)
    assert y.dtype == solution.gradient_mean_square.dtype == torch.float32
    error = (y - expected).abs().max() / expected.abs().max()
    assert 1e-3 < error < 0.02  # docs/choose.md
    found, wanted = gradients(layer, x, solution), gradients(exact, double, wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == torch.float32
        assert (one - other).norm() < 0.05 * other.norm() + 1e-6
