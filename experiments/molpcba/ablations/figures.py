"""The pictures of a study, drawn from its records alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from experiments.molpcba.ablations.records import LAST, Records
from experiments.molpcba.ablations.tables import differences, ratios_of_time
from experiments.molpcba.evaluation import TITLES

SCORES = {"test": "at the best valid epoch", "test_last": f"mean of the last {LAST} epochs"}


def outcome(records: Records) -> Figure:
    """What the study asks for: :data:`DRAWN` by its name, otherwise a point for each run."""
    drawing = DRAWN.get(records.runs["study"].iloc[0], points)(records.runs)
    first = records.runs.iloc[0]
    drawing.suptitle(f"{first.study}   (data: {first.data}, {first.split} split)", fontsize=9)
    return drawing


def learning(records: Records) -> Figure:
    """Valid and test score over epochs, the mean over seeds, a line for each row."""
    rows = list(records.runs["row"].unique())
    drawing = Figure(figsize=(11, 4 + 0.12 * len(rows)), layout="constrained")
    title = TITLES[records.runs["metric"].iloc[0]]
    panels = drawing.subplots(1, 2, sharey=True)
    for axes, part in zip(panels, ("valid", "test"), strict=True):
        for i, row in enumerate(rows):
            curves = records.curves[records.curves["row"] == row]
            mean = curves.groupby("epoch")[part].mean()
            style = ("-", "--", ":")[i // 10 % 3]
            axes.plot(mean.index, mean, style, color=f"C{i % 10}", label=row)
        axes.set(xlabel="epoch", title=f"{part} {title}, mean over seeds")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
    drawing.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return drawing


def against(
    label: str, value: Callable[[dict[str, Any]], float], scale: str = "linear"
) -> Callable[[pd.DataFrame], Figure]:
    """Draws the score against a number in the settings: seeds as points, means joined."""

    def draw(runs: pd.DataFrame) -> Figure:
        drawing = Figure(figsize=(6, 4), layout="constrained")
        axes = drawing.subplots()
        x = runs["config"].map(lambda text: value(json.loads(text)))
        for i, (key, meaning) in enumerate(SCORES.items()):
            axes.plot(x, runs[key], "o", color=f"C{i}", alpha=0.35, markersize=4)
            means = runs.groupby(x)[key].mean()
            axes.plot(means.index, means, "o-", color=f"C{i}", label=meaning)
        if scale == "log":
            axes.set_xscale("symlog", linthresh=x[x > 0].min())  # 0 has its place, too
        axes.xaxis.set_major_locator(FixedLocator(sorted(x.unique())))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda number, _: f"{number:g}")
        axes.set(xlabel=label, title=f"test {TITLES[runs['metric'].iloc[0]]}")
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8)
        return drawing

    return draw


def points(runs: pd.DataFrame) -> Figure:
    """Scores, and paired differences to the reference: a point for each seed, a bar at the mean."""
    references = runs.groupby("row", sort=False)["reference"].first()
    rows, title = list(references.index), TITLES[runs["metric"].iloc[0]]
    drawing = Figure(figsize=(12, 1.6 + 0.3 * len(rows)), layout="constrained")
    left, right = drawing.subplots(1, 2, sharey=True)
    for i, row in enumerate(rows):
        _strip(left, runs.loc[runs["row"] == row, "test"].to_list(), i)
        if row != references[row]:
            _strip(right, differences(runs, row, references[row], "test_last"), i)
    left.set_yticks(range(len(rows)), rows)
    compared = ["" if row == other else f"minus {other}" for row, other in references.items()]
    right.secondary_yaxis("right").set_yticks(range(len(rows)), compared)
    left.set(ylim=(len(rows) - 0.5, -0.5))
    left.set_title(f"test {title} {SCORES['test']}", fontsize="medium")
    right.set_title(f"paired difference, {SCORES['test_last']}", fontsize="medium")
    right.axvline(0, color="0.5", lw=1)
    for axes in (left, right):
        axes.grid(alpha=0.25)
    return drawing


def against_time(runs: pd.DataFrame) -> Figure:
    """The score against the time of training relative to the reference's."""
    drawing = Figure(figsize=(7, 4.5), layout="constrained")
    axes = drawing.subplots()
    for i, row in enumerate(runs["row"].unique()):
        own = runs[runs["row"] == row]
        ratios = pd.Series(ratios_of_time(runs, row, own["reference"].iloc[0]))
        if ratios.empty:
            continue
        x = ratios.median()
        axes.plot([x] * len(own), own["test_last"], "o", color=f"C{i}", alpha=0.35, markersize=4)
        axes.plot(x, own["test_last"].mean(), "D", color=f"C{i}", label=row)
    axes.set(
        xlim=(0, None),
        xlabel=f"seconds of training an epoch / {runs['reference'].iloc[0]}'s",
        title=f"test {TITLES[runs['metric'].iloc[0]]}, {SCORES['test_last']}",
    )
    axes.grid(alpha=0.25)
    drawing.legend(loc="outside right center", fontsize=8)
    return drawing


def bars_of_time(runs: pd.DataFrame) -> Figure:
    """The time of training relative to the reference."""
    drawing = Figure(figsize=(6, 3), layout="constrained")
    axes = drawing.subplots()
    rows = list(runs["row"].unique())
    for i, row in enumerate(rows):
        ratios = ratios_of_time(runs, row, runs["reference"].iloc[0])
        if ratios:
            axes.barh(i, pd.Series(ratios).median(), color="C0", alpha=0.6)
            axes.plot(ratios, [i] * len(ratios), "k|", markersize=12)
    axes.set_yticks(range(len(rows)), rows)
    axes.set(
        ylim=(len(rows) - 0.5, -0.5),
        title=f"seconds of training an epoch / {runs['reference'].iloc[0]}'s (a line a seed)",
    )
    axes.grid(alpha=0.25, axis="x")
    return drawing


def _strip(axes: Axes, values: list[float], y: int) -> None:
    axes.plot(values, [y] * len(values), "o", color=f"C{y % 10}", alpha=0.6)
    if values:
        axes.plot(sum(values) / len(values), y, "|", color="k", markersize=16)


DRAWN: dict[str, Callable[[pd.DataFrame], Figure]] = {
    "steps": against("inner steps T", lambda c: c["steps"]),
    "aux": against("weight of the auxiliary loss", lambda c: c["aux_weight"], scale="log"),
    "capacity": against(
        "width of the potential, % of the network's",
        lambda c: round(100 * c["potential_width"] / c["width"]),
    ),
    "time": bars_of_time,
    "adjoint": against_time,
    "eval-steps": against_time,
}
"""How the outcome of a study is drawn."""
