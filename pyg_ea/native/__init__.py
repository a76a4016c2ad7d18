"""What is in C: for CPUs, optional.

The library is built when the package is installed, if there is a C compiler; without it everything
works the same, slower. Matrix products are those of the BLAS library that torch has loaded.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import warnings

import torch
from torch import Tensor

VERSION = 4  # of the functions' signatures, the same as in kernels.c
SWITCH = "PYG_EA_NATIVE"
"""Environment variable: 0 leaves the library unused."""
DTYPES = {torch.float32: "float32", torch.float64: "float64"}


def _load() -> ctypes.CDLL | None:
    """The library, unless it was not built or is not wanted."""
    spec = importlib.util.find_spec("pyg_ea.native.kernels")
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


def serves(*tensors: Tensor) -> bool:
    """Whether there is code in C for tensors of their device and of their one dtype."""
    dtype = tensors[0].dtype
    return (
        LIBRARY is not None
        and dtype in DTYPES
        and all(tensor.device.type == "cpu" and tensor.dtype == dtype for tensor in tensors)
    )


def call(name: str, dtype: torch.dtype, *arguments: Tensor | int | float | object | None) -> None:
    """Calls the kernel of that name for ``dtype``, without the interpreter's lock.

    Tensors go over as pointers to contiguous memory, an int as int64, a float as double, None as
    NULL, anything else as it is.
    """
    kernel = getattr(LIBRARY, f"{name}_{DTYPES[dtype]}")
    operands = [_operand(name, argument) for argument in arguments]
    if torch.autograd._profiler_enabled():
        with torch.profiler.record_function(f"pyg_ea::{name}"):
            kernel(*operands)
    else:
        kernel(*operands)


def _operand(name: str, argument: Tensor | int | float | object | None) -> object:
    if isinstance(argument, Tensor):
        if not argument.is_contiguous():
            raise ValueError(f"{name}: an operand is not laid out as the kernel reads it")
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, int):
        return ctypes.c_int64(argument)
    return ctypes.c_double(argument) if isinstance(argument, float) else argument
