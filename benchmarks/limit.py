"""Section ``limit``: how far a training step is from the machine's rate of matrix products."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

from benchmarks.contestants import Contestant
from benchmarks.records import Recorder
from benchmarks.sections import Plan, row
from benchmarks.timing import Clock, LayerTimer, backward
from benchmarks.workloads import READOUT_300, Workload
from pyg_ea.potentials.resnet import OUTPUTS

SECTION = "limit"
CONTESTANTS = ("unrolled", "truncated-3", "pyg", "listing")
MACHINE = "machine"  # who the rate belongs to
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm")  # operations that are matrix products
TOP = 15  # operations of a profile that are kept
REPEATS = 7


def measure(plan: Plan, recorder: Recorder) -> None:
    """Measures the rate of products, then counts, times and profiles each contestant's step."""
    workload = plan.size(READOUT_300)
    for name, rate in product_rates(workload, plan.clock).items():
        recorder.add(row(SECTION, workload, MACHINE, "rate", rate, unit="GFLOP/s", detail=name))
    contestants = [c for c in plan.contestants if c.name in CONTESTANTS]
    for contestant in tqdm(contestants, desc="limit", leave=False):
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

    with profile(activities=[ProfilerActivity.CPU], with_flops=True) as profiler:
        step()
    operations = sorted(
        profiler.key_averages(), key=lambda event: event.self_cpu_time_total, reverse=True
    )
    products = sum(event.flops for event in operations if event.key in PRODUCTS)
    add("products", products / 1e9, "GFLOP")
    total = sum(event.self_cpu_time_total for event in operations)
    for event in operations[:TOP]:
        add("profile", event.self_cpu_time_total / total, "share", detail=event.key)
        add("calls", event.count, "calls", detail=event.key)
    for repetition in range(workload.rounds):
        add("step", timer()["step"], "s", repetition)
