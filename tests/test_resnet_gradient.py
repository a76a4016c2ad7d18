"""The gradient by hand, in torch's operations and in C, against the formula in plain operations."""

import pytest
import torch

from pyg_ea import native
from pyg_ea.potentials import native_passes, resnet_passes
from pyg_ea.potentials.collector import collect
from pyg_ea.potentials.resnet_gradient import gradient_in_y, plain_gradient_in_y
from pyg_ea.potentials.resnet_passes import Weights

HIDDEN, SIZE = 3, 4
TIGHT = {"rtol": 1e-11, "atol": 1e-12}

INDICES = {
    "unsorted": [2, 0, 2, 2, 0, 3, 0, 2, 3, 3, 2],
    "single": [0],
    "empty": [],
    "singles": [0, 1, 2, 3],
}


@pytest.fixture(params=["torch", "native"], autouse=True)
def _passes(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setattr(native, "LIBRARY", None)
    elif native.LIBRARY is None:
        pytest.skip("the C kernels were not built")


@pytest.fixture(params=[1, 3], ids="{}-threads".format)
def _threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def set_chunk(monkeypatch, rows: int, hidden: int = HIDDEN) -> None:
    """Has the passes work on few elements at a time."""
    monkeypatch.setattr(resnet_passes, "CHUNK", rows * 2 * hidden)
    monkeypatch.setattr(native_passes, "BLOCK", rows)
    monkeypatch.setattr(native_passes, "BLOCKS", 2)


def problem(index: list[int]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Index and, all wanting a gradient, ``y [5, 4], fixed [N, 3H+32]`` and the weights."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(5, SIZE), (len(index), 3 * HIDDEN + 32)]
    shapes += [(3 * HIDDEN + 32, SIZE), (HIDDEN + 32, 2 * HIDDEN), (32, HIDDEN)]
    shapes += [(2 * HIDDEN,), (2 * HIDDEN,), (HIDDEN,), (HIDDEN,)]
    tensors = [
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in shapes
    ]
    return torch.tensor(index, dtype=torch.long), tensors


@pytest.mark.parametrize("rows", [1, 4, 100], ids="chunks-of-{}".format)
@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
def test_value_and_derivative_do_not_depend_on_the_chunk(index, rows, monkeypatch):
    set_chunk(monkeypatch, rows)
    index, (y, fixed, *weights) = problem(index)
    cotangent = torch.randn_like(y)
    by_hand = gradient_in_y(y, fixed, index, 5, Weights(*weights))
    plain = plain_gradient_in_y(y, fixed, index, 5, Weights(*weights))
    torch.testing.assert_close(by_hand, plain, **TIGHT)
    got = torch.autograd.grad(by_hand, [y, fixed, *weights], cotangent)
    expected = torch.autograd.grad(plain, [y, fixed, *weights], cotangent)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, **TIGHT)


@pytest.mark.parametrize("hidden", [1, 20, 33])
@pytest.mark.usefixtures("_threads")
def test_both_precisions_at_sizes_of_several_chunks(hidden, monkeypatch):
    set_chunk(monkeypatch, 70, hidden)
    torch.manual_seed(0)
    index = torch.randint(7, (1000, 2))[:, 0]  # a column: not contiguous
    shapes = [(8, 6), (1000, 3 * hidden + 32), (3 * hidden + 32, 6), (hidden + 32, 2 * hidden)]
    shapes += [(32, hidden), *(2 * [(2 * hidden,)]), *(2 * [(hidden,)])]
    exact = [torch.randn(shape, dtype=torch.float64) / shape[-1] ** 0.5 for shape in shapes]
    cotangent = torch.randn(8, 6, dtype=torch.float64)
    results = []
    for dtype, gradient in (
        (torch.float64, plain_gradient_in_y),
        (torch.float64, gradient_in_y),
        (torch.float32, gradient_in_y),
    ):
        inputs = [tensor.to(dtype).requires_grad_() for tensor in exact]
        value = gradient(*inputs[:2], index, 8, Weights(*inputs[2:]))
        results.append([value, *torch.autograd.grad(value, inputs, cotangent.to(dtype))])
    for expected, double, single in zip(*results, strict=True):
        scale = float(expected.detach().abs().max())
        if hidden > 1:  # of one value nothing is left but rounding, times 316
            torch.testing.assert_close(single.double(), expected, rtol=0, atol=3e-5 * scale)
        torch.testing.assert_close(double, expected, rtol=0, atol=1e-11 * max(scale, 1))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_stays_in_its_segment_and_is_seen(bad):
    index, (y, fixed, *weights) = problem(INDICES["unsorted"])
    with torch.no_grad():
        fixed[1, 2] = bad  # of segment 0
        value = gradient_in_y(y.float(), fixed.float(), index, 5, Weights(*map(_single, weights)))
    assert value[0].isnan().all()
    assert value[1:].isfinite().all()


def test_large_arguments_of_the_tanh_saturate():
    index, (y, fixed, *weights) = problem(INDICES["unsorted"])
    with torch.no_grad():
        weights[3] *= 1e30
        expected = plain_gradient_in_y(y, fixed, index, 5, Weights(*weights))
        value = gradient_in_y(y.float(), fixed.float(), index, 5, Weights(*map(_single, weights)))
    torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=1e-4)


