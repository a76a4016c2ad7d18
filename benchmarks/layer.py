"""Section ``layer``: time of a forward pass, of a training step and of an evaluation."""

from __future__ import annotations

from benchmarks.contestants import Contestant
from benchmarks.records import Recorder
from benchmarks.sections import Plan, row
from benchmarks.timing import LayerTimer, interleaved
from benchmarks.workloads import HALF_PRECISION, Workload
from pyg_ea import Implicit

SECTION = "layer"


def measure(plan: Plan, recorder: Recorder) -> None:
    """Times every contestant on every workload; contestants take turns."""
    for workload in plan.workloads:
        contestants = [c for c in plan.contestants if _takes_part(c, workload)]
        size = plan.size(workload)
        timers = {c.name: LayerTimer(c, size, plan.clock) for c in contestants}
        _measure_workload(size, timers, recorder)
        recorder.write()


def _takes_part(contestant: Contestant, workload: Workload) -> bool:
    """Returns the contestants of a workload; half precision has a small one of its own."""
    return contestant.autocast is None or workload is HALF_PRECISION


def _measure_workload(
    workload: Workload, timers: dict[str, LayerTimer], recorder: Recorder
) -> None:
    for name, timer in timers.items():
        recorder.add(row(SECTION, workload, name, "first", timer.first))
    for name, repetition, times in interleaved(timers, workload.rounds, workload.name):
        for quantity, value in times.items():
            recorder.add(row(SECTION, workload, name, quantity, value, repetition=repetition))
    for name, timer in timers.items():
        adjoint = getattr(timer.layer, "adjoint", None)
        if isinstance(adjoint, Implicit) and adjoint.report:
            share = float(adjoint.report["unconverged"].float().mean())
            recorder.add(row(SECTION, workload, name, "unconverged", share, unit="share"))
