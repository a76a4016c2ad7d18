"""The passes over the elements in C (``pyg_ea/native/passes.h``)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyg_ea.native import PRODUCTS, call, serves
from pyg_ea.potentials.resnet_passes import OUTPUTS, FromSegments, Kept, Passes, Weights

BLOCK = 128  # elements that one thread takes through the network at a time
BLOCKS = 4  # of each thread, before their sums over segments


class NativePasses(Passes):
    """The same in C; see there. Columns are summed over segments, and weights over elements, in an
    order that depends on the number of threads alone.
    """

    @staticmethod
    def forth(
        from_y: FromSegments, fixed: Tensor, index: Tensor, weights: Weights, kept: Kept | None
    ) -> Tensor:
        """See :meth:`Passes.forth`."""
        total = fixed.new_zeros(len(from_y.of_u1), fixed.shape[1])
        work = _Work.on(fixed, weights)
        elements = fixed, index.contiguous(), *(kept or (None, None, None))
        work.call("forth", *from_y, *elements, total, work.memory(9, fixed))
        return total

    @staticmethod
    def back(
        from_y1: Tensor,
        from_dy: FromSegments,
        fixed: Tensor,
        index: Tensor,
        weights: Weights,
        kept: Kept,
        d_fixed: Tensor,
    ) -> tuple[Tensor, list[Tensor]]:
        """See :meth:`Passes.back`."""
        total = fixed.new_zeros(len(from_y1), fixed.shape[1])
        work = _Work.on(fixed, weights)
        shapes = [weight.shape for weight in weights[1:]]
        sizes = [shape.numel() for shape in shapes]
        spare = 8 * work.hidden  # more that each thread needs
        sums = fixed.new_zeros(work.threads, sum(sizes) + spare)
        elements = fixed, index.contiguous(), *kept
        results = d_fixed, total, sums
        work.call("back", from_y1, *from_dy, *elements, *results, work.memory(13, fixed))
        *derivatives, _ = sums.sum(dim=0).split([*sizes, spare])
        return total, [one.view(shape) for one, shape in zip(derivatives, shapes, strict=True)]


class _Work(NamedTuple):
    """What the kernels are called with, and how their work is divided."""

    weights: Weights
    threads: int
    elements: int
    block: int
    chunk: int

    @classmethod
    def on(cls, fixed: Tensor, weights: Weights) -> _Work:
        threads, elements = torch.get_num_threads(), len(fixed)
        block = min(BLOCK, -(-elements // threads))
        return cls(weights, threads, elements, block, min(BLOCKS * BLOCK * threads, elements))

    @property
    def hidden(self) -> int:
        return self.weights.gamma2.shape[0]

    def memory(self, matrices: int, fixed: Tensor) -> Tensor:
        """Of each thread as many ``[block, H]``, one ``[block, 40]``, and for all one chunk."""
        of_thread = self.block * (matrices * self.hidden + OUTPUTS + 8)
        return fixed.new_empty(self.threads * of_thread + self.chunk * fixed.shape[1])

    def call(self, name: str, *operands: Tensor | None) -> None:
        """Calls the kernel of that name. ``operands`` are those after the network's."""
        dtype = self.weights.b.dtype
        division = self.threads, self.elements, self.block, self.chunk
        network = PRODUCTS[dtype], self.hidden, *self.weights[1:]
        call(name, dtype, *division, *network, *operands)


def passes_for(fixed: Tensor) -> type[Passes]:
    """The fastest there is for elements of its device and dtype."""
    served = serves(fixed) and fixed.dtype in PRODUCTS
    return NativePasses if served else Passes
