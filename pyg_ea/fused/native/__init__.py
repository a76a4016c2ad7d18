"""Backend of the fused solve in C, for CPUs; optional.

The library is built at installation where there is a C compiler. Without it the fused solve runs in
torch operations: the same results, slower. Matrix products are those of the BLAS library that torch
has loaded.
"""

from __future__ import annotations

import ctypes
import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pyg_ea.fused.problem import Problem, Settings
from pyg_ea.potentials.resnet import OUTPUTS
from pyg_ea.solver import Solution
from pyg_ea.tensors import is_concrete

FILE = Path(__file__).with_name("kernels.so.0")  # named in hatch_build.py
VERSION = 7  # of the functions' signatures, the same as in kernels.c
SWITCH = "PYG_EA_NATIVE"
"""Environment variable: 0 leaves the library unused."""
DTYPES = {torch.float32: "float32", torch.float64: "float64"}
STATUS = {
    1: (MemoryError, "no memory left for the scratch space of a solve"),
    2: (ValueError, "sizes of a solve are out of range"),
    3: (ValueError, "the index of a solve lies outside its number of segments"),
}
Int, Real, Pointer = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p


def _load() -> ctypes.CDLL | None:
    """The library, unless it was not built or is switched off."""
    if not FILE.exists() or os.environ.get(SWITCH) == "0":
        return None
    try:
        library = ctypes.CDLL(str(FILE))
        version = library.version()
    except (OSError, AttributeError) as error:
        version = error
    if version == VERSION:
        library.saved_size_float32.restype = library.saved_size_float64.restype = Int
        return library
    warnings.warn(
        f"pyg_ea runs without its C code: {FILE} does not fit ({version}, expected "
        f"version {VERSION}); install pyg_ea again",
        stacklevel=2,
    )
    return None


def _blas(name: str) -> int:
    """Address of a function of the BLAS library that torch has loaded, 0 where it has none."""
    function = getattr(ctypes.CDLL(torch._C.__file__), name, None)
    return 0 if function is None else ctypes.cast(function, Pointer).value or 0


LIBRARY = _load()
PRODUCTS = {torch.float32: _blas("sgemm_"), torch.float64: _blas("dgemm_")}
BLAS_THREADS = _blas("MKL_Set_Num_Threads_Local")


class _Problem(ctypes.Structure):
    """``Problem`` of kernels.c."""

    _fields_ = (
        *((name, Int) for name in ("threads", "segments", "elements", "channels", "hidden")),
        *((name, Int) for name in ("steps", "saved_steps", "interval")),
        *((name, Real) for name in ("gtol", "clip", "lr", "momentum", "decay")),
        *((name, Pointer) for name in ("index", "gemm", "blas_threads", "fixed", "scale", "start")),
        *((name, Pointer) for name in ("a_y", "b", "w3", "gamma1", "beta1", "gamma2", "beta2")),
    )


class _Result(ctypes.Structure):
    """``Result`` of kernels.c: pointers to what a solve computes of a solution, in its order."""

    _fields_ = tuple((name, Pointer) for name in Solution._fields[:9])


class _Cotangent(ctypes.Structure):
    """``Cotangent`` of kernels.c."""

    _fields_ = tuple((name, Pointer) for name in Solution._fields[:4])


class _Gradient(ctypes.Structure):
    """``Gradient`` of kernels.c."""

    _fields_ = tuple((name, Pointer) for name in ("start", "fixed", "weights", "scalars"))


def is_supported(problem: Problem) -> bool:
    """Whether the C code takes these tensors: on a CPU, in memory, float32 or float64."""
    dtype = problem.start.dtype
    return (
        LIBRARY is not None
        and PRODUCTS.get(dtype, 0) != 0
        and all(tensor.is_cpu for tensor in problem)
        and is_concrete(*problem)
    )


