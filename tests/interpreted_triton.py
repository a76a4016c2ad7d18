"""The Triton kernels, interpreted on a CPU: `test_triton.py` runs these tests in their own process.

The interpreter shows formulas and masks. It shows nothing of races, and its products in bfloat16
are wrong.
"""

from __future__ import annotations

import pytest
import torch

from pyg_ea import EAAggregation, solve_backend
from pyg_ea.fused.triton import steps, work
from tests.test_fused import ADJOINTS, LAYOUTS, check_close, run
from tests.test_triton import nan

INTERPRETED = {  # several blocks; a block of several segments; a row in every other position
    "unsorted-with-empty": LAYOUTS["unsorted-with-empty"],
    "no-element": LAYOUTS["no-element"],
    "two-blocks": ([2] * 20 + [0, 5, 5, 0, 5], 8),
}


@pytest.fixture(autouse=True)
def _scratch(monkeypatch):
    """Scratch that is read before it is written shows."""
    for module in (work, steps):
        monkeypatch.setattr(module, "scratch", nan)


@pytest.mark.parametrize(
    ("layout", "adjoint", "rule"),
    [
        ("unsorted-with-empty", ADJOINTS[0], "gtol-and-clip"),
        ("two-blocks", ADJOINTS[1], "free"),
        ("no-element", ADJOINTS[2], "free"),
    ],
    ids=str,
)
def test_interpreted_kernels_equal_the_torch_backend(monkeypatch, layout, adjoint, rule) -> None:
    monkeypatch.setitem(LAYOUTS, layout, INTERPRETED[layout])
    got = run("triton", layout, adjoint, rule, dtype=torch.float32, steps=3)
    check_close(got, run("torch", layout, adjoint, rule, dtype=torch.float32, steps=3), 2e-6)


def test_interpreted_kernels_in_half_precision() -> None:
    torch.manual_seed(0)
    layer = EAAggregation(20, 20, steps=2)
    x, index = torch.randn(40, 20, requires_grad=True), torch.arange(40) // 12

    def gradients(backend: str, dtype: torch.dtype | None) -> list[torch.Tensor]:
        with solve_backend(backend), torch.autocast("cpu", dtype, enabled=dtype is not None):
            y = layer(x, index)
        return [y.detach(), *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])]

    exact = gradients("torch", None)
    for one, other in zip(gradients("triton", torch.float16), exact, strict=True):
        assert 0 < (one - other).norm() < 5e-3 * other.norm()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_stays_in_its_segment_and_is_seen(bad) -> None:
    layer = EAAggregation(4, 4, steps=2, validate=False)
    x, index = torch.randn(6, 4), torch.tensor([1, 0, 1, 2, 0, 2])
    expected = layer(x, index)
    x[1] = bad  # of segment 0
    with solve_backend("triton"):
        _, solution = layer(x, index, return_solution=True)
    assert solution.gradient_max[0].isnan()
    assert solution.y[0].isnan().all()
    assert solution.diverged.tolist() == [True, False, False]
    torch.testing.assert_close(solution.y[1:], expected[1:])


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # NumPy says so
def test_saturated_tanh() -> None:
    torch.manual_seed(0)
    layer = EAAggregation(4, 4, steps=2)
    with torch.no_grad():
        layer.potential.norm1.weight.mul_(1e30)
    x = torch.randn(9, 4)
    with solve_backend("triton"):
        y = layer(x)
    torch.testing.assert_close(y, layer(x), rtol=1e-3, atol=1e-3)
