"""The paper's Figure 3 from records: error over training, average over seeds and best seed."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from experiments.median.aggregators import AGGREGATORS


def learning_curves(curves: pd.DataFrame) -> Figure:
    """Error over training, on a logarithmic axis.

    Bold: average over seeds. Faded: the seed with the smallest error.

    Args:
        curves: columns method, seed, step, mse (:func:`experiments.median.records.curves`).
    """
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axes = figure.subplots()
    for number, (name, entry) in enumerate(AGGREGATORS.items()):
        own = curves[curves["method"] == name]
        if own.empty:
            continue
        color, style = f"C{number % 10}", "-" if number < 10 else "--"
        average = own.groupby("step")["mse"].mean()
        best = own[own["seed"] == own.loc[own["mse"].idxmin(), "seed"]]
        axes.plot(average.index, average, style, color=color, label=entry.label, linewidth=1.8)
        axes.plot(best["step"], best["mse"], style, color=color, alpha=0.35, linewidth=1)
    axes.set_yscale("log")
    axes.set_xlabel("training steps")
    axes.set_ylabel("mean squared error of the median")
    seeds = curves["seed"].nunique()
    title = f"Median of 100 values: average of {seeds} seeds (bold), best seed (faded)"
    axes.set_title(title, loc="left", fontsize="medium")
    axes.grid(alpha=0.3, which="both", linewidth=0.5)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure
