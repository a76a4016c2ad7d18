"""Plan of a benchmark, and the record of a measurement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.contestants import Contestant
from benchmarks.records import Measurement
from benchmarks.timing import CLOCKS, Clock
from benchmarks.workloads import Workload


@dataclass(frozen=True)
class Plan:
    """How much to measure.

    Args:
        contestants: who takes part.
        workloads: sizes that the section ``layer`` measures.
        clock: what times are read from.
        quick: whether sizes are cut so that all of it takes a few minutes.
        steps: solver steps in place of the workloads' own, where given.
        rounds: rounds in place of the workloads' own, where given.
    """

    contestants: Sequence[Contestant]
    workloads: Sequence[Workload]
    clock: Clock = CLOCKS["wall"]
    quick: bool = False
    steps: int | None = None
    rounds: int | None = None

    def size(self, workload: Workload) -> Workload:
        """Returns ``workload`` at the planned size."""
        planned = workload.small() if self.quick else workload
        return replace(
            planned, steps=self.steps or planned.steps, rounds=self.rounds or planned.rounds
        )


def row(
    section: str,
    workload: Workload,
    contestant: str,
    quantity: str,
    value: float,
    unit: str = "s",
    repetition: int = 0,
    case: str | None = None,
    detail: str = "",
) -> Measurement:
    """Returns a measurement at the size of ``workload``, whose name is the default case."""
    return Measurement(
        section=section,
        case=case or workload.name,
        contestant=contestant,
        quantity=quantity,
        value=value,
        unit=unit,
        repetition=repetition,
        elements=workload.elements,
        segments=workload.segments,
        channels=workload.channels,
        steps=workload.steps,
        detail=detail,
    )
