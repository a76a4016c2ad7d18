"""Pictures of the pages, in the style of ``experiments/pictures.mplstyle``."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean, stdev

import matplotlib as mpl
import pandas as pd
from adjustText import adjust_text
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import AutoLocator, ScalarFormatter

from benchmarks.analysis import Ratio, ratio, select
from benchmarks.records import read
from docs.common import DATA, LABELS, MADE, RESULTS, SHORT, STYLE, runs_of
from docs.costs import SIZES, model_ratio
from docs.tables import cost_of
from experiments.metrics import TITLES
from experiments.report import differences


def figures() -> dict[Path, Callable[[], Figure]]:
    """Returns the function that draws each picture, by the file it is kept in."""
    drawn: dict[str, Callable[[], Figure]] = {
        "scores": _scores,
        "differences": _differences,
        **{f"cost-{data}": partial(_cost, data) for data in NAMED},
        "layers": _layers,
        "memory": _memory,
        "models": _models,
    }
    return {MADE / f"{name}.svg": draw for name, draw in drawn.items()}


def svg(draw: Callable[[], Figure]) -> str:
    """Returns the picture as text, the same each time."""
    with mpl.rc_context(fname=str(STYLE)), tempfile.TemporaryDirectory() as place:
        path = Path(place) / "figure.svg"
        draw().savefig(path, metadata={"Date": None})
        return "".join(line.rstrip() + "\n" for line in path.read_text().splitlines())


# ---- readouts

KINDS = {  # marker and colour of a kind of readout
    "without EA, linear head": ("o", "C0"),
    "without EA, MLP head": ("s", "C2"),
    "EA": ("D", "C1"),
    "PyG's EA": ("X", "C3"),
}

_ON_BOTH = "mean max set-transformer pna mean-wide-head mean+sum+max-wide-head"
_ON_BOTH += " pyg-ea ea half-ea wide-ea wide-ea+mean+sum+max"
NAMED = {
    "embedded-nci": [*_ON_BOTH.split(), "pna-wide-head"],
    "pcba-19k": [*_ON_BOTH.split(), "mean+sum+max"],
    "binding-60k": [
        *("mean-head", "mean+sum+max-head", "set-transformer-head", "pna", "pna-head", "pyg-ea"),
        *("half-ea", "wide-ea", "ea+mean+sum+max", "narrow-ea+mean+sum+max-head"),
    ],
}
"""Rows of the pictures of score against time: few enough that each can have its name."""


def _kind(row: str) -> str:
    if row.startswith("pyg-ea"):
        return "PyG's EA"
    if row.split("+")[0].endswith("ea") or row.startswith(("ea-", "half-ea", "narrow-ea")):
        return "EA"
    return (
        "without EA, MLP head" if row.endswith(("-head", "-hidden")) else "without EA, linear head"
    )


def _scores() -> Figure:
    """Score and time of the readouts of the README."""
    shown, cost = ("embedded-nci", "pcba-19k", "binding-60k"), cost_of("protocol")["ratio"]
    runs = [runs_of("protocol", data) for data in shown]
    order = sorted(SHORT, key=lambda row: -_mean(runs[0], row))
    figure = Figure(figsize=(7.2, 3.2))
    *panels, times = figure.subplots(1, 4, sharey=True, width_ratios=(1, 1, 1, 0.7))
    for axes, data, own in zip(panels, shown, runs, strict=True):
        for place, row in enumerate(order):
            marker, color = KINDS[_kind(row)]
            scores = own.loc[own["row"] == row, "test"]
            style = {"fmt": marker, "color": color, "elinewidth": 1.0}
            axes.errorbar(scores.mean(), place, xerr=scores.std(), **style)
        axes.set(title=data, xlabel=f"test {TITLES[own['metric'].iloc[0]]}")
    for place, row in enumerate(order):
        times.barh(place, cost[row], 0.55, color=KINDS[_kind(row)][1])
        times.text(cost[row] + 0.1, place, f"{cost[row]:.1f}", va="center")
    times.set(title="time", xlabel="mean = 1", xlim=(0, 6.2))
    panels[0].set_yticks(range(len(order)), [SHORT[row] for row in order])
    panels[0].invert_yaxis()
    _add_kinds(figure, order)
    return figure


def _add_kinds(figure: Figure, rows: Sequence[str]) -> None:
    kinds = {kind: mark for kind, mark in KINDS.items() if kind in map(_kind, rows)}
    handles = [Line2D([], [], color=c, marker=m, linestyle="") for m, c in kinds.values()]
    figure.legend(handles, list(kinds), loc="outside lower center", ncols=4, handletextpad=0)


def _mean(runs: pd.DataFrame, row: str) -> float:
    return float(runs.loc[runs["row"] == row, "test"].mean())


def _cost(data: str) -> Figure:
    """Test score over time of a training step, a named point for each readout."""
    title, study = DATA[data]
    runs, cost, labels = runs_of(study, data), cost_of(study)["ratio"], LABELS[study]
    figure = Figure(figsize=(6.4, 4.6))
    axes = figure.subplots()
    points: dict[str, tuple[float, float]] = {}
    for row in NAMED[data]:
        scores = runs.loc[runs["row"] == row, "test"]
        marker, color = KINDS[_kind(row)]
        point = points[labels[row]] = float(cost[row]), float(scores.mean())
        axes.errorbar(*point, yerr=scores.std(), color=color, fmt=marker, elinewidth=0.8)
    axes.set(xscale="log", xlim=(0.75, 10), yscale="logit", title=title)
    axes.yaxis.set_major_locator(AutoLocator())
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.set_xticks([1, 2, 4, 8], ["1", "2", "4", "8"])
    axes.minorticks_off()
    axes.set(xlabel="time of a training step, mean readout = 1")
    axes.set_ylabel(f"test {TITLES[runs['metric'].iloc[0]]} (logit scale)")
    _add_kinds(figure, NAMED[data])
    add_names(axes, points)
    return figure


def add_names(axes: Axes, points: Mapping[str, tuple[float, float]]) -> list[Text]:
    """Writes the name of each point where it covers no other name and no point."""
    figure = axes.figure
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()  # the layout is settled
    figure.set_layout_engine("none")
    x, y = zip(*points.values(), strict=True)
    texts = [axes.text(*point, name) for name, point in points.items()]
    adjust_text(
        texts,
        x=list(x),
        y=list(y),
        ax=axes,
        expand=(1.15, 1.6),
        force_text=(0.2, 0.5),
        iter_lim=1000,
        arrowprops={"arrowstyle": "-", "color": "0.6", "linewidth": 0.7},
    )
    return texts


RIVALS = {
    "readout": "mean+sum+max-wide-head",
    "heads": "mean+sum+max-head",
    "whole": "mean+sum+max-head",
}
"""Mean, sum and max with an MLP head in each study."""
BESIDE = {
    "readout": "wide-ea+mean+sum+max",
    "heads": "ea+mean+sum+max",
    "whole": "ea+mean+sum+max",
}
"""EA beside mean, sum and max in each study."""


def _differences() -> Figure:
    """Paired differences of EA to mean+sum+max with an MLP head, on each data set."""
    shown = [data for data, own in DATA.items() if data != "hiv"]
    compared = {"EA 384 alone": dict.fromkeys(RIVALS, "wide-ea"), "EA + mean+sum+max": BESIDE}
    figure = Figure(figsize=(6.4, 2.6))
    axes = figure.subplots()
    for offset, ((label, rows), marker) in enumerate(zip(compared.items(), "Do", strict=True)):
        means, errors = [], []
        for data in shown:
            study = DATA[data].study
            values = differences(runs_of(study, data), rows[study], RIVALS[study], "test")
            means.append(mean(values))
            errors.append(stdev(values) / len(values) ** 0.5)
        places = [place + 0.3 * offset for place in range(len(shown))]
        axes.errorbar(means, places, xerr=errors, fmt=marker, color=f"C{1 - offset}", label=label)
    axes.axvline(0, color="0.3", linewidth=1)
    axes.set_yticks([place + 0.15 for place in range(len(shown))], shown)
    axes.invert_yaxis()
    axes.set(xlabel="test AP minus that of mean+sum+max with an MLP head")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


# ---- benchmarks


def _layers() -> Figure:
    """Time of the layer over that of PyG's, for each size."""
    frame = read(RESULTS / "benchmarks" / "layer-2-cores")
    figure = Figure(figsize=(6.4, 3.4))
    axes = figure.subplots()
    for offset, (key, label) in enumerate({"step": "training step", "eval": "evaluation"}.items()):
        ratios = [
            ratio(select(frame, case=case), "unrolled", "pyg", quantity=key) for case in SIZES
        ]
        places = [place + 0.4 * offset for place in range(len(ratios))]
        medians = [value.median for value in ratios if value]
        axes.barh(places, medians, 0.36, xerr=_spread(ratios), label=label)
    axes.set_yticks([place + 0.2 for place in range(len(SIZES))], list(SIZES.values()))
    axes.invert_yaxis()
    axes.axvline(1, color="0.3", linewidth=1)
    axes.set(xlim=(0, 1.05), xlabel="time, PyG's EquilibriumAggregation = 1")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _spread(ratios: Sequence[Ratio | None]) -> list[list[float]]:
    """Returns the distances from the medians to the ends of the ranges."""
    found = [value for value in ratios if value]
    below = [value.median - value.low for value in found]
    return [below, [value.high - value.median for value in found]]


