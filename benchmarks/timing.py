"""Timing of contestants in turns, so that other load on the machine affects all alike."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator, Mapping
from statistics import median
from time import perf_counter, process_time

import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.contestants import Contestant
from benchmarks.workloads import Workload
from pyg_ea.adjoints import ImplicitGradientWarning

Times = dict[str, float]  # quantity -> seconds
TURN = 0.1  # seconds: one call of a millisecond is mostly noise
Clock = Callable[[], float]

# On a machine shared with others the processor time of this process, on one thread, is the truer
# one; with several threads it counts those that wait for each other as well.
CLOCKS: dict[str, Clock] = {"wall": perf_counter, "cpu": process_time}


def interleaved(
    turns: Mapping[str, Callable[[], Times]], rounds: int, label: str
) -> Iterator[tuple[str, int, Times]]:
    """Calls every turn once in each round and yields name, round and result."""
    gc.collect()
    gc.freeze()  # what is there already need not be looked through before every turn
    try:
        with tqdm(total=rounds * len(turns), desc=label, leave=False) as bar:
            for repetition in range(rounds):
                for name, turn in turns.items():
                    bar.set_postfix_str(name)
                    gc.collect()
                    yield name, repetition, turn()
                    bar.update()
    finally:
        gc.unfreeze()


class LayerTimer:
    """Times one contestant on one workload.

    What happens once (choice of kernels, compilation) is done by a first step and evaluation, on a
    small batch unless compiled; :attr:`first` is their duration.
    """

    def __init__(self, contestant: Contestant, workload: Workload, clock: Clock) -> None:
        self.contestant = contestant
        self.clock = clock
        self.layer = contestant.layer(workload.channels, workload.steps)
        self.segments = workload.segments
        self.x, self.index = workload.data()
        # Compiled code is made anew where the number of elements passes some threshold.
        small = workload if contestant.compiled else workload.warm_up()
        started = clock()
        self._training_step(*small.data(), small.segments)
        self._evaluation(*small.data(), small.segments)
        self.first = clock() - started

    def __call__(self) -> Times:
        """Returns the times of ``forward``, ``step`` (forward and backward) and ``eval``."""
        times = _median_of_calls(self._training_step, self.x, self.index, self.segments)
        gc.collect()
        return times | _median_of_calls(self._evaluation, self.x, self.index, self.segments)

    def _training_step(self, x: Tensor, index: Tensor, segments: int) -> Times:
        self.layer.train()
        _clear_gradients(self.layer, x)
        started = self.clock()
        y = self.contestant.forward(self.layer, x, index, segments)
        forward = self.clock() - started
        backward(y)
        return {"forward": forward, "step": self.clock() - started}

    def _evaluation(self, x: Tensor, index: Tensor, segments: int) -> Times:
        self.layer.eval()
        started = self.clock()
        with torch.no_grad():
            self.contestant.forward(self.layer, x, index, segments)
        return {"eval": self.clock() - started}


def _median_of_calls(function: Callable[..., Times], *args: object) -> Times:
    """Returns the median of each quantity over the calls that fit into ``TURN`` seconds."""
    calls: list[Times] = []
    ends = perf_counter() + TURN
    while not calls or perf_counter() < ends:
        calls.append(function(*args))
    return {quantity: median(call[quantity] for call in calls) for quantity in calls[0]}


def backward(y: Tensor) -> None:
    """Backward pass from the mean square of the output.

    A layer at its start is rarely converged after T steps, so the implicit gradient is approximate
    there, of which it warns; that is no news to a benchmark.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImplicitGradientWarning)
        y.square().mean().backward()


def _clear_gradients(layer: nn.Module, x: Tensor) -> None:
    layer.zero_grad(set_to_none=True)
    x.grad = None
