"""The picture of a run with EA, drawn from its records alone."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from experiments.molpcba.folder import RunFolder


def plot_inner_parameters(folder: RunFolder) -> None:
    """Draws ``inner_parameters.png`` from ``metrics.csv`` (Figure C.1 of the paper).

    Step size, momentum and regulariser weight over training, a line for each EA layer; no picture
    without EA.
    """
    metrics, data = pd.read_csv(folder.metrics, index_col="epoch"), folder.read_results()["data"]
    keys = ("step_size", "momentum", "regulariser")
    panels = {key: metrics.filter(regex=f"_{key}$") for key in keys}
    if not len(panels["step_size"].columns):
        return
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    for axes, (key, table) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        axes.plot(table.index, table, "o-" if len(table) < 3 else "-", label=list(table))
        axes.set(xlabel="epoch", title=key.replace("_", " "))
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8)
    name = f"{folder.path.name}   (data: {data['name']}, {data['split']} split)"
    figure.suptitle(name, fontsize=9)
    figure.savefig(folder.path / "inner_parameters.png", dpi=130)
