"""A process that takes one step and prints by how much its resident memory rose at most.

Started by :mod:`benchmarks.peak`. Not sampled: the kernel keeps the high-water mark. A step on a
small batch comes first, so that libraries loaded and buffers kept for good do not count.
"""

from __future__ import annotations

import gc
import json
import resource
import sys
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.contestants import CONTESTANTS
from benchmarks.timing import backward
from benchmarks.workloads import Workload

MIB = 2**20


def high_water() -> int:
    """Most memory that was ever resident, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def resident() -> int:
    """Memory resident now, in bytes; the high-water mark where the system does not tell."""
    statm = Path("/proc/self/statm")
    if not statm.is_file():
        return high_water()
    return int(statm.read_text().split()[1]) * resource.getpagesize()


def main(task: dict) -> float:
    """Runs ``task`` (see :func:`benchmarks.peak.peak`); returns MiB."""
    torch.set_num_threads(task["threads"])
    contestant = CONTESTANTS[task["contestant"]]
    workload = Workload(**task["workload"])
    training = task["quantity"] == "step"
    layer = contestant.layer(workload.channels, workload.steps).train(training)

    def step(x: Tensor, index: Tensor, segments: int) -> None:
        with torch.set_grad_enabled(training):
            y = contestant.forward(layer, x, index, segments)
        if training:
            backward(y)

    small = workload.warm_up()
    step(*small.data(), small.segments)
    layer.zero_grad(set_to_none=True)
    x, index = workload.data()
    gc.collect()
    before = resident()
    step(x, index, workload.segments)
    return max(high_water() - before, 0) / MIB


if __name__ == "__main__":
    print(json.dumps({"peak": main(json.loads(sys.argv[1]))}))
