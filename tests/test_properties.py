"""Properties over random layouts of segments, sizes and settings."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from pyg_ea import EAAggregation, NesterovSolver
from pyg_ea.segments import Segments
from tests.reference import solve
from tests.test_reference import ForwardOnly

ROUNDING = 1e-11  # float64, a few steps, of the largest entry

# Untrained networks this narrow may be too steep for the step size; equality must hold anyway.
pytestmark = pytest.mark.filterwarnings("ignore::pyg_ea.diagnostics.DivergenceWarning")

quickly = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)


@st.composite
def cases(draw: st.DrawFn) -> tuple[EAAggregation, Tensor, Tensor, int]:
    """A float64 layer, elements and any layout of them: ``(layer, x, index, num_segments)``."""
    num_segments = draw(st.integers(1, 5))
    index = draw(st.lists(st.integers(0, num_segments - 1), max_size=12))
    in_channels, out_channels = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    torch.manual_seed(draw(st.integers(0, 2**16)))
    layer = EAAggregation(
        in_channels,
        out_channels,
        draw(st.sampled_from([4, 32])),
        steps=draw(st.integers(1, 4)),
        solver=NesterovSolver(
            lr=0.05,
            momentum=draw(st.sampled_from([0.3, 0.9])),
            gtol=draw(st.sampled_from([0.0, 1e-3])),
            clip=draw(st.sampled_from([None, 0.2])),
        ),
    ).double()
    x = torch.randn(len(index), in_channels, dtype=torch.float64)
    return layer, x, torch.tensor(index, dtype=torch.long), num_segments


def close(got: Tensor, expected: Tensor) -> None:
    atol = ROUNDING * max([1.0, *expected.detach().abs().flatten().tolist()])
    torch.testing.assert_close(got, expected, rtol=0, atol=atol)


@quickly
@given(cases(), st.randoms(use_true_random=False))
def test_permutation(case, random) -> None:
    layer, x, index, num_segments = case
    order = list(range(len(index)))
    random.shuffle(order)
    out = layer(x, index, dim_size=num_segments)
    close(layer(x[order], index[order], dim_size=num_segments), out)


@quickly
@given(cases())
def test_every_segment_alone(case) -> None:
    layer, x, index, num_segments = case
    out = layer(x, index, dim_size=num_segments)
    for segment in range(num_segments):
        members = x[index == segment]
        close(layer(members, members.new_zeros(len(members)).long(), dim_size=1)[0], out[segment])


@quickly
@given(cases())
def test_closed_form_equals_autograd_equals_reference(case) -> None:
    layer, x, index, num_segments = case
    parameters = dict(layer.named_parameters())
    out, solution = layer(x, index, dim_size=num_segments, return_solution=True)
    norm = solution.path_mean_square
    closed = torch.autograd.grad(out.sum() + norm.sum(), list(parameters.values()))

    expected = solve(
        parameters,
        x,
        index,
        num_segments,
        steps=layer.steps,
        gtol=layer.solver.gtol,
        clip=layer.solver.clip,
    )
    close(out, expected.y)
    close(norm, expected.path_mean_square)

    layer.potential = ForwardOnly(layer.potential)
    out, solution = layer(x, index, dim_size=num_segments, return_solution=True)
    close(out, expected.y)
    by_autograd = torch.autograd.grad(
        out.sum() + solution.path_mean_square.sum(), list(parameters.values())
    )
    for mine, theirs in zip(closed, by_autograd, strict=True):
        close(mine, theirs)


@quickly
@given(st.lists(st.integers(0, 4), max_size=6))
def test_segments_from_ptr_are_those_from_index(sizes) -> None:
    ptr = torch.tensor([0, *sizes]).cumsum(0)
    segments = Segments.from_ptr(ptr, sum(sizes))
    assert segments.num_segments == len(sizes)
    assert segments.count.tolist() == sizes
    values = torch.arange(float(sum(sizes)))[:, None]
    expected = [float(part.sum()) for part in values.split(sizes)] if sizes else []
    assert segments.sum(values)[:, 0].tolist() == expected
    rows = torch.arange(float(len(sizes)))[:, None]
    assert torch.equal(segments.gather(rows), rows.repeat_interleave(torch.tensor(sizes).long(), 0))
