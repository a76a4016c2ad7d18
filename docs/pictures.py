"""Pictures of the pages."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import AutoLocator, ScalarFormatter
from matplotlib.transforms import Bbox

from benchmarks.analysis import ratio, select
from benchmarks.records import read
from docs.tables import DATA, LABELS, MADE, RESULTS, SHORT, cost_of, model_ratio, runs_of
from experiments.metrics import TITLES

SVG = {
    "svg.hashsalt": "pyg_ea",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.grid": True,
    "grid.alpha": 0.25,
}


def figures() -> dict[Path, Callable[[], Figure]]:
    """What draws the pictures, by the file they are kept in."""
    drawn: dict[str, Callable[[], Figure]] = {
        **{f"cost-{data}": lambda data=data: _one_panel(data) for data in DATA},
        "cost": _panels,
        "layers": _layers,
        "memory": _memory,
        "models": _models,
    }
    return {MADE / f"{name}.svg": draw for name, draw in drawn.items()}


def svg(draw: Callable[[], Figure]) -> str:
    """The picture as text, the same each time."""
    with mpl.rc_context(SVG), tempfile.TemporaryDirectory() as place:
        path = Path(place) / "figure.svg"
        draw().savefig(path, metadata={"Date": None})
        return "".join(line.rstrip() + "\n" for line in path.read_text().splitlines())


KINDS = {  # colour and label of a family of readouts
    "EA": "tab:orange",
    "EA beside others": "tab:red",
    "another readout": "tab:blue",
    "with a hidden layer": "tab:green",
}


def _kind(row: str) -> str:
    if "ea+" in row:
        return "EA beside others"
    if row in ("ea", "wide-ea", "half-ea", "ea-head"):
        return "EA"
    return "with a hidden layer" if row.endswith("-head") else "another readout"


def _panels() -> Figure:
    figure = Figure(figsize=(11, 4), layout="constrained")
    shown = [data for data, own in DATA.items() if own.study == "readout"]
    for axes, data in zip(figure.subplots(1, 3), shown, strict=True):
        _draw_cost(axes, data, SHORT)
    _add_legend(figure)
    return figure


def _add_legend(figure: Figure) -> None:
    handles = [Line2D([], [], color=c, marker="o", linestyle="") for c in KINDS.values()]
    figure.legend(handles, list(KINDS), loc="outside lower center", ncols=4, fontsize=8)


def _one_panel(data: str) -> Figure:
    figure = Figure(figsize=(6.4, 6), layout="constrained")
    _draw_cost(figure.subplots(), data, LABELS[DATA[data].study])
    _add_legend(figure)
    return figure


def _draw_cost(axes: Axes, data: str, rows: Iterable[str]) -> None:
    """Test score over time of a training step, a point for each readout."""
    title, study = DATA[data]
    runs, cost, labels = runs_of(study, data), cost_of(study)["ratio"], LABELS[study]
    points = {}
    for row in (row for row in rows if row in set(runs["row"])):
        scores, color = runs.loc[runs["row"] == row, "test"], KINDS[_kind(row)]
        point = points[labels[row]] = float(cost[row]), float(scores.mean())
        axes.errorbar(*point, yerr=scores.std(), color=color, fmt="o", elinewidth=0.6, ms=5)
    axes.set(xscale="log", xlim=(0.8, 9), yscale="logit", title=title)
    axes.yaxis.set_major_locator(AutoLocator())
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.set_xticks([1, 2, 4, 8], ["1", "2", "4", "8"])
    axes.minorticks_off()
    axes.set(xlabel="time of a training step, mean readout = 1")
    axes.set_ylabel(
        f"test {TITLES[runs['metric'].iloc[0]]}, standard deviation over seeds; logit scale"
    )
    _label(axes, points)


def _label(axes: Axes, points: dict[str, tuple[float, float]]) -> None:
    """Writes each point's name where it covers neither a name nor a point, as far as possible."""
    figure = axes.figure
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()
    places = axes.transData.transform(list(points.values()))
    taken = [Bbox.from_extents(x - 4, y - 4, x + 4, y + 4) for x, y in places]
    for name, point in sorted(points.items(), key=lambda item: -item[1][1]):
        best = None
        for dy, dx in itertools.product((-3, 6, -12, 14, -20, 22, -28, 30), (6, -6)):
            text = axes.annotate(
                name,
                point,
                (dx, dy),
                textcoords="offset points",
                ha="left" if dx > 0 else "right",
                fontsize=7.5,
                color="0.25",
            )
            box = text.get_window_extent()
            inside = axes.bbox.containsx(box.x0) and axes.bbox.containsx(box.x1)
            overlap = sum(_overlap(box, other) for other in taken) + (0 if inside else 1e6)
            if best is None or overlap < best[0]:
                if best is not None:
                    best[1].remove()
                best = overlap, text, box
            else:
                text.remove()
            if best[0] == 0:
                break
        assert best is not None
        taken.append(best[2])


