"""Segments: how N elements are grouped into S sets, and reductions over them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyg_ea.tensors import in_transform, is_concrete, state_dtype


@dataclass(frozen=True)
class Segments:
    r"""A partition of ``N`` elements into ``num_segments`` sets.

    Segments may be empty and ``index`` need not be sorted. Both operations, and their derivatives
    of every order, use native PyTorch ops only: sorted CSR kernels compute a wrong second
    derivative, and training differentiates through an inner gradient.

    Args:
        index: segment of each element, int64 in ``[0, num_segments)``.
        num_segments: number of segments :math:`S`, trailing empty ones included.
        ptr: boundaries, if the elements are sorted by segment and this is known: segment ``s``
            holds elements ``ptr[s]:ptr[s+1]``. See :meth:`sort`.

    Shapes:
        - **index:** :math:`(N)`
        - **ptr:** :math:`(S + 1)`
    """

    index: Tensor
    num_segments: int
    ptr: Tensor | None = None

    @classmethod
    def from_ptr(cls, ptr: Tensor, num_elements: int) -> Segments:
        """Segments from their boundaries ``ptr``, as in the CSR format."""
        num_segments = ptr.numel() - 1
        index = torch.repeat_interleave(
            torch.arange(num_segments, device=ptr.device),
            ptr[1:] - ptr[:-1],
            output_size=num_elements,
        )
        return cls(index, num_segments, ptr)

    def tiled(self, copies: int) -> Segments:
        """The segments of ``copies`` equal batches laid one after the other."""
        if copies == 1:
            return self
        offset = torch.arange(copies, device=self.index.device) * self.num_segments
        index = (offset[:, None] + self.index).reshape(-1)
        return Segments(index, copies * self.num_segments)

    @property
    def count(self) -> Tensor:
        """Number of elements of each segment, int64 ``[S]``."""
        ones = torch.ones_like(self.index)
        return ones.new_zeros(self.num_segments).index_add(0, self.index, ones)

    def sort(self, x: Tensor) -> tuple[Tensor, Segments]:
        """Elements ``x [N, D]`` sorted by segment (stable), and their segments with ``ptr``.

        Elements of a single segment, and on a CPU those that are sorted already, are not moved. A
        GPU sorts several segments again, since a look at ``index`` would make the host wait. Under
        ``torch.compile`` and ``torch.func``, where ``ptr`` is not used, nothing is sorted.
        """
        if self.ptr is not None or torch.compiler.is_compiling() or in_transform():
            return x, self
        index, size = self.index, self.num_segments
        ptr = index.new_zeros(size + 1)
        torch.cumsum(self.count, 0, out=ptr[1:])
        can_look = index.is_cpu and is_concrete(index)
        if size == 1 or (can_look and not (index[1:] < index[:-1]).any()):
            return x, Segments(index, size, ptr)
        order = torch.argsort(index, stable=True)
        return x.index_select(0, order), Segments(index.index_select(0, order), size, ptr)

    def gather(self, values: Tensor) -> Tensor:
        """Each element's row of its segment: ``[S, D] -> [N, D]``."""
        return values.index_select(0, self.index)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over each segment, 0 where it is empty: ``[N, ...] -> [S, ...]``.

        Accumulates in float32 or wider, which is also the dtype of the result.
        """
        values = values.to(state_dtype(values.dtype))
        total = values.new_zeros(self.num_segments, *values.shape[1:])
        return total.index_add(0, self.index, values)
