"""Section ``model``: training step of a GIN with the sum readout and with EA (E.2)."""

from __future__ import annotations

import gc
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.contestants import Contestant
from benchmarks.gin import GIN, molecules
from benchmarks.records import Recorder
from benchmarks.sections import Plan, row
from benchmarks.timing import Clock, Times, interleaved
from benchmarks.workloads import READOUT_300, SEED
from pyg_ea import auxiliary_loss, collect_solutions

SECTION = "model"
STEPS = (2, 5, 10, 15)
CONTESTANTS = ("unrolled", "truncated-3", "half-width")
WORKLOAD = replace(READOUT_300, name="gin")
AUXILIARY_WEIGHT = 1.0  # the paper's, for a global readout


class ModelTimer:
    """Times whole training steps, Adam and the auxiliary loss included, on one batch."""

    def __init__(
        self,
        contestant: Contestant,
        channels: int,
        steps: int,
        graphs: int,
        clock: Clock,
        device: torch.device = torch.device("cpu"),  # noqa: B008, a constant
    ) -> None:
        self.clock = clock
        self.batch = molecules(graphs).to(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            self.model: nn.Module = GIN(channels, contestant.layer(channels, steps))
        self.model.to(device)
        capturable = device.type == "cuda"  # nor does the optimiser make the host wait
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3, capturable=capturable)
        self.step()

    def __call__(self) -> Times:
        """Returns the time of a training step in seconds, as ``step``."""
        gc.collect()
        started = self.clock()
        self.step()
        return {"step": self.clock() - started}

    def step(self) -> None:
        """Forward pass, losses, backward pass, Adam."""
        self.optimizer.zero_grad()
        with collect_solutions() as solutions:
            out = self.model(self.batch)
        loss = F.binary_cross_entropy_with_logits(out, self.batch.y)
        if solutions:
            loss = loss + AUXILIARY_WEIGHT * auxiliary_loss(solutions)
        loss.backward()
        self.optimizer.step()


def measure(plan: Plan, recorder: Recorder) -> None:
    """Times the sum readout and every EA readout in turns."""
    workload = plan.size(WORKLOAD)
    by_name = {contestant.name: contestant for contestant in plan.contestants}
    runs: dict[str, tuple[Contestant, int]] = {}
    if "sum" in by_name:
        runs["sum"] = (by_name["sum"], 0)
    for name in CONTESTANTS:
        if name in by_name:
            runs |= {f"{name} {steps}": (by_name[name], steps) for steps in STEPS}
    timers = {
        key: ModelTimer(contestant, workload.channels, steps, workload.segments, plan.clock)
        for key, (contestant, steps) in runs.items()
    }
    for key, repetition, times in interleaved(timers, workload.rounds, "whole models"):
        contestant, steps = runs[key]
        size = replace(workload, steps=steps)
        recorder.add(
            row(SECTION, size, contestant.name, "step", times["step"], repetition=repetition)
        )
