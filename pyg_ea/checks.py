"""Checks of what users pass in, each with a message that says what to do."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pyg_ea.segments import Segments
from pyg_ea.tensors import autocasts, is_concrete


def positive_integer(name: str, value: Any) -> int:
    """``value`` as an ``int``, if it is an integer of at least 1, of Python, NumPy or torch.

    Raises:
        TypeError: for anything but an integer.
        ValueError: for one below 1.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if number < 1:
        raise ValueError(f"{name} must be at least 1, got {number}")
    return number


def check_function(name: str, value: Any, expected: str) -> None:
    """Refuses what cannot be called, and classes in the place of their instances.

    Raises:
        TypeError: for such a value.
    """
    if isinstance(value, type):
        raise TypeError(f"{name} must be {expected}, got the class {value.__name__}")
    if not callable(value):
        raise TypeError(f"{name} must be {expected}, got {value!r}")


def one_each(name: str, value: Any, size: int, of: str) -> Tensor:
    """What the user's function ``name`` returned, if it is one number for each of ``size``.

    Raises:
        ValueError: for another shape, or no tensor.
    """
    if isinstance(value, Tensor) and value.shape == (size,):
        return value
    got = f"shape {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
    raise ValueError(
        f"the {name} returned {got} for {size} {of}s, expected [{size}]: one number for each {of}"
    )


def check_method(name: str, value: Any, method: str, expected: str) -> None:
    """Refuses objects without a method, and classes in the place of their instances.

    Raises:
        TypeError: for such a value.
    """
    if isinstance(value, type) or not callable(getattr(value, method, None)):
        raise TypeError(f"{name} must be {expected}, got {value!r}")


def make_norm(norm: Callable[[int], nn.Module], size: int) -> nn.Module:
    """The norm that ``norm`` makes for vectors of a size.

    Raises:
        TypeError: if ``norm`` does not make a module from a size.
    """
    if callable(norm) and not isinstance(norm, nn.Module):
        made = norm(size)
        if isinstance(made, nn.Module):
            return made
    raise TypeError(
        f"norm must make a module from a size, such as torch.nn.LayerNorm itself, got {norm!r}"
    )


def apply_norm(norm: nn.Module, y: Tensor) -> Tensor:
    """``norm`` of the vectors ``y [*, D]``, given as rows: a BatchNorm takes dimension 1 as D."""
    return norm(y.flatten(0, -2)).unflatten(0, y.shape[:-1])


def check_validate(validate: Any) -> bool | None:
    """``validate`` if it is True, False or None.

    Raises:
        TypeError: for another value.
    """
    if validate not in (None, True, False):
        raise TypeError(f"validate must be True, False or None, got {validate!r}")
    return validate


def pass_on_validate(module: nn.Module, validate: bool | None) -> None:
    """Sets ``validate`` of all aggregations inside ``module`` that leave it open."""
    for part in module.modules():
        if validate is not None and getattr(part, "validate", ...) is None:
            part.validate = validate  # type: ignore[assignment]


def reads_values(validate: bool | None, tensor: Tensor) -> bool:
    """Whether checks of ``tensor`` may read its values.

    ``validate`` is the policy of a layer: always (True), never (False), or on a CPU only (None),
    since on a GPU every check makes the host wait. Never where there are no values to read.
    """
    wanted = tensor.device.type == "cpu" if validate is None else validate
    return wanted and is_concrete(tensor)


def refuse_tracing(what: str) -> None:
    """Refuses ``torch.jit.trace`` and what is built on it, which would freeze sizes and steps.

    Raises:
        RuntimeError: while tracing.
    """
    if torch.jit.is_tracing():
        raise RuntimeError(
            f"{what} does not support torch.jit.trace (nor add_graph and the old ONNX exporter, "
            "which use it): use torch.export, torch.compile or torch.onnx.export(dynamo=True)"
        )


