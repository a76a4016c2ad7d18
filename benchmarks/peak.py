"""Section ``peak``: the most memory a step takes, each measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks.contestants import LAST, Contestant
from benchmarks.records import Recorder
from benchmarks.sections import Plan, row
from benchmarks.workloads import READOUT_300, Workload

SECTION = "peak"
FLAT = ("checkpointed", f"truncated-{LAST}", "implicit")  # memory must not grow with T
LONG = 60  # steps at which that is shown


def measure(plan: Plan, recorder: Recorder) -> None:
    """Measures a training step and an evaluation of every contestant."""
    workload = plan.size(READOUT_300)
    long = replace(workload, steps=4 * workload.steps if plan.quick else LONG)
    eager = [c for c in plan.contestants if c.autocast is None and not c.compiled]
    tasks = [(c, workload, quantity) for c in eager for quantity in ("step", "eval")]
    tasks += [(c, long, "step") for c in eager if c.name in FLAT]
    for contestant, size, quantity in tqdm(tasks, desc="peak memory", leave=False):
        value = peak(contestant, size, quantity)
        recorder.add(row(SECTION, size, contestant.name, f"peak_{quantity}", value, unit="MiB"))


def peak(contestant: Contestant, workload: Workload, quantity: str) -> float:
    """Peak of resident memory in MiB above what was resident before, in a fresh process.

    Raises:
        RuntimeError: when the process fails, with the end of what it said.
    """
    task = {
        "contestant": contestant.name,
        "workload": asdict(workload),
        "quantity": quantity,
        "threads": torch.get_num_threads(),
    }
    finished = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory_probe", json.dumps(task)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    if finished.returncode:
        raise RuntimeError(
            f"measuring the memory of {contestant.name} failed: {finished.stderr[-500:]}"
        )
    return float(json.loads(finished.stdout)["peak"])
