"""Pictures of the pages, in the style of ``experiments/pictures.mplstyle``."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.analysis import Ratio, ratio, select
from benchmarks.records import read
from docs.common import MADE, READOUTS, RESULTS, SETS, SHORT, STYLE, runs_of
from docs.costs import SIZES, model_ratio
from docs.tables import cost
from experiments.report import differences


def figures() -> dict[Path, Callable[[], Figure]]:
    """Returns the function that draws each picture, by the file it is kept in."""
    drawn: dict[str, Callable[[], Figure]] = {
        "scores": _scores,
        "differences": _differences,
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
}


def _kind(row: str) -> str:
    if "ea" in row.split("+"):
        return "EA"
    return f"without EA, {'MLP' if row.endswith('-hidden') else 'linear'} head"


def _scores() -> Figure:
    """Score and time of the readouts of the README."""
    time, runs = cost()["ratio"], [runs_of("protocol", data) for data in SETS]
    tests = [own.groupby("row")["test"] for own in runs]
    order = sorted(SHORT, key=lambda row: -tests[0].mean()[row])
    figure = Figure(figsize=(7.2, 3.0))
    *panels, times = figure.subplots(1, 4, sharey=True, width_ratios=(1, 1, 1, 0.7))
    for axes, data, own in zip(panels, SETS, tests, strict=True):
        for place, row in enumerate(order):
            marker, color = KINDS[_kind(row)]
            style = {"fmt": marker, "color": color, "elinewidth": 1.0}
            axes.errorbar(own.mean()[row], place, xerr=own.std()[row], **style)
        axes.set(title=data, xlabel="test AP")
    for place, row in enumerate(order):
        times.barh(place, time[row], 0.55, color=KINDS[_kind(row)][1])
        times.text(time[row] + 0.1, place, f"{time[row]:.1f}", va="center")
    times.set(title="time", xlabel="mean = 1", xlim=(0, 4))
    panels[0].set_yticks(range(len(order)), [READOUTS[row] for row in order])
    panels[0].invert_yaxis()
    handles = [Line2D([], [], color=c, marker=m, linestyle="") for m, c in KINDS.values()]
    figure.legend(handles, list(KINDS), loc="outside lower center", ncols=3, handletextpad=0)
    return figure


def _differences() -> Figure:
    """Paired differences of EA to mean+sum+max with an MLP head, on each data set."""
    rival = "mean+sum+max-hidden"
    names = {"wide-ea": "ea", "mean+sum+max-head": rival}
    runs = {data: runs_of("protocol", data) for data in SETS}
    runs["binding-212k"] = runs_of("whole", "binding-212k").replace({"row": names})
    figure = Figure(figsize=(6.4, 2.6))
    axes = figure.subplots()
    for offset, (row, marker) in enumerate(zip(("ea", "ea+mean+sum+max"), "Do", strict=True)):
        values = [differences(own, row, rival, "test") for own in runs.values()]
        errors = [stdev(own) / len(own) ** 0.5 for own in values]
        places = [place + 0.3 * offset for place in range(len(runs))]
        means, color = [mean(own) for own in values], f"C{1 - offset}"
        axes.errorbar(means, places, xerr=errors, fmt=marker, color=color, label=READOUTS[row])
    axes.axvline(0, color="0.3", linewidth=1)
    axes.set_yticks([place + 0.15 for place in range(len(runs))], list(runs))
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