def as_plain_tensor(name: str, value: Tensor) -> Tensor:
    """``value`` without the wrapper that PyG's ``Index`` and ``EdgeIndex`` are.

    Raises:
        TypeError: for anything but a tensor.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    return value.as_tensor() if hasattr(value, "as_tensor") else value


def check_elements(
    x: Tensor,
    dim: int,
    channels: int,
    potential: Callable[[Tensor, Tensor], Tensor],
    validate: bool | None = None,
) -> None:
    """Refuses elements that ``channels`` or ``potential`` cannot take, or that are not finite.

    Raises:
        TypeError: for a wrong dtype.
        ValueError: for a wrong shape, layout or device, NaN or infinity.
    """
    if not x.is_floating_point():
        raise TypeError(f"x must be a floating-point tensor, got {x.dtype}; call x.float()")
    if x.layout != torch.strided:
        raise ValueError(f"x must be a dense tensor, got {x.layout}; call x.to_dense()")
    if x.dim() < 2 or dim % x.dim() == x.dim() - 1:
        raise ValueError(
            f"x must have at least two dimensions, the last holding the channels, and dim={dim} "
            f"another one; got shape {list(x.shape)}"
        )
    if x.shape[-1] != channels:
        raise ValueError(
            f"x has {x.shape[-1]} channels (shape {list(x.shape)}), expected in_channels={channels}"
        )
    weight = x
    for parameter in potential.parameters() if isinstance(potential, nn.Module) else ():
        weight = parameter
        break
    if weight.device != x.device:
        raise ValueError(
            f"x lies on {x.device} but the layer's weights on {weight.device}: call "
            f"x.to({str(weight.device)!r})"
        )
    if weight.dtype != x.dtype and not autocasts(x):
        raise TypeError(
            f"x is {x.dtype} but the layer's weights are {weight.dtype}: convert one of them, "
            f"x.to({weight.dtype}) or layer.to({x.dtype}), or use torch.autocast"
        )
    # the sum is finite if all are, short of an overflow, and a fraction of the cost
    if reads_values(validate, x) and not math.isfinite(x.detach().sum()):
        bad = int((~x.isfinite()).sum())
        if bad:
            raise ValueError(f"x holds {bad} values that are NaN or infinite; clean it first")


def checked_segments(
    size: int,
    index: Tensor | None,
    ptr: Tensor | None,
    dim_size: int | None,
    device: torch.device,
    validate: bool | None = None,
) -> Segments:
    """The segments that PyG's ``index``, ``ptr`` and ``dim_size`` describe, once they make sense.

    Raises:
        TypeError: for a wrong dtype.
        ValueError: for a wrong shape or range, or an index and ptr that contradict each other.
    """
    if ptr is not None:
        ptr = as_plain_tensor("ptr", ptr)
        _check_vector("ptr", ptr, device)
        _check_ptr(ptr, size, reads_values(validate, ptr))
        segments = Segments.from_ptr(ptr, size)
        if index is not None and reads_values(validate, ptr):
            index = as_plain_tensor("index", index)
            if index.shape != (size,) or not bool((index == segments.index).all()):
                raise ValueError("index and ptr contradict each other; pass one of them")
        return segments
    if index is None:
        index = torch.zeros(size, dtype=torch.long, device=device)
        dim_size = 1 if dim_size is None else dim_size
    index = as_plain_tensor("index", index)
    _check_vector("index", index, device)
    if index.shape != (size,):
        raise ValueError(
            f"index must have one entry for each of the {size} elements, shape [{size}], "
            f"got {list(index.shape)}"
        )
    if dim_size is None:
        dim_size = int(index.max()) + 1 if size else 0
    if dim_size < 0:
        raise ValueError(f"dim_size, the number of segments, must be 0 or more, got {dim_size}")
    if size and reads_values(validate, index):
        low, high = (int(v) for v in index.aminmax())
        if low < 0:
            raise ValueError(f"index must be 0 or more, got {low}")
        if high >= dim_size:
            raise ValueError(
                f"invalid 'dim_size' (got {dim_size} but expected at least {high + 1}, one more "
                "than the largest index)"
            )
    return Segments(index, dim_size)


def _check_vector(name: str, vector: Tensor, device: torch.device) -> None:
    if vector.dtype != torch.long:
        raise TypeError(f"{name} must be int64, got {vector.dtype}; call {name}.long()")
    if vector.layout != torch.strided:
        raise ValueError(f"{name} must be a dense tensor, got {vector.layout}")
    if vector.device != device:
        raise ValueError(
            f"{name} lies on {vector.device} but x on {device}: call {name}.to({str(device)!r})"
        )


def _check_ptr(ptr: Tensor, size: int, read: bool) -> None:
    if ptr.dim() != 1 or not ptr.numel():
        raise ValueError(f"ptr must be a vector of S + 1 boundaries, got shape {list(ptr.shape)}")
    if read and (ptr[0] != 0 or ptr[-1] != size or bool((ptr[1:] < ptr[:-1]).any())):
        raise ValueError(
            f"ptr must rise from 0 to the number of elements, {size}, got {ptr.tolist()[:8]}"
            + ("..." if ptr.numel() > 8 else "")
        )
