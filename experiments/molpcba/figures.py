"""Pictures of a run, drawn from its records alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.molpcba.evaluation import TITLES
from experiments.molpcba.folder import RunFolder

PARAMETER_TITLES = {
    "step_size": "step size",
    "momentum": "momentum",
    "regulariser": "regulariser weight",
}


def plot_run(folder: RunFolder) -> None:
    """Draws the figures of a run from ``metrics.csv`` and ``results.json``.

    ``learning.png``: loss and score; with EA also ``inner_parameters.png``: step size, momentum
    and regulariser weight (Figure C.1 of the paper).
    """
    metrics, results = pd.read_csv(folder.metrics), folder.read_results()
    drawings: dict[str, Callable[[pd.DataFrame, dict[str, Any]], Figure]] = {
        "learning": plot_learning
    }
    if ea_columns(metrics, "step_size"):
        drawings["inner_parameters"] = plot_inner_parameters
    data = results["data"]
    for name, draw in drawings.items():
        figure = draw(metrics, results)
        title = f"{results['name']}   (data: {data['name']}, {data['split']} split)"
        figure.suptitle(title, fontsize=9)
        figure.savefig(folder.path / f"{name}.png", dpi=130)


def plot_learning(metrics: pd.DataFrame, results: dict[str, Any]) -> Figure:
    """Loss and score by epoch, with the test score at the best-valid epoch."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    loss, score = figure.subplots(1, 2)
    epoch, metric = metrics["epoch"], results["metric"]
    _line(loss, epoch, metrics["train_loss"], "train")
    _line(loss, epoch, metrics["valid_loss"], "valid")
    _label(loss, "loss")
    _line(score, epoch, metrics[f"valid_{metric}"], "valid")
    score.axhline(results["chance"], color="0.5", linestyle=":", label="chance")
    best = results["best_epoch"]
    score.axvline(best, color="0.8", zorder=0)
    if results["test"] is not None:
        score.plot([best], [results["test"]], "D", color="C3", label=f"test {results['test']:.3f}")
    score.set_ylim(bottom=0)
    _label(score, TITLES[metric])
    return figure


def plot_inner_parameters(metrics: pd.DataFrame, results: dict[str, Any]) -> Figure:
    """Step size, momentum and regulariser weight over training, a line for each EA layer."""
    keys = [key for key in PARAMETER_TITLES if ea_columns(metrics, key)]
    figure = Figure(figsize=(3.4 * len(keys), 3.4), layout="constrained")
    for axes, key in zip(figure.subplots(1, len(keys), squeeze=False)[0], keys, strict=True):
        for layer, column in ea_columns(metrics, key).items():
            _line(axes, metrics["epoch"], metrics[column], layer)
        _label(axes, PARAMETER_TITLES[key])
    return figure


def ea_columns(metrics: pd.DataFrame, key: str) -> dict[str, str]:
    """EA layer -> its column of that key."""
    suffix = f"_{key}"
    return {
        str(c).removesuffix(suffix): str(c)
        for c in metrics
        if str(c).endswith(suffix) and str(c).startswith(("readout", "conv"))
    }


def _line(axes: Axes, x: pd.Series, y: pd.Series, label: str) -> None:
    axes.plot(x, y, label=label, marker="o" if len(x) < 3 else None)


def _label(axes: Axes, quantity: str) -> None:
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(quantity, fontsize=10)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)


def plot_summary(
    kinds: dict[str, list[tuple[RunFolder, dict[str, Any]]]], result: dict[str, Any]
) -> Figure:
    """Valid score over epochs, a line for each kind (mean, and range over seeds); test scores."""
    drawing = Figure(figsize=(10, 4), layout="constrained")
    curves, points = drawing.subplots(1, 2, width_ratios=[3, 2])
    title, column = TITLES[result["metric"]], f"valid_{result['metric']}"
    for i, (name, members) in enumerate(kinds.items()):
        tables = [pd.read_csv(folder.metrics).set_index("epoch")[column] for folder, _ in members]
        scores = pd.concat(tables, axis=1)
        curves.plot(scores.index, scores.mean(axis=1), color=f"C{i}", label=name)
        curves.fill_between(
            scores.index, scores.min(axis=1), scores.max(axis=1), color=f"C{i}", alpha=0.2, lw=0
        )
        tests = [r["test"] for _, r in members]
        points.plot(tests, [i] * len(tests), "o", color=f"C{i}", alpha=0.7)
        points.plot(sum(tests) / len(tests), i, "|", color="k", markersize=18)
    curves.set(xlabel="epoch")
    curves.set_title(f"valid {title} (mean and range over seeds)", fontsize="medium")
    curves.xaxis.set_major_locator(MaxNLocator(integer=True))
    curves.legend(fontsize=8)
    points.set(ylim=(len(kinds), -1))
    points.set_title(f"test {title} at the best-valid epoch (bar: mean)", fontsize="medium")
    points.set_yticks(range(len(kinds)), list(kinds))
    for axes in (curves, points):
        axes.grid(alpha=0.25)
    data = result["data"]
    drawing.suptitle(f"data: {data['name']}, {data['split']} split", fontsize=9)
    return drawing
