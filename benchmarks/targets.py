"""Aims for time and memory, compared with the measurements."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from benchmarks.analysis import Ratio, ratio, select, smallest
from benchmarks.contestants import CHEAPER, EXACT, NARROWER
from benchmarks.peak import FLAT


def targets(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns a row for each aim that was measured: claim, mode, measured, bound, met."""
    rows = [*_time(frame), *_memory(frame), *_models(frame)]
    columns = ["claim", "mode", "measured", "at most", "met"]
    return pd.DataFrame(rows, columns=columns)


Row = tuple[str, str, str, str, str]


def _row(claim: str, mode: str, value: Ratio | float, most: float) -> Row:
    number = value.median if isinstance(value, Ratio) else value
    shown = str(value) if isinstance(value, Ratio) else f"{value:.3f}"
    return claim, mode, shown, f"{most:.3f}", "yes" if number <= most else "NO"


def _best(
    frame: pd.DataFrame,
    claim: str,
    names: tuple[str, ...],
    reference: str,
    most: float,
    **where: object,
) -> Iterator[Row]:
    """Compares the cheapest of ``names`` with ``reference``, if both were measured."""
    found = smallest({name: ratio(frame, name, reference, **where) for name in names})
    if found is not None:
        yield _row(claim, found[0], found[1], most)


def _size(frame: pd.DataFrame, case: str) -> str:
    """Returns a workload at the size that was measured; ``--quick`` and ``--steps`` change it."""
    rows = select(frame, section="layer", case=case)
    if rows.empty:
        return case
    first = rows.iloc[0]
    return f"{case} (N = {first.elements}, D = {first.channels}, T = {first.steps})"


STEP_AND_EVAL = {  # share of the time of PyG's layer: training step, evaluation
    "one-graph-64": (0.12, 0.08),
    "one-graph": (0.25, 0.15),
    "graphs-32": (0.25, 0.20),
    "graphs-128": (0.25, 0.22),
    "readout-64": (0.22, 0.20),
    "local-100": (0.27, 0.25),
    "readout-300": (0.21, 0.16),
}


def _time(frame: pd.DataFrame) -> Iterator[Row]:
    for case, aims in STEP_AND_EVAL.items():
        for quantity, most in zip(("step", "eval"), aims, strict=True):
            claim = f"{quantity} {_size(frame, case)} / pyg"
            where = {"section": "layer", "quantity": quantity, "case": case}
            yield from _best(frame, claim, ("unrolled",), "pyg", most, **where)
    claim = f"step {_size(frame, 'readout-300')}, cheaper adjoint / pyg"
    where = {"section": "layer", "quantity": "step", "case": "readout-300"}
    yield from _best(frame, claim, CHEAPER, "pyg", 1 / 8, **where)


def _memory(frame: pd.DataFrame) -> Iterator[Row]:
    rows = select(frame, section="peak")
    if rows.empty:
        return
    short, long = rows["steps"].min(), rows["steps"].max()
    at_short = rows[rows["steps"] == short]
    for name in FLAT:
        yield from _best(
            at_short, "peak memory of a step / pyg", (name,), "pyg", 1 / 8, quantity="peak_step"
        )
    for name in FLAT:
        values = select(rows, contestant=name, quantity="peak_step").set_index("steps")["value"]
        if {short, long} <= set(values.index) and short != long:
            claim = f"peak memory at T = {long} / at T = {short}"
            yield _row(claim, name, float(values[long] / values[short]), 1.2)
    yield from _best(
        at_short, "peak memory of eval / pyg", ("unrolled",), "pyg", 1 / 15, quantity="peak_eval"
    )


def _models(frame: pd.DataFrame) -> Iterator[Row]:
    rows = select(frame, section="model")
    total = select(rows, contestant="sum")
    kinds = ((EXACT, "exact"), (CHEAPER, "cheaper adjoint"), (NARROWER, "exact, H = D / 2"))
    for names, kind in kinds:
        for steps, most in ((2, 1.3), (5, 1.6), (10, 2.3)):
            both = pd.concat([total, rows[(rows["steps"] == steps)]])
            yield from _best(both, f"GIN with EA-{steps} ({kind}) / sum", names, "sum", most)
