"""Checks of what users pass in, each with a message that says what to do."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyg_ea.segments import Segments


def positive_integer(name: str, value: int) -> int:
    """``value`` if it is an integer of at least 1.

    Raises:
        TypeError: for anything but an integer.
        ValueError: for one below 1.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return value


def check_elements(x: Tensor, dim: int, channels: int, potential: nn.Module) -> None:
    """Refuses elements that ``channels`` or ``potential`` cannot take, or that are not finite.

    Raises:
        TypeError: for a wrong dtype.
        ValueError: for a wrong shape, NaN or infinity.
    """
    if not x.is_floating_point():
        raise TypeError(f"x must be a floating-point tensor, got {x.dtype}; call x.float()")
    if x.dim() < 2 or dim % x.dim() == x.dim() - 1:
        raise ValueError(
            f"x must have at least two dimensions, the last holding the channels, and dim={dim} "
            f"another one; got shape {list(x.shape)}"
        )
    if x.shape[-1] != channels:
        raise ValueError(
            f"x has {x.shape[-1]} channels (shape {list(x.shape)}), expected in_channels={channels}"
        )
    weight = next(potential.parameters(), x)
    if weight.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
        raise TypeError(
            f"x is {x.dtype} but the layer's weights are {weight.dtype}: convert one of them, "
            f"x.to({weight.dtype}) or layer.to({x.dtype}), or use torch.autocast"
        )
    if not torch.compiler.is_compiling() and not x.isfinite().all():
        bad = int((~x.isfinite()).sum())
        raise ValueError(f"x holds {bad} values that are NaN or infinite; clean it first")


def checked_segments(
    size: int,
    index: Tensor | None,
    ptr: Tensor | None,
    dim_size: int | None,
    device: torch.device,
) -> Segments:
    """The segments that PyG's ``index``, ``ptr`` and ``dim_size`` describe, once they make sense.

    Raises:
        TypeError: for a wrong dtype.
        ValueError: for a wrong shape or range, or an index and ptr that contradict each other.
    """
    if ptr is not None:
        _check_ptr(ptr, size)
        segments = Segments.from_ptr(ptr)
        if index is not None and not torch.equal(index, segments.index):
            raise ValueError("index and ptr contradict each other; pass one of them")
        return segments
    if index is None:
        index = torch.zeros(size, dtype=torch.long, device=device)
    if index.dtype != torch.long:
        raise TypeError(f"index must be int64, got {index.dtype}; call index.long()")
    if index.shape != (size,):
        raise ValueError(
            f"index must have one entry for each of the {size} elements, shape [{size}], "
            f"got {list(index.shape)}"
        )
    if dim_size is None:
        dim_size = int(index.max()) + 1 if size else 0
    if dim_size < 0:
        raise ValueError(f"dim_size, the number of segments, must be 0 or more, got {dim_size}")
    if size and not torch.compiler.is_compiling():
        low, high = (int(v) for v in index.aminmax())
        if low < 0:
            raise ValueError(f"index must be 0 or more, got {low}")
        if high >= dim_size:
            raise ValueError(
                f"invalid 'dim_size' (got {dim_size} but expected at least {high + 1}, one more "
                "than the largest index)"
            )
    return Segments(index, dim_size)


def _check_ptr(ptr: Tensor, size: int) -> None:
    if ptr.dtype != torch.long:
        raise TypeError(f"ptr must be int64, got {ptr.dtype}; call ptr.long()")
    if ptr.dim() != 1 or not ptr.numel():
        raise ValueError(f"ptr must be a vector of S + 1 boundaries, got shape {list(ptr.shape)}")
    if torch.compiler.is_compiling():
        return
    if ptr[0] != 0 or ptr[-1] != size or (ptr[1:] < ptr[:-1]).any():
        raise ValueError(
            f"ptr must rise from 0 to the number of elements, {size}, got {ptr.tolist()[:8]}"
            + ("..." if ptr.numel() > 8 else "")
        )