def _single(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float()


def test_without_a_graph_nothing_is_kept_and_the_value_is_the_same(monkeypatch):
    set_chunk(monkeypatch, 4)
    index, (y, fixed, *weights) = problem(INDICES["unsorted"])
    with torch.no_grad():
        value = gradient_in_y(y, fixed, index, 5, Weights(*weights))
    assert not value.requires_grad
    expected = plain_gradient_in_y(y, fixed, index, 5, Weights(*weights))
    torch.testing.assert_close(value, expected, **TIGHT)


def test_norms_of_another_precision_are_not_read_as_if_they_were_of_this_one():
    index, (y, fixed, *weights) = problem(INDICES["unsorted"])
    expected = gradient_in_y(y, fixed, index, 5, Weights(*weights))
    single = [tensor.float() for tensor in (y, fixed, *weights[:3])]
    got = gradient_in_y(*single[:2], index, 5, Weights(*single[2:], *weights[3:]))
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-4)


def two_steps(gradient, y):
    """Two gradients, the second where the first led, as the solver takes them."""
    return gradient(y - 0.1 * gradient(y)).square().sum()


def losses(index, y, fixed, weights):
    """Of two steps whose gradients of ``fixed`` are collected, and of two in plain operations."""
    shared = collect(fixed)
    by_hand = two_steps(lambda y: gradient_in_y(y, fixed, index, 5, weights, shared), y)
    return by_hand, two_steps(lambda y: plain_gradient_in_y(y, fixed, index, 5, weights), y)


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
def test_collected_over_two_steps_the_gradient_is_that_of_autograd(index):
    index, (y, fixed, *weights) = problem(index)
    by_hand, plain = losses(index, y, fixed, Weights(*weights))
    got, expected = (torch.autograd.grad(loss, [y, fixed, *weights]) for loss in (by_hand, plain))
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, **TIGHT)


def test_collected_gradients_of_several_passes_do_not_mix():
    index, (y, fixed, *weights) = problem(INDICES["unsorted"])
    loss, plain = losses(index, y, fixed, Weights(*weights))
    (expected,) = torch.autograd.grad(plain, fixed)

    def check(**options):
        (got,) = torch.autograd.grad(loss, fixed, retain_graph=True, **options)
        torch.testing.assert_close(got, expected, **TIGHT)

    check()
    torch.autograd.grad(loss, y, retain_graph=True)  # hands nothing over
    torch.autograd.grad(loss, weights[0], retain_graph=True)
    check()
    check(create_graph=True)
    check()


def test_a_pass_that_lost_a_step_is_an_error_not_a_wrong_gradient():
    fixed = torch.ones(2, 3, requires_grad=True)
    token, collector = collect(fixed)

    class Step(torch.autograd.Function):
        @staticmethod
        def forward(ctx, token):
            return token.clone()

        @staticmethod
        def backward(ctx, _):
            return collector.take_part(fixed)[1]

    class Other(Step):
        @staticmethod
        def backward(ctx, _):
            collector.backward_pass = -2  # as a pass at the same time would
            return collector.take_part(fixed)[1]

    with pytest.raises(RuntimeError, match="two backward passes"):
        (Other.apply(token) + Step.apply(token)).backward()


def test_nothing_is_handed_over_where_there_is_no_gradient():
    index, (y, fixed, *weights) = problem(INDICES["unsorted"])
    loss, plain = losses(index, y, fixed.detach(), Weights(*weights))
    got, expected = (torch.autograd.grad(each, [y, *weights]) for each in (loss, plain))
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, **TIGHT)
