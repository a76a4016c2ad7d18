"""Backend in Triton, for CUDA devices: the split step.

A step is a few matrix products of the library, and between them kernels on the elements and on the
segments. Backward computes the activations of a step again, from its state: it takes values and
tangents through the network together, as rows of the same products. Nothing waits for the device,
sums come in a fixed order, and a CUDA graph can capture a solve once its kernels are compiled.

``work`` holds the buffers, ``steps`` the sequence of products and kernels, ``elements`` and
``states`` the kernels, and ``plain`` the same functions in torch operations.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from pyg_ea.fused.problem import Inputs, Problem, Settings
from pyg_ea.fused.triton import steps
from pyg_ea.solver import Solution
from pyg_ea.tensors import is_concrete

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class TritonBackend:
    """Backend in Triton.

    Products run in the dtype of ``fixed``, everything else in float32. Backward saves three rows of
    D values for each segment and step, whether it is to recompute activations or not.
    """

    name = "triton"

    def unsupported(self, problem: Problem) -> str | None:
        """Why the kernels do not take these tensors; None if they do."""
        start, fixed = problem.inputs.start, problem.inputs.fixed
        if importlib.util.find_spec("triton") is None:
            return "Triton is not installed"
        if start.dtype != torch.float32 or fixed.dtype not in DTYPES:
            return f"its state is float32, but the solver's is {start.dtype}"
        if start.device.type != "cuda" and not runs_on_cpu():
            return f"its kernels run on a CUDA device, but the tensors are on {start.device}"
        if not is_concrete(*problem.inputs.flatten(), problem.scale):
            return "a tensor has no values in memory"
        return None

    def forward(
        self, problem: Problem, settings: Settings, save: bool
    ) -> tuple[Solution, list[Tensor]]:
        """The solution, and the tensors saved for backward if ``save``."""
        with torch.no_grad(), _on_device(problem):
            return steps.forward(_kernels(), problem, settings, save)

    def backward(
        self,
        problem: Problem,
        settings: Settings,
        saved: Sequence[Tensor],
        cotangents: Sequence[Tensor],
    ) -> Inputs:
        """Gradients for the cotangents of y, velocity and both mean squares."""
        with torch.no_grad(), _on_device(problem):
            return steps.backward(_kernels(), problem, settings, saved, cotangents)


def runs_on_cpu() -> bool:
    """Whether Triton interprets kernels: ``TRITON_INTERPRET=1``."""
    import triton

    return triton.knobs.runtime.interpret


def _on_device(problem: Problem) -> torch.cuda.device | nullcontext[None]:
    device = problem.inputs.start.device
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _kernels() -> steps.Kernels:
    """The kernels: imported where they run, since Triton is optional."""
    from pyg_ea.fused.triton import kernels

    return kernels
