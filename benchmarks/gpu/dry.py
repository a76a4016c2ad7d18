"""Triton without a GPU: kernels are compiled for one and launched, but nothing runs.

For counting launches, for the host's own time, and for what the compiler says of a kernel.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import triton
from torch.utils._python_dispatch import TorchDispatchMode
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

import pyg_ea.fused.triton

TOOL = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


@dataclass
class Binary:
    """A compiled kernel.

    Args:
        name: of the kernel.
        code: for the GPU.
        shared: bytes of shared memory.
    """

    name: str
    code: bytes
    shared: int

    def usage(self) -> dict[str, int]:
        """Registers and bytes of stack (spilled registers) a thread, and matrix instructions."""
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(self.code)
            file.flush()
            about, assembly = (
                subprocess.run([TOOL, flag, file.name], capture_output=True, text=True, check=True)
                for flag in ("-res-usage", "-sass")
            )
        (line,) = (line for line in about.stdout.splitlines() if "REG:" in line)
        sizes = dict(word.split(":") for word in line.split() if word.count(":") == 1)
        return {
            "registers": int(sizes["REG"]),
            "stack": int(sizes["STACK"]),
            "shared": self.shared,
            "matrix instructions": assembly.stdout.count("HMMA"),
        }


@dataclass
class DryDriver:
    """Stands in for Triton's driver of a GPU; see :func:`install`.

    Args:
        architecture: compute capability, 90 for an H100.
        launches: number of kernels launched.
        binaries: the kernels compiled.
    """

    architecture: int
    launches: int = 0
    binaries: list[Binary] = field(default_factory=list)

    @property
    def utils(self) -> DryDriver:
        """The driver's functions on binaries and devices."""
        return self

    def launcher_cls(self, source: object, metadata: object) -> Callable[..., None]:
        """What launches a kernel."""
        return self._launch

    def _launch(self, *arguments: object) -> None:
        self.launches += 1

    def load_binary(
        self, name: str, code: bytes, shared: int, device: int
    ) -> tuple[int, int, int, int, int]:
        """Takes a compiled kernel; handles, registers and spills, and the most threads."""
        self.binaries.append(Binary(name, code, shared))
        return 0, 0, 0, 0, 1024

    def unload_module(self, module: int) -> None:
        """Does nothing."""

    def get_device_properties(self, device: int) -> dict[str, int]:
        """Shared memory of a block on any GPU since the A100."""
        return {"max_shared_mem": 101_376}

    def get_current_device(self) -> int:
        """The only one."""
        return 0

    def get_current_stream(self, device: int) -> int:
        """The default stream."""
        return 0

    def get_current_target(self) -> GPUTarget:
        """What to compile for."""
        return GPUTarget("cuda", self.architecture, 32)

    def get_active_torch_device(self) -> torch.device:
        """Where the tensors are."""
        return torch.device("cpu")

    def map_python_to_cpp_type(self, kind: str) -> str:
        """Unused."""
        return kind


def install(architecture: int) -> DryDriver:
    """Makes this process launch nothing, on CPU tensors. For a process of its own."""
    dry: Any = DryDriver(architecture)
    driver.set_active(dry)
    pyg_ea.fused.triton.runs_on_cpu = lambda: True
    return dry


class Operations(TorchDispatchMode):
    """Counts the operations of torch that launch a kernel: all but views and allocations."""

    number = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.number += not (function.is_view or "empty" in function.name())
        return function(*args, **(kwargs or {}))


def launches(dry: DryDriver, step: Callable[[], object]) -> int:
    """How many kernels ``step`` launches, those of torch included."""
    dry.launches = 0
    with Operations() as operations:
        step()
    return dry.launches + operations.number
