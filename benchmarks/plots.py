"""Pictures of a run, from its measurements alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.analysis import select

matplotlib.use("agg")  # files only; no display is needed

STYLE = Path(__file__).parents[1] / "experiments" / "pictures.mplstyle"
WIDTH = 3.2  # inches of one panel


def draw(frame: pd.DataFrame, folder: Path) -> list[Path]:
    """Draws a PNG for each section that was measured and returns their paths."""
    paths = []
    for section, picture in PICTURES.items():
        rows = select(frame, section=section)
        if not rows.empty:
            path = folder / f"{section}.png"
            with matplotlib.rc_context(fname=STYLE):
                picture(rows).savefig(path)
            paths.append(path)
    return paths


def _panels(count: int, height: float = 2.8) -> tuple[Figure, list[Axes]]:
    columns = min(count, 2)
    lines = -(-count // columns)
    figure = Figure(figsize=(WIDTH * columns, height * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).flatten().tolist()
    for spare in axes[count:]:
        spare.remove()
    return figure, axes[:count]


def _bars(axis: Axes, grouped: pd.core.groupby.SeriesGroupBy) -> None:
    """Draws horizontal bars of medians with the range as whiskers, first entry on top."""
    medians = grouped.median()
    errors = [medians - grouped.min(), grouped.max() - medians]
    axis.barh([str(name) for name in medians.index], medians, xerr=errors, height=0.7)
    axis.invert_yaxis()


def _layer(rows: pd.DataFrame) -> Figure:
    cases = rows["case"].unique()
    figure, axes = _panels(len(cases))
    for axis, case in zip(axes, cases, strict=True):
        steps = select(rows, case=case, quantity="step")
        _bars(axis, steps.groupby("contestant", sort=False)["value"])
        axis.set(title=case, xlabel="training step, s")
    return figure


def _peak(rows: pd.DataFrame) -> Figure:
    figure, axes = _panels(2)
    rows = rows.assign(name=rows["contestant"] + ", T = " + rows["steps"].astype(str))
    for axis, quantity, title in zip(
        axes, ("peak_step", "peak_eval"), ("training step", "evaluation"), strict=True
    ):
        values = select(rows, quantity=quantity)
        _bars(axis, values.groupby("name", sort=False)["value"])
        axis.set(title=title, xlabel="peak memory, MiB")
    return figure


def _model(rows: pd.DataFrame) -> Figure:
    figure, (axis,) = _panels(1)
    total = select(rows, contestant="sum")["value"].median()
    for name, own in rows.groupby("contestant", sort=False):
        medians = own.groupby("steps")["value"].median()
        if name == "sum":
            axis.axhline(total, color="grey", linestyle="--", label="sum")
        else:
            axis.plot(medians.index, medians, marker="o", label=str(name))
    axis.set(xlabel="solver steps T", ylabel="training step of the GIN, s", ylim=(0, None))
    axis.legend()
    return figure


PICTURES: dict[str, Callable[[pd.DataFrame], Figure]] = {
    "layer": _layer,
    "peak": _peak,
    "model": _model,
}
