"""Compiles the Triton kernels for a GPU without one, in a process of its own; prints JSON.

Run by `test_triton.py` as `python -m tests.compile_triton ARCHITECTURE CHANNELS PRECISION`.
"""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.gpu.dry import install
from pyg_ea import EAAggregation, solve_backend

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Operations(TorchDispatchMode):
    """Counts the operations that would launch a kernel."""

    number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.number += not function.is_view
        return function(*args, **(kwargs or {}))


def main() -> None:
    """Runs a training step of a layer on nothing."""
    architecture, channels, precision = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    dry = install(architecture)
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    x, index = torch.randn(20, channels, requires_grad=True), torch.arange(20) // 7
    launches = []
    for steps in (2, 3):
        layer = EAAggregation(channels, channels, steps=steps)
        dtype = AUTOCAST.get(precision)
        context = torch.autocast("cpu", dtype) if dtype else nullcontext()
        dry.launches = 0
        with solve_backend("triton"), Operations() as operations, context:
            y = layer(x, index, dim_size=4)
            torch.autograd.grad(y.sum(), [x, *layer.parameters()], allow_unused=True)
        launches.append(dry.launches + operations.number)
    kernels = [{"name": binary.name, **binary.usage()} for binary in dry.binaries]
    print(json.dumps({"launches": launches[1] - launches[0], "kernels": kernels}))


if __name__ == "__main__":
    main()
