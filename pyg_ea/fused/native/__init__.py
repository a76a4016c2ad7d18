"""Backend of the fused solve in C, for CPUs; optional.

The library is built at installation where there is a C compiler. Without it the fused solve runs in
torch operations: the same results, slower. Matrix products run in the BLAS library that torch
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

from pyg_ea.fused.problem import Inputs, Problem, Scalars, Settings
from pyg_ea.potentials.closed_form import OUTPUTS, Weights
from pyg_ea.solver import DIFFERENTIABLE, Solution
from pyg_ea.tensors import is_concrete

FILE = Path(__file__).with_name("kernels.so.0")  # named in hatch_build.py
VERSION = 8  # of the functions' signatures, the same as in kernels.c
SWITCH = "PYG_EA_NATIVE"
"""Environment variable: 0 leaves the library unused."""
DTYPES = {torch.float32: "float32", torch.float64: "float64"}
STATUS = {
    1: (MemoryError, "no memory left for the scratch space of a solve"),
    2: (ValueError, "sizes of a solve are out of range"),
    3: (ValueError, "the boundaries of segments do not rise from 0 to the number of elements"),
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


RESULTS = [name for name in Solution._fields if name != "occupied"]


class _Problem(ctypes.Structure):
    """``Problem`` of kernels.c."""

    _fields_ = (
        *((name, Int) for name in ("threads", "segments", "elements", "channels", "hidden")),
        *((name, Int) for name in ("steps", "saved_steps", "interval")),
        *((name, Real) for name in ("gtol", "clip", "lr", "momentum", "prior_weight")),
        *((name, Pointer) for name in ("ptr", "gemm", "blas_threads", "fixed", "scale", "start")),
        *((name, Pointer) for name in ("a_y", "b", "w3", "gamma1", "beta1", "gamma2", "beta2")),
    )


class _Result(ctypes.Structure):
    """``Result`` of kernels.c."""

    _fields_ = tuple((name, Pointer) for name in RESULTS)


class _Cotangent(ctypes.Structure):
    """``Cotangent`` of kernels.c."""

    _fields_ = tuple((name, Pointer) for name in DIFFERENTIABLE)


class _Gradient(ctypes.Structure):
    """``Gradient`` of kernels.c."""

    _fields_ = tuple((name, Pointer) for name in ("start", "fixed", "weights", "scalars"))


class NativeBackend:
    """Backend in C."""

    name = "native"

    def unsupported(self, problem: Problem) -> str | None:
        """Why the C code does not take these tensors; None if it does."""
        start, fixed = problem.inputs.start, problem.inputs.fixed
        if LIBRARY is None:
            return f"the C code was not built at installation, or is switched off by {SWITCH}=0"
        if PRODUCTS.get(start.dtype, 0) == 0:
            return f"torch has no BLAS library with matrix products of {start.dtype}"
        if fixed.dtype != start.dtype:
            return f"products run in {fixed.dtype} (autocast), and the C code has {start.dtype}"
        if not fixed.is_cpu:
            return f"the tensors lie on {fixed.device}, and the C code is for a CPU"
        if not is_concrete(start, fixed):  # a call refuses the others
            return "the tensors have no values in memory"
        return None

    def forward(
        self, problem: Problem, settings: Settings, save: bool
    ) -> tuple[Solution, list[Tensor]]:
        """The solution, and the values saved for backward if ``save``."""
        call = _Call(problem, settings)
        start = problem.inputs.start
        size = len(start)
        y, velocity = start.new_empty(start.shape), start.new_empty(start.shape)
        statistics, flags = start.new_empty(4, size), start.new_empty(2, size, dtype=torch.bool)
        steps = start.new_empty(size, dtype=torch.long)
        occupied = start.new_ones(size, dtype=torch.bool)
        solution = Solution._make([y, velocity, *statistics, steps, *flags, occupied])
        saved = [start.new_empty(call.saved_size())] if save else []
        results = (getattr(solution, name) for name in RESULTS)
        call("solve_forward", _Result(*map(_address, results)), saved[0] if save else None)
        return solution, saved

    def backward(
        self,
        problem: Problem,
        settings: Settings,
        saved: Sequence[Tensor],
        cotangents: Sequence[Tensor],
    ) -> Inputs:
        """Gradients for the cotangents of y, velocity and both mean squares."""
        call = _Call(problem, settings)
        start, fixed = problem.inputs.start, problem.inputs.fixed
        segments = start.shape[:1]
        shapes = [start.shape, start.shape, segments, segments]
        given = [
            _checked(cotangent.resolve_neg().contiguous(), start.dtype, shape)
            for cotangent, shape in zip(cotangents, shapes, strict=True)
        ]
        of_start, of_fixed = start.new_empty(start.shape), fixed.new_empty(fixed.shape)
        sizes = [weight.shape for weight in problem.inputs.weights]
        of_weights = start.new_empty(sum(size.numel() for size in sizes))
        of_scalars = start.new_empty(len(Scalars._fields), dtype=torch.float64)
        results = _Gradient(*map(_address, (of_start, of_fixed, of_weights, of_scalars)))
        call("solve_backward", _Cotangent(*map(_address, given)), results, saved[0])
        parts = of_weights.split([size.numel() for size in sizes])
        weights = (part.view(size) for part, size in zip(parts, sizes, strict=True))
        scalars = Scalars(*of_scalars.to(start.dtype))
        return Inputs(of_start, scalars, of_fixed, Weights(*weights))


class _Call:
    """A checked problem as the C code reads it; keeps what it points to alive."""

    def __init__(self, problem: Problem, settings: Settings) -> None:
        assert LIBRARY is not None
        start, scalars, fixed, weights = problem.inputs
        assert problem.segments.ptr is not None
        self.functions, self.dtype = LIBRARY, start.dtype
        (segments, channels), elements, hidden = start.shape, len(fixed), len(weights.gamma2)
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
        operands = {"start": start, "fixed": fixed, "scale": problem.scale, **weights._asdict()}
        self.operands = {
            name: _checked(operands[name].resolve_neg().contiguous(), self.dtype, shape)
            for name, shape in shapes.items()
        }
        ptr = problem.segments.ptr.contiguous()
        self.operands["ptr"] = _checked(ptr, torch.long, (segments + 1,))
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
            **{name: float(scalar) for name, scalar in scalars._asdict().items()},
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
