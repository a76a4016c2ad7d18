"""Table and figure of the counting study, made from its records alone."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from experiments.common import UserError
from experiments.median.aggregators import AGGREGATORS

TESTS = {"plain": "as in training", "larger": "30 to 60 images", "outliers": "with outliers"}


def report(folder: Path) -> str:
    """Draws ``accuracy.png`` from the records in ``folder``; returns the table."""
    plot(_read(folder)).savefig(folder / "accuracy.png", dpi=150)
    return render(folder)


def _read(folder: Path) -> pd.DataFrame:
    path = folder / "records.csv"
    if not path.exists():
        raise UserError(f"{path} does not exist: make the study first, without --report")
    runs = pd.read_csv(path)
    runs.insert(0, "row", runs["method"].map(lambda name: AGGREGATORS[name].label))
    return runs


def _order(runs: pd.DataFrame) -> list[str]:
    return list(runs.groupby("row")["plain_accuracy"].mean().sort_values(ascending=False).index)


def render(folder: Path) -> str:
    """One row for each method: mean and, in brackets, standard deviation over seeds."""
    runs = _read(folder)
    groups = runs.groupby("row")
    first = groups[["learning_rate", "parameters"]].first()
    table = pd.DataFrame({"seeds": groups["seed"].nunique()}).join(first)
    for score, digits in (("accuracy", 3), ("error", 2)):
        for test in TESTS:
            values = groups[f"{test}_{score}"]
            text = zip(values.mean(), values.std(), strict=True)
            table[f"{test} {score}"] = [f"{m:.{digits}f} ({s:.{digits}f})" for m, s in text]
    table["seconds"] = groups["seconds"].mean().round().astype(int)
    table.index.name = None
    return table.loc[_order(runs)].to_string()


def plot(runs: pd.DataFrame) -> Figure:
    """Accuracy of each seed (points) and their mean (bar), one panel for each test."""
    order = _order(runs)
    figure = Figure(figsize=(9, 4), layout="constrained")
    panels = figure.subplots(1, len(TESTS), sharey=True)
    for axes, (test, title) in zip(panels, TESTS.items(), strict=True):
        for place, name in enumerate(order):
            values = runs.loc[runs["row"] == name, f"{test}_accuracy"]
            color = "C3" if name.startswith("EA, ") else "C0"
            axes.barh(place, values.mean(), color=color, alpha=0.35)
            axes.plot(values, [place] * len(values), "o", color=color, markersize=4)
        axes.set_title(title, fontsize="medium")
        axes.set_xlabel("accuracy")
        axes.grid(alpha=0.3, axis="x", linewidth=0.5)
    panels[0].set_yticks(range(len(order)), order)
    panels[0].invert_yaxis()
    return figure
