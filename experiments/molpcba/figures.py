"""Pictures of runs, drawn from their records alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.molpcba.evaluation import TITLES
from experiments.molpcba.folder import RunFolder


def plot_run(folder: RunFolder) -> None:
    """Draws a run from ``metrics.csv`` and ``results.json``.

    ``learning.png``: loss and score; with EA also ``inner_parameters.png``: step size, momentum
    and regulariser weight over training, a line for each EA layer (Figure C.1 of the paper).
    """
    metrics, results = pd.read_csv(folder.metrics, index_col="epoch"), folder.read_results()
    name, data, metric = results["name"], results["data"], results["metric"]
    score = metrics[[f"valid_{metric}"]].assign(chance=results["chance"])
    score[f"test of epoch {results['best_epoch']}"] = results["test"]
    panels = {"loss": metrics[["train_loss", "valid_loss"]], TITLES[metric]: score}
    draw(folder.path / "learning.png", name, data, panels)
    keys = ("step_size", "momentum", "regulariser")
    inner = {key: metrics.filter(regex=f"_{key}$") for key in keys}
    if inner := {key: table for key, table in inner.items() if len(table.columns)}:
        draw(folder.path / "inner_parameters.png", name, data, inner)


def draw(path: Path, name: str, data: dict[str, Any], panels: dict[str, pd.DataFrame]) -> None:
    """A panel for each table: a line for each column, over epochs."""
    figure = Figure(figsize=(2 + 3.4 * len(panels), 3.6), layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, table) in zip(grid, panels.items(), strict=True):
        for column in table:
            marker = "o" if len(table) < 3 else None
            axes.plot(table.index, table[column], label=str(column), marker=marker)
        axes.set(xlabel="epoch", title=title.replace("_", " "))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8)
    figure.suptitle(f"{name}   (data: {data['name']}, {data['split']} split)", fontsize=9)
    figure.savefig(path, dpi=130)