def _memory() -> Figure:
    """Peak memory of a training step of the layer and of PyG's."""
    frame = select(read(RESULTS / "benchmarks" / "peak-1-core"), quantity="peak_step", steps=15)
    names = {"pyg": "PyG's layer", "unrolled": "Unrolled", "checkpointed": "Checkpointed"}
    names |= {"truncated-3": "Truncated(3)", "implicit": "Implicit"}
    values = [float(select(frame, contestant=key)["value"].iloc[0]) for key in names]
    figure = Figure(figsize=(6.4, 2.4))
    axes = figure.subplots()
    bars = axes.barh(list(names.values()), values, color=["0.6"] + ["C0"] * (len(names) - 1))
    axes.bar_label(bars, [f"{value:,.0f}" for value in values], padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set(xlabel="peak memory of a training step, MiB")
    return figure


def _models() -> Figure:
    """Time of a training step of GIN over the number of solver steps."""
    frame = read(RESULTS / "benchmarks" / "model-2-cores")
    figure = Figure(figsize=(6.4, 3.2))
    axes = figure.subplots()
    steps = sorted(set(frame["steps"]) - {0})
    names = {"unrolled": "EA, as wide as the nodes", "half-width": "EA, half as wide"}
    for (name, label), marker in zip(names.items(), "os", strict=True):
        ratios = [model_ratio(frame, name, number) for number in steps]
        medians = [value.median for value in ratios]
        axes.errorbar(steps, medians, _spread(ratios), marker=marker, capsize=3, label=label)
    axes.plot([2, 5, 10], [1.42, 1.84, 2.86], "x--", color="0.4", label="the paper (E.2)")
    axes.set(xlabel="solver steps", ylabel="time, sum readout = 1", ylim=(0, None))
    axes.set_xticks(steps)
    axes.legend()
    return figure
