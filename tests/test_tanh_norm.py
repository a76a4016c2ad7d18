"""tanh(LayerNorm(u)) by torch's kernels against plain operations and autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pyg_ea.potentials.tanh_norm import FusedTanhNorm, TanhNorm

SHAPES = [(0, 4), (1, 1), (3, 5), (70, 16), (200, 33), (7, 300)]
DTYPES = [torch.float64, torch.float32]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def apart(rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """A matrix whose rows lie apart."""
    return torch.randn(rows, columns + 3, dtype=dtype)[:, 1 : columns + 1]


def check_close(got: Tensor, expected: Tensor, terms: float = 1.0) -> None:
    """Equal to rounding, of sums whose terms are that large."""
    double = got.dtype == torch.float64
    scale = max(terms, float(expected.abs().max())) if expected.numel() else 1.0
    atol = (1e-11 if double else 3e-5) * scale
    torch.testing.assert_close(got, expected.to(got.dtype), rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_value_and_both_derivatives(shape, dtype):
    rows, columns = shape
    u, out = apart(*shape, dtype), apart(*shape, dtype)
    gamma, beta = torch.randn(2, columns, dtype=dtype)
    d, e = torch.randn(2, *shape, dtype=dtype)
    du = apart(*shape, dtype)

    exact = [t.double().detach().clone().requires_grad_() for t in (u, gamma, beta)]
    d64, e64, du64 = d.double(), e.double(), du.double()
    plain = TanhNorm(*exact)
    _, tangent = torch.func.jvp(lambda v: TanhNorm(v, *exact[1:]).output, (exact[0],), (du64,))
    total = (e64 * plain.output).sum() + (d64 * tangent).sum()
    d_u, d_gamma, d_beta = torch.autograd.grad(total, exact)

    fast = FusedTanhNorm.at(u, gamma, beta)
    # 1 / sigma is 316 in a row of one value, where all derivatives in u cancel to zero.
    terms = max(1.0, float(plain.inv_std.detach().max())) if rows else 1.0
    check_close(fast.output, plain.output.detach())
    fast.pull(d, out=out)
    check_close(out, plain(d64).detach(), terms)
    check_close(fast.push(du), tangent.detach(), terms)
    got_gamma, got_beta = fast.pull_both(e.clone(), d, out)
    for one, other in ((out, d_u), (got_gamma, d_gamma), (got_beta, d_beta)):
        check_close(one, other, terms)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_stays_in_its_row_and_is_seen(bad):
    u = torch.randn(3, 40)
    u[1, 7] = bad
    output = FusedTanhNorm.at(u, torch.ones(40), torch.zeros(40)).output
    assert output[1].isnan().all()
    assert output[[0, 2]].isfinite().all()
