"""Compiles the Triton kernels for a GPU without one, in a process of its own; prints JSON.

Run by `test_triton.py` as `python -m tests.compile_triton ARCHITECTURE CHANNELS PRECISION`.
"""

from __future__ import annotations

import json
import sys

import torch

from benchmarks.gpu.dry import install, launches
from pyg_ea import EAAggregation, solve_backend
from pyg_ea.fused.triton import elements, states
from pyg_ea.fused.triton.elements import launch

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def checked(w, kernel, grid, *arguments, **constants) -> None:
    """Launches a kernel whose constants come in the order of its parameters."""
    assert kernel.arg_names[len(arguments) :] == list(constants)
    launch(w, kernel, grid, *arguments, **constants)


def main() -> None:
    """Runs a training step of a layer on nothing."""
    architecture, channels, precision = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    dry = install(architecture)
    elements.launch = states.launch = checked
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    x, index = torch.randn(20, channels, requires_grad=True), torch.arange(20) // 7
    dtype = AUTOCAST.get(precision)

    def number(steps: int) -> int:
        layer = EAAggregation(channels, channels, steps=steps)

        def step() -> None:
            y = layer(x, index, dim_size=4)
            torch.autograd.grad(y.sum(), [x, *layer.parameters()], allow_unused=True)

        with solve_backend("triton"), torch.autocast("cpu", dtype, enabled=dtype is not None):
            return launches(dry, step)

    inner = number(3) - number(2)
    kernels = [{"name": binary.name, **binary.usage()} for binary in dry.binaries]
    print(json.dumps({"launches": inner, "kernels": kernels}))


if __name__ == "__main__":
    main()
