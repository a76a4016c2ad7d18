"""Time, memory, precision and execution mode of a step, on a GPU and, to rehearse, on a CPU."""

from __future__ import annotations

import csv
import gc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter

import torch

from benchmarks.memory import most_allocated
from benchmarks.records import MEASUREMENTS, Measurement, Recorder
from benchmarks.workloads import Workload
from pyg_ea import solve_backend
from pyg_ea.fused.backends import BackendName

PRECISIONS = ("float32", "tf32", "bf16")
"""Of products: float32, TF32, and bf16 under autocast with all others in TF32."""

ATTEMPTS = "attempts"
"""File with the rows that a part has tried, in the parent of the folders of its processes."""
UNUSABLE = 75
"""Exit status of a part that cannot go on in the same process."""
REPETITIONS = 5
BLOCK = 0.02  # seconds of calls that are timed together
Step = Callable[[], object]


@dataclass(frozen=True)
class Setup:
    """What a part is given.

    Args:
        recorder: takes its measurements.
        device: where to compute.
        rehearse: whether sizes are those of a toy.
        csv: molecules for the trainer; None leaves its parts out.
        root: folder in which the trainer has prepared them.
        seconds: time limit of the part.
    """

    recorder: Recorder
    device: torch.device
    rehearse: bool
    csv: Path | None
    root: Path
    seconds: float

    def size(self, workload: Workload) -> Workload:
        """``workload``, or a toy of it."""
        if not self.rehearse:
            return workload
        sizes = {"elements": 52, "segments": min(workload.segments, 2), "channels": 8, "steps": 2}
        return replace(workload, **sizes)  # type: ignore[arg-type]

    def add(self, section: str, case: str, who: str, quantity: str, value: float, **more) -> None:
        """Records one number and writes the file, since a part may be stopped at any time."""
        more.setdefault("unit", "s")
        self.recorder.add(Measurement(section, case, who, quantity, value, **more))
        self.recorder.write()

    def row(self, section: str, size: Workload, who: str, detail: str) -> Callable[..., None]:
        """:meth:`add` for one contestant at one size: ``(quantity, value, unit=, repetition=)``."""
        sizes = {
            name: getattr(size, name) for name in ("elements", "segments", "channels", "steps")
        }
        return partial(self.add, section, size.name, who, detail=detail, **sizes)

    def known(self, part: str, who: str) -> dict[str, float]:
        """What an earlier part recorded of a contestant."""
        found: dict[str, float] = {}
        for path in sorted((self.recorder.folder.parents[1] / part).glob(f"*/{MEASUREMENTS}")):
            with open(path, newline="") as file:
                rows = [row for row in csv.DictReader(file) if row["contestant"] == who]
            found |= {row["quantity"]: float(row["value"]) for row in rows}
        return found

    def begin(self, row: str) -> bool:
        """Whether to measure a row: not if an earlier process of this part has tried it."""
        path = self.recorder.folder.parent / ATTEMPTS
        if path.is_file() and row in path.read_text().splitlines():
            return False
        with open(path, "a") as file:
            file.write(f"{row}\n")
        return True


@contextmanager
def precision(name: str, device: torch.device) -> Iterator[None]:
    """Runs products in one of ``PRECISIONS``."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest" if name == "float32" else "high")
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=name == "bf16"):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def backend(mode: str, device: torch.device) -> BackendName:
    """The implementation of the solve in an execution mode."""
    if mode in ("eager", "plain"):
        return "torch" if mode == "eager" else "plain"
    return "triton" if device.type == "cuda" else "auto"


def prepared(step: Step, mode: str, device: torch.device) -> Step:
    """``step`` in an execution mode, after a first call.

    Modes: ``eager``, the backend in torch operations; ``plain``, plain PyTorch; ``triton``, the
    Triton backend, on a CPU the C code; ``graph``, Triton in a CUDA graph, on a GPU only.
    """

    def run() -> None:
        with solve_backend(backend(mode, device)):
            step()

    if mode != "graph":
        run()
        return run
    for _ in range(3):
        run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def is_usable(device: torch.device) -> bool:
    """Whether the device still computes: after some failures CUDA refuses everything."""
    try:
        return torch.zeros(1, device=device).item() == 0
    except RuntimeError:
        return False


def stream(mode: str, device: torch.device) -> AbstractContextManager[object]:
    """Where a step is built and run: what comes before a CUDA graph must not be on the default
    stream.
    """
    if device.type == "cpu" or mode != "graph":
        return nullcontext()
    return torch.cuda.stream(torch.cuda.Stream(device))


def seconds(step: Step, device: torch.device) -> list[float]:
    """Seconds of a call, measured several times, by CUDA events on a GPU."""
    step()
    number = max(1, min(50, round(BLOCK / _block(step, 1, device))))
    return [_block(step, number, device) for _ in range(REPETITIONS)]


def _block(step: Step, number: int, device: torch.device) -> float:
    if device.type == "cpu":
        started = perf_counter()
        for _ in range(number):
            step()
        return (perf_counter() - started) / number
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(number):
        step()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / number


def peak(step: Step, device: torch.device) -> int:
    """Bytes allocated at most at a time by a call, beyond those allocated before."""
    if device.type == "cpu":
        return most_allocated(step)
    gc.collect()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    return torch.cuda.max_memory_allocated(device) - before
