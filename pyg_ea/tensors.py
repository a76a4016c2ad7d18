"""Kinds of tensors: which dtype to accumulate in, and whether values can be read."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """Dtype of solver state, counts and mean squares for data of ``dtype``: float32 or wider."""
    return torch.promote_types(dtype, torch.float32)


def autocasts(tensor: Tensor) -> bool:
    """Whether products of tensors on its device run under ``torch.autocast``."""
    device = tensor.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def without_autocast(tensor: Tensor) -> AbstractContextManager[None]:
    """Switches autocast off for products of tensors on its device."""
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if autocasts(tensor) else nullcontext()


def in_transform() -> bool:
    """Whether a ``torch.func`` transform is active, whose tensors have no storage."""
    return torch._C._are_functorch_transforms_active()


def is_concrete(*tensors: Tensor) -> bool:
    """Whether the tensors' values lie in memory: not while compiling, exporting or tracing, nor for
    fake and meta tensors, wrapper subclasses and tensors inside ``torch.func`` transforms.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    try:
        return all(map(_in_memory, tensors))
    except RuntimeError:
        return False


def _in_memory(tensor: Tensor) -> bool:
    storage = tensor.untyped_storage()
    if storage.device.type == "meta":
        return False
    return storage.data_ptr() != 0 or not tensor.numel()
