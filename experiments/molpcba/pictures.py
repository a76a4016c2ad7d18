"""The picture of a run, ``learning.png``."""

from __future__ import annotations

import re

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.metrics import TITLES
from experiments.molpcba.folder import RunFolder
from experiments.molpcba.results import Results
from experiments.report import STYLE, save_figure

SPAN = 0.2
"""Least range of an axis, over its largest value: less is no change worth seeing."""


def plot_run(folder: RunFolder) -> None:
    """Draws ``learning.png`` from ``metrics.csv``: loss and score over training, the best epoch,
    and the score of the best constant.

    With EA also step size, momentum and regulariser weight, a line for each EA layer (Figure C.1 of
    the paper).
    """
    metrics, results = pd.read_csv(folder.metrics, index_col="epoch"), folder.read_results()
    metric, data = results["metric"], results["data"]
    columns = {
        "loss": "^(train|valid|test)_loss$",
        TITLES[metric]: f"_{metric}$",
        "inner step size": "_step_size$",
        "inner momentum": "_momentum$",
        "weight of ||y||²": "_regulariser$",
    }
    panels = {title: metrics.filter(regex=own) for title, own in columns.items()}
    panels = {title: table for title, table in panels.items() if len(table.columns)}
    name = f"{folder.path.name}   (data: {data['name']}, {data['split']} split)"
    with mpl.rc_context(fname=STYLE):
        figure = _draw(panels, results, TITLES[metric])
        figure.suptitle(name)
        save_figure(figure, folder.picture)


def _draw(panels: dict[str, pd.DataFrame], results: Results, score: str) -> Figure:
    rows, across = -(-len(panels) // 3), min(3, len(panels))
    figure = Figure(figsize=(7.2, 0.4 + 2.6 * rows))
    for place, (title, table) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(rows, across, place)
        for name in table:
            style = "o-" if len(table) < 3 else "-"
            axes.plot(table.index, table[name], style, label=_in_words(str(name)))
        best = axes.axvline(results["best_epoch"], color="0.6", lw=1)
        if title == score:
            best.set_label("best epoch")
            axes.axhline(results["chance"], color="0.5", ls="--", label="best constant")
        axes.set(title=title, xlabel="epoch", ylim=_limits(axes))
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.legend()
    return figure


def _in_words(column: str) -> str:
    """``train_loss -> train``, ``conv0_momentum -> layer 1``."""
    name = column.partition("_")[0]
    return re.sub(r"conv(\d+)", lambda match: f"layer {int(match[1]) + 1}", name)


def _limits(axes: Axes) -> tuple[float, float]:
    """Limits around the values, wide enough that 0.899 to 0.901 does not look like a change."""
    low, high = axes.get_ylim()
    missing = SPAN * max(abs(low), abs(high)) - (high - low)
    return (low - max(missing, 0) / 2, high + max(missing, 0) / 2)
