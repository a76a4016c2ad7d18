"""The passes over the elements in C: for CPUs, optional.

The library is built when the package is installed, if there is a C compiler; without it everything
works the same, slower. Matrix products are those of the BLAS library that torch has loaded.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from pyg_ea.potentials.resnet_passes import OUTPUTS, FromSegments, Kept, Passes, Weights

VERSION = 2  # of the functions' signatures, the same as in kernels.c
SWITCH = "PYG_EA_NATIVE"
"""Environment variable: 0 leaves the library unused."""
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
        call = _Call.on(fixed, weights)
        elements = fixed, index.contiguous(), *(kept or (None, None, None))
        call("forth", *from_y, *elements, total, call.memory(9, fixed))
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
        call = _Call.on(fixed, weights)
        shapes = [weight.shape for weight in weights[1:]]
        sizes = [shape.numel() for shape in shapes]
        work = 10 * call.hidden  # more that each thread needs
        sums = fixed.new_zeros(call.threads, sum(sizes) + work)
        elements = fixed, index.contiguous(), *kept
        results = d_fixed, total, sums
        call("back", from_y1, *from_dy, *elements, *results, call.memory(13, fixed))
        *derivatives, _ = sums.sum(dim=0).split([*sizes, work])
        return total, [one.view(shape) for one, shape in zip(derivatives, shapes, strict=True)]


class _Call(NamedTuple):
    """A call of a kernel, and how its work is divided."""

    weights: Weights
    threads: int
    elements: int
    block: int
    chunk: int

    @classmethod
    def on(cls, fixed: Tensor, weights: Weights) -> _Call:
        threads, elements = torch.get_num_threads(), len(fixed)
        block = min(BLOCK, -(-elements // threads))
        return cls(weights, threads, elements, block, min(BLOCKS * BLOCK * threads, elements))

    @property
    def hidden(self) -> int:
        return self.weights.gamma2.shape[0]

    def memory(self, matrices: int, fixed: Tensor) -> Tensor:
        """Of each thread as many ``[block, H]``, one ``[block, 36]``, and for all one chunk."""
        of_thread = self.block * (matrices * self.hidden + OUTPUTS + 4)
        return fixed.new_empty(self.threads * of_thread + self.chunk * fixed.shape[1])

    def __call__(self, name: str, *operands: Tensor | None) -> None:
        """Calls the kernel of that name. ``operands`` are those after the network's."""
        like = self.weights.b
        arguments: list[object] = [ctypes.c_int(self.threads)]
        arguments += map(ctypes.c_int64, (self.elements, self.block, self.chunk))
        arguments += [PRODUCTS[like.dtype], ctypes.c_int64(self.hidden)]
        for operand in (*self.weights[1:], *operands):
            if operand is not None and not operand.is_contiguous():
                raise ValueError(f"{name}: an operand is not laid out as the kernel reads it")
            arguments.append(None if operand is None else ctypes.c_void_p(operand.data_ptr()))
        kernel = getattr(LIBRARY, f"{name}_{DTYPES[like.dtype]}")
        if torch.autograd._profiler_enabled():
            with torch.profiler.record_function(f"pyg_ea::{name}"):
                kernel(*arguments)
        else:
            kernel(*arguments)


DTYPES = {torch.float32: "float32", torch.float64: "float64"}


def _load() -> ctypes.CDLL | None:
    """The library, unless it was not built or is not wanted."""
    spec = importlib.util.find_spec("pyg_ea.potentials.native.kernels")
    if spec is None or spec.origin is None or os.environ.get(SWITCH) == "0":
        return None
    try:
        library = ctypes.CDLL(spec.origin)
        version = library.version()
    except (OSError, AttributeError) as error:
        version = error
    if version == VERSION:
        return library
    warnings.warn(
        f"pyg_ea runs without its C kernels: {spec.origin} does not fit ({version}, expected "
        f"version {VERSION}); install pyg_ea again",
        stacklevel=2,
    )
    return None


def _products() -> dict[torch.dtype, object]:
    """BLAS's matrix products, from the library that torch has loaded; none where it hides them."""
    loaded = ctypes.CDLL(torch._C.__file__)
    names = {torch.float32: "sgemm_", torch.float64: "dgemm_"}
    return {t: getattr(loaded, name) for t, name in names.items() if hasattr(loaded, name)}


LIBRARY = _load()
PRODUCTS = _products()


def passes_for(fixed: Tensor) -> type[Passes]:
    """The fastest there is for elements of its device and dtype."""
    native = LIBRARY is not None and fixed.device.type == "cpu" and fixed.dtype in PRODUCTS
    return NativePasses if native else Passes
