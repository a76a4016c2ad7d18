"""Records: a row for each measurement, and the machine that made it."""

from __future__ import annotations

import csv
import itertools
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch_geometric

if TYPE_CHECKING:
    import pandas as pd

MEASUREMENTS = "measurements.csv"
MACHINE = "machine.json"
PLACES = ("--out", "--root")
"""Flags whose values are paths of the machine."""


@dataclass(frozen=True)
class Measurement:
    """Measurement: one number and what it belongs to.

    Args:
        section: part of the benchmark.
        case: name of the workload, or of the variable that grows.
        contestant: who was measured.
        quantity: what was measured, e.g. ``step`` (forward and backward pass) or ``peak_step``.
        value: the number.
        unit: its unit.
        repetition: round in which it was measured; within a round contestants take turns.
        elements, segments, channels, steps: size of the workload.
        detail: what else tells it from other rows, e.g. the operation in a profile.
    """

    section: str
    case: str
    contestant: str
    quantity: str
    value: float
    unit: str
    repetition: int = 0
    elements: int = 0
    segments: int = 0
    channels: int = 0
    steps: int = 0
    detail: str = ""


class Recorder:
    """Collects measurements and writes them to disk atomically."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.measurements: list[Measurement] = []

    def add(self, measurement: Measurement) -> None:
        """Adds a measurement."""
        self.measurements.append(measurement)

    def write(self) -> Path:
        """Writes all measurements so far and returns the file."""
        path = self.folder / MEASUREMENTS
        partial = path.with_suffix(".partial")
        with open(partial, "w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(field.name for field in fields(Measurement))
            writer.writerows(astuple(measurement) for measurement in self.measurements)
        partial.replace(path)
        return path


def read(folder: Path) -> pd.DataFrame:
    """Returns the measurements of an earlier run.

    Raises:
        FileNotFoundError: when ``folder`` holds none.
    """
    import pandas as pd  # not at the top: a GPU machine may lack it, and records there too

    path = folder / MEASUREMENTS
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no {MEASUREMENTS}: give the folder of a run")
    return pd.read_csv(path, keep_default_na=False)


def machine(program: str, words: Sequence[str]) -> dict[str, object]:
    """What figures depend on: processor, threads, versions, revision of the code, and the command
    line, without the places it names.
    """
    cpu = _cpu()
    return {
        "cpu": cpu.get("model name", platform.processor()),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "bf16_in_hardware": any(
            flag in cpu.get("flags", "").split() for flag in ("avx512_bf16", "amx_bf16")
        ),
        "load_average": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_geometric": torch_geometric.__version__,
        "revision": _revision(),
        "command": " ".join([f"python -m {program}", *_without_places(words)]),
    }


def write_machine(folder: Path, program: str, words: Sequence[str]) -> dict[str, object]:
    """Writes :func:`machine` beside the measurements and returns it."""
    record = machine(program, words)
    (folder / MACHINE).write_text(json.dumps(record, indent=2) + "\n")
    return record


def _without_places(words: Sequence[str]) -> list[str]:
    """``["--csv", "/a/b.csv", "--root", "c"] -> ["--csv", "b.csv"]``."""
    pairs = (word.split("=", 1) if word.startswith("--") else [word] for word in words)
    kept, waiting = list[str](), itertools.chain.from_iterable(pairs)
    for word in waiting:
        if word in PLACES:
            next(waiting, None)
        elif word in ("--csv", "--split"):
            kept += [word, Path(next(waiting, "")).name]
        else:
            kept.append(word)
    return kept


def _cpu() -> dict[str, str]:
    """Returns the fields of the first processor, empty where the system does not list them."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return {}
    first = path.read_text().split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _revision() -> str:
    """Returns the git revision, marked if files differ; ``unknown`` outside a repository."""
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        found = subprocess.run(
            describe, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()
