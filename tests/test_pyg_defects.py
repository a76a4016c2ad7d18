"""What PyG's own ``EquilibriumAggregation`` gets wrong: ours must not, row by row.

Where it is quick, the same check is shown to fail for PyG's layer, so that it can fail.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.nn.aggr import EquilibriumAggregation

from pyg_ea import Checkpointed, EAAggregation, NesterovSolver, auxiliary_loss
from pyg_ea.solver import Solution

CHANNELS = 8


def ours(steps: int = 5, **arguments: object) -> EAAggregation:
    torch.manual_seed(0)
    return EAAggregation(CHANNELS, CHANNELS, 16, steps, **arguments)


def pygs(steps: int = 5) -> EquilibriumAggregation:
    torch.manual_seed(0)
    return EquilibriumAggregation(CHANNELS, CHANNELS, [16, 16], grad_iter=steps)


def elements(count: int, seed: int = 1) -> Tensor:
    return torch.randn(count, CHANNELS, generator=torch.Generator().manual_seed(seed))


def change_among_others(layer: nn.Module, others: int) -> float:
    """Relative change of one set's result when ``others`` sets join its batch."""
    x = elements(6)
    alone = layer(x, torch.zeros(6, dtype=torch.long), dim_size=1)[0]
    index = torch.arange(others + 1).repeat_interleave(6)
    among = layer(torch.cat([x, elements(6 * others, seed=2)]), index, dim_size=others + 1)[0]
    return float(((among - alone).norm() / alone.norm()).detach())


@pytest.mark.parametrize("others", [1, 7, 31, 255])
def test_result_does_not_depend_on_batch_mates(others) -> None:
    assert change_among_others(ours(), others) < 1e-5  # float32; 1e-12 in float64 elsewhere
    assert change_among_others(pygs(), others) > 0.1


def change_by_repeating(layer: nn.Module) -> float:
    """Relative change of a set's result when each element is there four times."""
    x = elements(6)
    once = layer(x, torch.zeros(6, dtype=torch.long))
    often = layer(x.repeat(4, 1), torch.zeros(24, dtype=torch.long))
    return float(((often - once).norm() / once.norm()).detach())


def test_result_depends_on_the_size_of_the_set() -> None:
    assert change_by_repeating(ours()) > 0.1
    assert change_by_repeating(pygs()) < 1e-5


def test_arguments_are_the_effective_values() -> None:
    layer = ours(solver=NesterovSolver(lr=0.1, momentum=0.9))
    assert float(layer.solver.lr.detach()) == pytest.approx(0.1, rel=1e-6)
    assert float(layer.solver.momentum.detach()) == pytest.approx(0.9, rel=1e-6)
    assert float(layer.prior.weight.detach()) == pytest.approx(0.1, rel=1e-6)
    theirs = pygs()  # arguments 0.1 and 0.9
    assert float(theirs.optimizer.learning_rate.detach()) == pytest.approx(0.744, abs=1e-3)
    assert float(theirs.optimizer.momentum.detach()) == pytest.approx(0.711, abs=1e-3)


def test_momentum_looks_ahead() -> None:
    """On E(y) = a/2 y^2 - b y, the second gradient tells where it was taken."""
    solver = NesterovSolver(lr=0.1, momentum=0.9, gtol=0.0).double()
    solver.reset_parameters()
    points: list[float] = []

    def gradient(y: Tensor) -> Tensor:
        points.append(float(y.detach()))
        return 2 * y - 1

    start = Solution.at_rest(torch.zeros(1, 1, dtype=torch.float64))
    solver.run(gradient, start, 2)
    first_move = 0.1
    assert points == pytest.approx([0.0, first_move + 0.9 * first_move], rel=1e-12)


