"""Counter of the floating-point operations of matrix products."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class ProductCounter(TorchDispatchMode):
    """Adds up the floating-point operations of matrix products by torch's formulas.

    torch's own ``FlopCounterMode`` fails where a module calls ``autograd.grad``, as PyG's layer
    does, and does not know ``addmm_``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.addmm_.default:
            (rows, inner), (_, columns) = args[1].shape, args[2].shape
            self.total += 2 * rows * inner * columns
        elif func.overloadpacket in flop_registry:
            self.total += flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out