def _overlap(a: Bbox, b: Bbox) -> float:
    common = Bbox.intersection(a, b)
    return 0.0 if common is None else common.width * common.height


def _layers() -> Figure:
    """Time of our layer over that of PyG's, for each size."""
    frame = read(RESULTS / "benchmarks" / "layer-2-cores")
    cases = list(frame["case"].unique())
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.subplots()
    for offset, (key, label) in enumerate({"step": "training step", "eval": "evaluation"}.items()):
        ratios = [
            ratio(select(frame, case=case), "unrolled", "pyg", quantity=key) for case in cases
        ]
        _bars(axes, ratios, offset, label)
    axes.set_yticks([i + 0.2 for i in range(len(cases))], cases)
    axes.invert_yaxis()
    axes.axvline(1, color="0.4", linewidth=1)
    axes.set(xlim=(0, 1.05), xlabel="time over that of PyG's EquilibriumAggregation")
    axes.legend(loc="center right")
    return figure


def _bars(axes: Axes, ratios: Sequence, offset: int, label: str) -> None:
    medians = [value.median for value in ratios]
    spread = [
        [value.median - value.low for value in ratios],
        [value.high - value.median for value in ratios],
    ]
    places = [i + 0.4 * offset for i in range(len(ratios))]
    axes.barh(places, medians, 0.36, xerr=spread, label=label, error_kw={"elinewidth": 1})


def _memory() -> Figure:
    """Peak memory of a training step, ours and PyG's."""
    frame = select(read(RESULTS / "benchmarks" / "peak-1-core"), quantity="peak_step", steps=15)
    figure = Figure(figsize=(6.4, 2.6), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(frame["contestant"], frame["value"], color=["0.6"] + ["C0"] * (len(frame) - 1))
    axes.bar_label(bars, [f"{value:,.0f}" for value in frame["value"]], padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set(xlabel="peak memory of a training step, MiB (6,656 elements x 300 channels, 15 steps)")
    return figure


def _models() -> Figure:
    """Time of a training step of a whole network over the number of solver steps."""
    frame = read(RESULTS / "benchmarks" / "model-2-cores")
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    steps = sorted(set(frame["steps"]) - {0})
    names = {"unrolled": "potential as wide as the nodes", "half-width": "potential half as wide"}
    for name, label in names.items():
        ratios = [model_ratio(frame, name, number) for number in steps]
        spread = [
            [value.median - value.low for value in ratios],
            [value.high - value.median for value in ratios],
        ]
        axes.errorbar(steps, [r.median for r in ratios], spread, marker="o", capsize=3, label=label)
    axes.plot([2, 5, 10], [1.42, 1.84, 2.86], "x--", color="0.5", label="the paper (E.2)")
    axes.set(xlabel="solver steps", ylabel="time over that of the sum readout", ylim=(0, None))
    axes.set_xticks(steps)
    axes.legend()
    return figure
