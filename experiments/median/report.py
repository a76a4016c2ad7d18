"""Table of the median study and the paper's Figure 3, made from its records alone."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from experiments.median.aggregators import AGGREGATORS
from experiments.studies.records import Records


def report(folder: Path) -> str:
    """Draws ``curves.png`` from the records in ``folder``; returns the table."""
    records = Records(folder)
    records.check_one_study()
    plot_curves(records.curves).savefig(folder / "curves.png", dpi=150)
    return render(summarise(records))


def summarise(records: Records) -> pd.DataFrame:
    """One row for each method, in the order of increasing error.

    ``mse`` is the error at the end, averaged over seeds, ``std`` its spread over seeds, ``rmse``
    the root of ``mse``; ``best`` the best evaluation of any seed; ``ratio`` is ``mse`` in units of
    the smallest ``mse`` of a method that is not ours.
    """
    groups = records.runs.groupby("row")
    rates = records.runs["config"].map(lambda text: json.loads(text)["learning_rate"])
    table = pd.DataFrame(
        {
            "seeds": groups["seed"].nunique(),
            "learning_rate": rates.groupby(records.runs["row"]).first(),
            "parameters": groups["parameters"].first(),
            "mse": groups["test"].mean(),
            "std": groups["test"].std(),
            "rmse": groups["test"].mean() ** 0.5,
            "best": records.curves.groupby("row")["test"].min(),
            "seconds": groups["train_seconds"].mean(),
        }
    )
    others = [name for name in table.index if not AGGREGATORS[str(name)].ours]
    reference = table.loc[others, "mse"].min() if others else float("nan")
    table.insert(3, "ratio", table["mse"] / reference)
    return table.sort_values("mse")


def render(table: pd.DataFrame) -> str:
    """The summary as text for a terminal."""
    shown = table.rename(index=lambda name: AGGREGATORS[name].label)
    shown.index.name = None
    formats = {
        **dict.fromkeys(["mse", "std", "best"], "{:.2e}".format),
        "rmse": "{:.5f}".format,
        "ratio": "{:.3f}".format,
        "seconds": "{:.0f}".format,
        "learning_rate": "{:g}".format,
    }
    return shown.to_string(formatters=formats)


def plot_curves(curves: pd.DataFrame) -> Figure:
    """Error over training: average over seeds (bold), the seed with the smallest error (faded)."""
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axes = figure.subplots()
    for number, (name, entry) in enumerate(AGGREGATORS.items()):
        own = curves[curves["row"] == name]
        if own.empty:
            continue
        color, style = f"C{number % 10}", "-" if number < 10 else "--"
        average = own.groupby("epoch")["test"].mean()
        best = own[own["seed"] == own.loc[own["test"].idxmin(), "seed"]]
        axes.plot(average.index, average, style, color=color, label=entry.label, linewidth=1.8)
        axes.plot(best["epoch"], best["test"], style, color=color, alpha=0.35, linewidth=1)
    axes.set_yscale("log")
    axes.set_xlabel("training steps")
    axes.set_ylabel("mean squared error of the median")
    title = f"Median of 100 values: average of {curves['seed'].nunique()} seeds, best seed (faded)"
    axes.set_title(title, loc="left", fontsize="medium")
    axes.grid(alpha=0.3, which="both", linewidth=0.5)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure
