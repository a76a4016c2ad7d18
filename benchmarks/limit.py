"""Section ``limit``: how far a training step is from the machine's rate of matrix products."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any
from unittest import mock

import torch
from pyg_ea.potentials.resnet_passes import OUTPUTS
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from tqdm import tqdm

from benchmarks.contestants import Contestant
from benchmarks.records import Recorder
from benchmarks.sections import Plan, row
from benchmarks.timing import Clock, LayerTimer, backward
from benchmarks.workloads import LOCAL_100, READOUT_64, READOUT_300, Workload
from pyg_ea import native

SECTION = "limit"
CONTESTANTS = ("unrolled", "truncated-3", "pyg", "listing")
MACHINE = "machine"  # who the rate belongs to
SIZES = (READOUT_300, READOUT_64, LOCAL_100)
TOP = 15  # operations of a profile that are kept
REPEATS = 7


class ProductCounter(TorchDispatchMode):
    """Adds up the floating-point operations of matrix products by torch's formulas.

    torch's own ``FlopCounterMode`` fails where a module calls ``autograd.grad``, as PyG's layer
    does, and does not know ``addmm_``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.addmm_.default:
            (rows, inner), (_, columns) = args[1].shape, args[2].shape
            self.total += 2 * rows * inner * columns
        elif func.overloadpacket in flop_registry:
            self.total += flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


def measure(plan: Plan, recorder: Recorder) -> None:
    """At the main sizes planned: measures the rate of products, then counts, times and profiles
    each contestant's step.
    """
    contestants = [c for c in plan.contestants if c.name in CONTESTANTS]
    for workload in (plan.size(size) for size in SIZES if size in plan.workloads):
        for name, rate in product_rates(workload, plan.clock).items():
            recorder.add(row(SECTION, workload, MACHINE, "rate", rate, unit="GFLOP/s", detail=name))
        for contestant in tqdm(contestants, desc=f"limit, {workload.name}", leave=False):
            _measure_contestant(contestant, workload, plan.clock, recorder)


def product_rates(workload: Workload, clock: Clock) -> dict[str, float]:
    """Rate in GFLOP/s of the three kinds of product of a step: ``[N, 2H]`` with ``[2H, H+32]``,
    its transpose for the gradient of the input, and that for the gradient of the weights."""
    rows, inner, outer = workload.elements, 2 * workload.channels, workload.channels + OUTPUTS
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(rows, inner, generator=generator)
    w = torch.randn(inner, outer, generator=generator)
    b = torch.randn(rows, outer, generator=generator)
    products: dict[str, Callable[[], Tensor]] = {
        "forward": lambda: a @ w,
        "input": lambda: b @ w.T,
        "weight": lambda: a.T @ b,
    }
    floating = 2 * rows * inner * outer
    return {name: floating / _duration(product, clock) / 1e9 for name, product in products.items()}


def _duration(function: Callable[[], Tensor], clock: Clock) -> float:
    def once() -> float:
        started = clock()
        function()
        return clock() - started

    once()
    return median(once() for _ in range(REPEATS))


def _measure_contestant(
    contestant: Contestant, workload: Workload, clock: Clock, recorder: Recorder
) -> None:
    def add(quantity: str, value: float, unit: str, repetition: int = 0, detail: str = "") -> None:
        name = contestant.name
        recorder.add(row(SECTION, workload, name, quantity, value, unit, repetition, detail=detail))

    timer = LayerTimer(contestant, workload, clock)
    x, index = workload.data()
    timer.layer.train()

    def step() -> None:
        backward(contestant.forward(timer.layer, x, index, workload.segments))

    # By torch, where a dispatch mode sees them; the passes in C take the same products.
    with mock.patch.object(native, "LIBRARY", None), ProductCounter() as counter:
        step()
    add("products", counter.total / 1e9, "GFLOP")
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step()
    operations = sorted(
        profiler.key_averages(), key=lambda event: event.self_cpu_time_total, reverse=True
    )
    total = sum(event.self_cpu_time_total for event in operations)
    for event in operations[:TOP]:
        add("profile", event.self_cpu_time_total / total, "share", detail=event.key)
        add("calls", event.count, "calls", detail=event.key)
    for repetition in range(workload.rounds):
        add("step", timer()["step"], "s", repetition)
