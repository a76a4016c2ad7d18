"""Segment operations against dense ones, to the second derivative."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from pyg_ea.segments import Segments

LAYOUTS = {
    "sorted": ([0, 0, 1, 2, 2], 3),
    "unsorted": ([2, 0, 1, 2, 0], 3),
    "empty-inside": ([0, 2, 2], 3),
    "trailing-empty": ([1, 0], 4),
    "no-element": ([], 2),
}


@pytest.fixture(params=LAYOUTS.values(), ids=LAYOUTS)
def segments(request, device) -> Segments:
    index, num_segments = request.param
    return Segments(torch.tensor(index, dtype=torch.long), num_segments)


def one_hot(segments: Segments) -> torch.Tensor:
    """``[S, N]``, 1 where element n lies in segment s."""
    rows = torch.arange(segments.num_segments)[:, None]
    return (rows == segments.index).double()


def test_operations_equal_dense_products(segments: Segments) -> None:
    torch.manual_seed(0)
    values = torch.randn(len(segments.index), 3, dtype=torch.float64)
    rows = torch.randn(segments.num_segments, 3, dtype=torch.float64)
    torch.testing.assert_close(segments.sum(values), one_hot(segments) @ values)
    torch.testing.assert_close(segments.gather(rows), one_hot(segments).T @ rows)
    assert segments.count.tolist() == one_hot(segments).sum(dim=1).tolist()
    assert segments.sum(values[:, 0]).shape == (segments.num_segments,)


def test_derivatives_to_the_second(segments: Segments) -> None:
    torch.manual_seed(0)
    values = torch.randn(len(segments.index), 2, dtype=torch.float64, requires_grad=True)
    rows = torch.randn(segments.num_segments, 2, dtype=torch.float64, requires_grad=True)

    def nonlinear(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return segments.sum(torch.tanh(values) * segments.gather(rows.square()))

    assert gradcheck(nonlinear, (values, rows))
    assert gradgradcheck(nonlinear, (values, rows))


def test_sums_of_low_precision_are_taken_in_float32() -> None:
    """In bf16, 256 + 1 = 256."""
    segments = Segments(torch.zeros(1000, dtype=torch.long), 1)
    total = segments.sum(torch.ones(1000, 1, dtype=torch.bfloat16))
    assert total.dtype == torch.float32
    assert total.item() == 1000
    assert segments.sum(torch.ones(1000, 1, dtype=torch.float64)).dtype == torch.float64


def test_tiled_segments_are_copies_side_by_side() -> None:
    segments = Segments(torch.tensor([1, 0, 1]), 3).tiled(2)
    assert segments.num_segments == 6
    assert segments.index.tolist() == [1, 0, 1, 4, 3, 4]
