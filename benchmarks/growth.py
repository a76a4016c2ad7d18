"""Section ``growth``: how the time of a layer grows with N, T, S and width."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.records import Recorder
from benchmarks.sections import Plan, row
from benchmarks.timing import LayerTimer, interleaved
from benchmarks.workloads import Workload

SECTION = "growth"
CONTESTANTS = ("unrolled", "checkpointed", "truncated-3")
BASE = Workload("growth", 6_656, 256, 64, steps=4, rounds=3)

# Every variable alone, the others as in BASE; N and T over a factor of 50 (N from 2,000 on, below
# which the cost of calling an operation, not its size, is what is measured).
VALUES: dict[str, tuple[int, ...]] = {
    "elements": (2_000, 5_000, 12_500, 31_500, 100_000),
    "steps": (2, 5, 12, 32, 100),
    "segments": (16, 128, 1_024, 6_656),
    "channels": (16, 32, 64, 128, 256),
}


def measure(plan: Plan, recorder: Recorder) -> None:
    """Times the contestants at every value of every variable, all in turns."""
    contestants = [c for c in plan.contestants if c.name in CONTESTANTS]
    for variable, values in VALUES.items():
        workloads = {value: _workload(variable, value, plan) for value in values}
        timers = {
            f"{contestant.name} {value}": LayerTimer(contestant, workload, plan.clock)
            for value, workload in workloads.items()
            for contestant in contestants
        }
        label = f"growth with {variable}"
        for name, repetition, times in interleaved(timers, plan.rounds or BASE.rounds, label):
            contestant, value = name.split()
            for quantity, seconds in times.items():
                recorder.add(
                    row(
                        SECTION,
                        workloads[int(value)],
                        contestant,
                        quantity,
                        seconds,
                        repetition=repetition,
                        case=variable,
                    )
                )


def _workload(variable: str, value: int, plan: Plan) -> Workload:
    base = BASE
    if plan.quick:
        base = replace(base, elements=416, segments=16, channels=16, steps=2)
        value = max(value // 16, 2) if variable in ("elements", "segments", "channels") else value
    return replace(base, **{variable: value})  # type: ignore[arg-type]