def test_energy_is_bounded_below_so_more_steps_do_not_run_away() -> None:
    """Their potential is linear at its end, so it falls without bound along some direction."""
    x = elements(40)
    far = 1e4 * elements(40, seed=2)
    assert ours().potential(x, far).min() >= 0
    theirs = pygs().potential
    assert min(theirs(x, y, torch.arange(40)).min() for y in (far, -far)) < -100
    norms = []
    for steps in (400, 1000):
        with torch.no_grad():
            y = ours(steps, solver=NesterovSolver(0.03))(x, torch.arange(40) % 2)
        norms.append(float(y.norm(dim=1).max()))
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_result_has_the_dtype_of_the_elements(dtype) -> None:
    x, index = elements(6).to(dtype), torch.arange(6) // 3
    out = ours().to(dtype)(x, index)
    assert out.dtype == dtype
    assert out.isfinite().all()
    if dtype != torch.float64:  # which torch promotes to
        assert dtype_of_result(pygs().to(dtype), x, index) != dtype


def dtype_of_result(layer: nn.Module, x: Tensor, index: Tensor) -> torch.dtype | None:
    """None where the layer cannot compute at all."""
    try:
        return layer(x, index).dtype
    except RuntimeError:
        return None


def parameters_without_gradient(layer: nn.Module) -> list[str]:
    layer(elements(6), torch.arange(6) // 3).square().sum().backward()
    return [name for name, p in layer.named_parameters() if p.grad is None]


def test_every_parameter_gets_a_gradient() -> None:
    assert parameters_without_gradient(ours()) == []
    assert len(parameters_without_gradient(pygs())) == 3


def test_works_in_inference_mode() -> None:
    layer, x, index = ours(), elements(6), torch.arange(6) // 3
    expected = layer(x, index)
    with torch.inference_mode():
        assert torch.equal(layer(x, index), expected)
    with torch.inference_mode(), pytest.raises(RuntimeError):
        pygs()(x, index)


def test_no_grad_keeps_no_graph() -> None:
    x, index = elements(6), torch.arange(6) // 3
    layer = ours()
    with torch.no_grad():
        assert not layer(x, index).requires_grad
        assert not any(part.requires_grad for part in layer.solution if isinstance(part, Tensor))
        assert pygs()(x, index).requires_grad


def test_ptr_alone_works() -> None:
    layer, x = ours(), elements(6)
    by_ptr = layer(x, ptr=torch.tensor([0, 2, 6]))
    assert torch.equal(by_ptr, layer(x, torch.tensor([0, 0, 1, 1, 1, 1])))
    with pytest.raises(NotImplementedError):
        pygs()(x, ptr=torch.tensor([0, 2, 6]))


def test_dim_is_obeyed() -> None:
    layer, index = ours(), torch.arange(6) // 3
    x = elements(12).view(6, 2, CHANNELS)
    out = layer(x, index, dim=0)
    assert out.shape == (2, 2, CHANNELS)
    torch.testing.assert_close(out[:, 1], layer(x[:, 1], index))


def saved_bytes(layer: nn.Module) -> int:
    """Memory that the forward pass keeps for backward: distinct storages, parameters excluded."""
    own = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = layer(elements(500), torch.arange(500) // 20)
    total = sum(kept.values())
    out.sum().backward()
    return total


def test_memory_need_not_grow_with_the_steps() -> None:
    """Checkpointed keeps the states between steps; PyG's keeps every activation of every step."""
    few, many = (saved_bytes(ours(steps, adjoint=Checkpointed())) for steps in (5, 20))
    state = 25 * CHANNELS * 4  # bytes of y
    assert (many - few) / 15 < 20 * state
    assert many < saved_bytes(pygs(20)) / 8
    assert saved_bytes(pygs(20)) > 3 * saved_bytes(pygs(5))


def test_stopping_clipping_auxiliary_loss_and_diagnostics_exist_and_work() -> None:
    x, index = elements(40), torch.arange(40) % 8
    layer = ours(15, solver=NesterovSolver(gtol=0.2, clip=0.5))
    out, solution = layer(x, index, return_solution=True)
    assert out.abs().max() == 0.5
    steps = layer.solution.steps
    assert steps.min() < steps.max() <= 15
    assert auxiliary_loss(solution) > 0
    report = layer.diagnose(x, index)
    assert (report.energy_after < report.energy_before).all()
    assert math.isfinite(float(report.solution.gradient_max.max()))
