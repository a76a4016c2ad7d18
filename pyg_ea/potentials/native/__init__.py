"""``tanh(LayerNorm(u))`` with its derivatives in C, a pass over memory each: for CPUs, optional.

The library is built when the package is installed, if there is a C compiler; without it everything
works the same, slower.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyg_ea.potentials.tanh_norm import FusedTanhNorm

VERSION = 1  # of the functions' signatures, the same as in kernels.c
SWITCH = "PYG_EA_NATIVE"
"""Environment variable: 0 leaves the library unused."""


class NativeTanhNorm(FusedTanhNorm):
    """The same in C; see there. Rows of what it is given may lie apart."""

    @classmethod
    def at(
        cls, u: Tensor, gamma: Tensor, beta: Tensor, scratch: Tensor | None = None
    ) -> NativeTanhNorm:
        """See :meth:`FusedTanhNorm.at`."""
        output = u.new_empty(u.shape) if scratch is None else scratch
        mean, inv_std = u.new_empty(2, u.shape[0], 1)
        stage = cls(u, gamma.contiguous(), beta.contiguous(), output, mean, inv_std)
        _call("at", u, [Rows(u), stage.gamma, stage.beta, output, mean, inv_std])
        return stage

    def pull(self, d: Tensor, out: Tensor) -> None:
        """See :meth:`FusedTanhNorm.pull`."""
        _call("pull", self.u, [*self._point, d, Rows(out)])

    def push(
        self, du: Tensor, index: Tensor | None = None, scratch: Tensor | None = None
    ) -> Tensor:
        """See :meth:`FusedTanhNorm.push`."""
        self.tangent = Rows(du), index
        out = torch.empty_like(self.output) if scratch is None else scratch
        _call("push", self.u, [*self._point, *self.tangent, out])
        return out

    def pull_both(self, e: Tensor, d: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`FusedTanhNorm.pull_both`."""
        # Of each thread two sums and five rows to work with.
        sums = self.u.new_zeros(torch.get_num_threads(), 7, self.u.shape[1])
        operands = [*self._point, *self.tangent, e, d, Rows(out), sums]
        _call("pull_both", self.u, operands)
        d_gamma, d_beta = sums[:, :2].sum(dim=0)
        return d_gamma, d_beta

    @property
    def _point(self) -> list[Tensor | Rows]:
        return [Rows(self.u), self.gamma, self.output, self.mean, self.inv_std]


class Rows(NamedTuple):
    """A matrix whose rows may lie apart; what is not wrapped in this is contiguous."""

    matrix: Tensor


def gather_add(rows: Tensor, index: Tensor, other: Tensor, out: Tensor) -> Tensor:
    """``rows[index] + other`` in ``out``: ``[S, D], [N], [N, D] -> [N, D]``."""
    if tanh_norm_for(rows) is NativeTanhNorm:
        _call("gather_add", other, [rows, index, Rows(other), out])
        return out
    return torch.index_select(rows, 0, index, out=out).add_(other)


def _call(name: str, like: Tensor, operands: Sequence[Tensor | Rows | None]) -> None:
    """Calls a kernel for matrices of the shape of ``like [N, D]``."""
    arguments: list[object] = [ctypes.c_int(torch.get_num_threads())]
    arguments += map(ctypes.c_int64, like.shape)
    for operand in operands:
        match operand:
            case None:
                arguments.append(None)
            case Rows(matrix) if matrix.stride(1) == 1:
                arguments += [ctypes.c_void_p(matrix.data_ptr()), ctypes.c_int64(matrix.stride(0))]
            case Tensor() if operand.is_contiguous():
                arguments.append(ctypes.c_void_p(operand.data_ptr()))
            case _:
                raise ValueError(f"{name}: an operand is not laid out as the kernel reads it")
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


LIBRARY = _load()


def tanh_norm_for(tensor: Tensor) -> type[FusedTanhNorm]:
    """The fastest class there is for tensors of its device and dtype."""
    native = LIBRARY is not None and tensor.device.type == "cpu" and tensor.dtype in DTYPES
    return NativeTanhNorm if native else FusedTanhNorm
