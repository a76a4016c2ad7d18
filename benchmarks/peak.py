"""Section ``peak``: peak memory of a training step and of an evaluation."""

from __future__ import annotations

from dataclasses import replace

import torch
from tqdm import tqdm

from benchmarks.contestants import LAST, Contestant
from benchmarks.memory import most_allocated
from benchmarks.records import Recorder
from benchmarks.sections import Plan, row
from benchmarks.timing import backward
from benchmarks.workloads import READOUT_300, Workload

SECTION = "peak"
FLAT = ("checkpointed", f"truncated-{LAST}", "implicit")  # memory must not grow with T
LONG = 60  # steps at which that is shown
MIB = 2**20


def measure(plan: Plan, recorder: Recorder) -> None:
    """Measures a training step and an evaluation of every contestant."""
    workload = plan.size(READOUT_300)
    long = replace(workload, steps=4 * workload.steps if plan.quick else LONG)
    single = [c for c in plan.contestants if c.autocast is None]
    tasks = [(c, workload, quantity) for c in single for quantity in ("step", "eval")]
    tasks += [(c, long, "step") for c in single if c.name in FLAT]
    for contestant, size, quantity in tqdm(tasks, desc="peak memory", leave=False):
        value = peak(contestant, size, training=quantity == "step") / MIB
        recorder.add(row(SECTION, size, contestant.name, f"peak_{quantity}", value, unit="MiB"))


def peak(contestant: Contestant, workload: Workload, training: bool) -> int:
    """Returns the peak memory of a training step or an evaluation, in bytes.

    Layer and input, which are there before, do not count; the gradients do.
    """
    layer = contestant.layer(workload.channels, workload.steps).train(training)
    small = workload if contestant.compiled else workload.warm_up()
    x, index = small.data()
    backward(contestant.forward(layer, x, index, small.segments))  # compiles, where it must
    layer.zero_grad(set_to_none=True)
    x, index = workload.data()

    def step() -> None:
        with torch.set_grad_enabled(training):
            y = contestant.forward(layer, x, index, workload.segments)
        if training:
            backward(y)

    return most_allocated(step)
