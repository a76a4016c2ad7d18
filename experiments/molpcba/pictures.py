"""The picture of a run, ``learning.png``."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from experiments.metrics import TITLES
from experiments.molpcba.folder import RunFolder


def plot_run(folder: RunFolder) -> None:
    """Draws ``learning.png`` from ``metrics.csv``: loss and score over training.

    With EA also step size, momentum and regulariser weight, a line for each EA layer (Figure C.1 of
    the paper).
    """
    metrics, results = pd.read_csv(folder.metrics, index_col="epoch"), folder.read_results()
    metric, data = results["metric"], results["data"]
    columns = {"loss": "_loss$", TITLES[metric]: f"_{metric}$"}
    columns |= {f"inner {key}": f"_{key}$" for key in ("step_size", "momentum", "regulariser")}
    panels = {title: metrics.filter(regex=own) for title, own in columns.items()}
    panels = {title: table for title, table in panels.items() if len(table.columns)}
    figure = Figure(figsize=(3.2 * len(panels), 3.6), layout="constrained")
    for axes, (title, table) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        axes.plot(table.index, table, "o-" if len(table) < 3 else "-", label=list(table))
        axes.set(xlabel="epoch", title=title.replace("_", " "))
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8)
    name = f"{folder.path.name}   (data: {data['name']}, {data['split']} split)"
    figure.suptitle(name, fontsize=9)
    figure.savefig(folder.path / "learning.png", dpi=130)