class NativeSolve:
    """Backend of the fused solve in C."""

    def forward(
        self, problem: Problem, settings: Settings, save: bool
    ) -> tuple[Solution, list[Tensor]]:
        """The solution, and what backward needs of it, if ``save``."""
        call = _Call(problem, settings)
        segments, channels = problem.start.shape
        y, momentum = (problem.start.new_empty(segments, channels) for _ in range(2))
        stats = problem.start.new_empty(4, segments)
        steps = torch.empty(segments, dtype=torch.long)
        flags = torch.empty(2, segments, dtype=torch.bool)
        occupied = torch.ones(segments, dtype=torch.bool)
        solution = Solution._make([y, momentum, *stats, steps, *flags, occupied])
        saved = None
        if save:
            saved = problem.start.new_empty(call.saved_size())
        call("solve_forward", _Result(*map(_address, solution[:9])), saved)
        return solution, [] if saved is None else [saved]

    def backward(
        self,
        problem: Problem,
        settings: Settings,
        saved: Sequence[Tensor],
        cotangents: Sequence[Tensor],
    ) -> Problem:
        """Gradients for the cotangents of y, momentum and both mean squares."""
        call = _Call(problem, settings)
        segments, channels = problem.start.shape
        shapes = [(segments, channels), (segments, channels), (segments,), (segments,)]
        given = [
            _checked(cotangent.contiguous(), problem.start.dtype, shape)
            for cotangent, shape in zip(cotangents, shapes, strict=True)
        ]
        start = problem.start.new_empty(shapes[0])
        fixed = problem.fixed.new_empty(problem.fixed.shape)
        sizes = [weight.shape for weight in problem.weights]
        weights = problem.start.new_empty(sum(size.numel() for size in sizes))
        scalars = torch.empty(3, dtype=torch.float64)
        results = _Gradient(*map(_address, (start, fixed, weights, scalars)))
        call("solve_backward", _Cotangent(*map(_address, given)), results, saved[0])
        parts = weights.split([size.numel() for size in sizes])
        of_weights = (part.view(size) for part, size in zip(parts, sizes, strict=True))
        return Problem._make([start, *scalars.to(start.dtype), fixed, *of_weights, None, None])


class _Call:
    """A checked problem as the C code reads it; keeps what it points to alive."""

    def __init__(self, problem: Problem, settings: Settings) -> None:
        assert LIBRARY is not None
        self.functions, self.dtype = LIBRARY, problem.start.dtype
        segments, channels = problem.start.shape
        elements, hidden = len(problem.fixed), len(problem.gamma2)
        wide, tail = 2 * hidden, hidden + OUTPUTS
        shapes = {
            "fixed": (elements, wide + tail),
            "scale": (segments,),
            "start": (segments, channels),
            "a_y": (wide + tail, channels),
            "b": (tail, wide),
            "w3": (OUTPUTS, hidden),
            **dict.fromkeys(("gamma1", "beta1"), (wide,)),
            **dict.fromkeys(("gamma2", "beta2"), (hidden,)),
        }
        self.operands = {
            name: _checked(getattr(problem, name).contiguous(), self.dtype, shape)
            for name, shape in shapes.items()
        }
        self.operands["index"] = _checked(
            problem.segment_index.contiguous(), torch.long, (elements,)
        )
        interval = math.isqrt(settings.steps - 1) + 1 if settings.recompute else 0
        self.problem = _Problem(
            threads=torch.get_num_threads(),
            segments=segments,
            elements=elements,
            channels=channels,
            hidden=hidden,
            steps=settings.steps,
            saved_steps=settings.last,
            interval=interval,
            gtol=settings.gtol,
            clip=settings.clip or 0.0,
            lr=float(problem.lr),
            momentum=float(problem.momentum),
            decay=float(problem.decay),
            gemm=PRODUCTS[self.dtype],
            blas_threads=BLAS_THREADS,
            **{name: _address(tensor) for name, tensor in self.operands.items()},
        )

    def saved_size(self) -> int:
        """Number of values that forward saves for backward."""
        size = getattr(self.functions, f"saved_size_{DTYPES[self.dtype]}")
        return size(ctypes.byref(self.problem))

    def __call__(self, name: str, *operands: ctypes.Structure | Tensor | None) -> None:
        """Calls the function of that name for the dtype, without the interpreter's lock."""
        function = getattr(self.functions, f"{name}_{DTYPES[self.dtype]}")
        pointers = [
            Pointer(_address(operand))
            if isinstance(operand, Tensor)
            else operand and ctypes.byref(operand)
            for operand in operands
        ]
        status = function(ctypes.byref(self.problem), *pointers)
        if status:
            error, message = STATUS[status]
            raise error(message)


def _checked(tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """The tensor, if the C code can read it as a matrix of that dtype and shape."""
    fits = tensor.dtype == dtype and tensor.shape == shape and tensor.is_contiguous()
    in_memory = tensor.is_cpu and (tensor.data_ptr() != 0 or not tensor.numel())
    if not (fits and in_memory):
        raise ValueError(
            f"a solve in C needs a contiguous CPU tensor {dtype} of shape {list(shape)}, got "
            f"{type(tensor).__name__} {tensor.dtype} of shape {list(tensor.shape)}"
        )
    return tensor


def _address(tensor: Tensor) -> int:
    return tensor.data_ptr()
