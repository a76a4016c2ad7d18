"""Tables and pictures of the documentation, made from the records in ``results/`` alone.

``python -m docs.records`` writes them: the full table of each record beside it, and what the pages
show in ``docs/made/``.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

from benchmarks import loader, ogb_loop, readouts, scale
from benchmarks.analysis import Ratio, ratio, select
from benchmarks.gpu.report import report as report_gpu
from benchmarks.records import read
from benchmarks.report import report as report_benchmark
from experiments.common import write_text
from experiments.counting.report import render as render_counting
from experiments.median.report import render, summarise
from experiments.molpcba.evaluation import TITLES
from experiments.molpcba.summary import summarise as summarise_runs
from experiments.studies.records import Records
from experiments.studies.report import markdown

RESULTS = Path(__file__).parents[1] / "results"
MADE = Path(__file__).parent / "made"
COST = RESULTS / "trainer" / "readouts-on-embedded-nci"
TRAINER = {
    "loader": loader,
    "ogb-loop": ogb_loop,
    "scale": scale,
    "readouts": readouts,
    "heads": readouts,
}
DATA = {
    "embedded-nci": "embedded-nci: 4,991 molecules, exact labels",
    "pcba-19k": "pcba-19k: 19,144 molecules, noisy labels",
    "hiv": "hiv: 41,127 molecules, scaffold split",
}
SVG = {
    "svg.hashsalt": "pyg_ea",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.grid": True,
    "grid.alpha": 0.25,
}


def main() -> None:
    """Writes all tables and pictures."""
    for path, make in (full_tables() | pages()).items():
        write_text(path, make())
    for path, draw in figures().items():
        write_text(path, svg(draw))


# ---- full tables, beside the records


def full_tables() -> dict[Path, Callable[[], str]]:
    """What makes the table of each record, by the file it is kept in."""
    tables: dict[Path, Callable[[], str]] = {}
    for folder in _folders("ablations/*"):
        tables[folder / "table.md"] = lambda folder=folder: markdown(Records(folder))
    for folder in _folders("molpcba/*"):
        tables[folder / "summary.md"] = lambda folder=folder: _summary(folder)
    for folder in _folders("median*"):
        tables[folder / "table.txt"] = lambda folder=folder: render(summarise(Records(folder)))
    for folder in _folders("counting*"):
        tables[folder / "table.txt"] = lambda folder=folder: render_counting(folder)
    for folder in _folders("benchmarks/*"):
        tables[folder / "table.txt"] = lambda folder=folder: report_benchmark(read(folder))
    for folder in _folders("trainer/*"):
        module = TRAINER[folder.name.partition("-on-")[0]]
        tables[folder / "table.txt"] = lambda folder=folder, module=module: module.report(folder)
    return {path: lambda make=make: make().rstrip() + "\n" for path, make in tables.items()}


def _summary(folder: Path) -> str:
    runs = sorted(path.parent for path in folder.glob("*/results.json"))
    with tempfile.TemporaryDirectory() as place:
        summarise_runs(runs, Path(place))
        return (Path(place) / "summary.md").read_text()


def _folders(pattern: str) -> list[Path]:
    return sorted(path for path in RESULTS.glob(pattern) if path.is_dir())


# ---- tables of the pages


def pages() -> dict[Path, Callable[[], str]]:
    """What makes the tables that pages include."""
    tables: dict[str, Callable[[], str]] = {
        "readouts": lambda: readout_table(READOUTS),
        "readouts-short": lambda: readout_table(SHORT),
        "paper": paper_table,
        "layers": layer_table,
        "adjoints": adjoint_table,
        "models": model_table,
        "gpu": gpu_report,
    }
    return {MADE / f"{name}.md": make for name, make in tables.items()}


def table(head: Sequence[str], rows: Sequence[Sequence[object]], align: str = "--:") -> str:
    """A table in Markdown; ``align`` is that of all columns but the first."""
    lines = [head, ["---"] + [align] * (len(head) - 1), *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)


def gpu_report() -> str:
    """The tables of every run of the GPU benchmark."""
    runs = [report_gpu(folder) for folder in _folders("gpu/*")]
    return "\n\n".join(runs or ["Not measured: no GPU was at hand."]) + "\n"


READOUTS = {
    "mean": "mean",
    "sum": "sum",
    "max": "max",
    "attention": "attention",
    "set2set": "Set2Set",
    "set-transformer": "Set Transformer",
    "pna": "PNA",
    "pyg-ea": "PyG's EA 64",
    "mean-head": "mean, hidden",
    "mean-wide-head": "mean, wide hidden",
    "mean+sum+max": "mean+sum+max",
    "mean+sum+max-head": "mean+sum+max, hidden",
    "mean+sum+max-wide-head": "mean+sum+max, wide hidden",
    "ea": "EA 64",
    "ea-head": "EA 64, hidden",
    "wide-ea": "EA 384",
    "ea+mean+sum+max": "EA 64+mean+sum+max",
    "ea+mean+sum+max-head": "EA 64+mean+sum+max, hidden",
    "wide-ea+mean+sum+max": "EA 384+mean+sum+max",
}
SHORT = {
    row: READOUTS[row]
    for row in (
        "mean",
        "mean-wide-head",
        "mean+sum+max",
        "mean+sum+max-wide-head",
        "pna",
        "pyg-ea",
        "wide-ea",
        "wide-ea+mean+sum+max",
    )
}


def readout_table(rows: dict[str, str]) -> str:
    """Test score of each readout on each data set, its parameters and its time."""
    runs = {data: _runs("readout", data) for data in DATA}
    titles = [f"{data}, {TITLES[own['metric'].iloc[0]]}" for data, own in runs.items()]
    cost = readouts.summary(COST)
    lines = []
    for row, label in rows.items():
        scores = [own.loc[own["row"] == row, "test"].tolist() for own in runs.values()]
        line = [label, *(_short(values) if values else "not run" for values in scores)]
        lines.append([*line, f"{cost['parameters'][row]:,}", f"{cost['ratio'][row]:.1f}"])
    return table(["readout", *titles, "parameters", "time"], lines)


def _runs(study: str, data: str) -> pd.DataFrame:
    return Records(RESULTS / "ablations" / f"{study}-on-{data}").runs


def _short(values: list[float]) -> str:
    """``0.734 ± 0.015``."""
    return f"{mean(values):.3f} ± {stdev(values):.3f}"


def paper_table() -> str:
    """Every table and figure of the paper's appendix, beside what came out here."""
    median = summarise(Records(RESULTS / "median"))
    at_lower_rate = summarise(Records(RESULTS / "median-ea-at-0.01"))
    best_other = float((median["mse"] / median["ratio"]).iloc[0])
    models = read(RESULTS / "benchmarks" / "model-2-cores")
    times = [_model_ratio(models, "unrolled", steps).median for steps in (2, 5, 10)]
    study = "python -m experiments.studies"
    return table(
        ["what", "the paper", "here", "command"],
        [
            [
                "Figure 3, D.1: median of a set, error over that of the best other aggregator",
                "about 0.1",
                f"{median['ratio'].min():.3f} with the quantile potential; "
                f"{at_lower_rate['mse'].iloc[0] / best_other:.1f} with the learned one",
                "`python -m experiments.median`",
            ],
            [
                "Figure C.1: step size, momentum, regulariser over training",
                "settle after 10⁶ steps",
                "[settle within 2 % of their start](records.md#step-size-and-momentum)",
                "`python -m experiments.molpcba --data embedded --model gin --steps 15`",
            ],
            [
                "D.2: MOLPCBA, GCN and GIN, global and local EA",
                "in the main text",
                "not run: 437,929 molecules need a GPU",
                "`python -m experiments.molpcba --config configs/molpcba/gin_ea.yaml`",
            ],
            [
                "D.2: local EA, difference to the sum, GIN / GCN",
                "in the main text",
                " / ".join(
                    f"{_difference('local', row, other):+.3f}"
                    for row, other in (("gin-ea", "gin-sum"), ("gcn-ea", "gcn-sum"))
                ),
                f"`{study} local --epochs 20`",
            ],
            [
                "E.1: valid AP with 1 / 2 / 5 / 10 steps",
                "0.235 / 0.257 / 0.263 / 0.268",
                _valid("steps", "ea-1", "ea-2", "ea-5", "ea-10"),
                f"`{study} steps --epochs 20`",
            ],
            [
                "E.2: time with 2 / 5 / 10 steps over that of the sum",
                "1.42 / 1.84 / 2.86",
                " / ".join(f"{value:.2f}" for value in times),
                "`python -m benchmarks --only model --threads 2`",
            ],
            [
                "E.3: valid AP with auxiliary weight 1e-4 / 1e-3 / 1e-2 / 1e-1 / 1",
                "0.250 / 0.261 / 0.257 / 0.254 / 0.263",
                _valid("aux", "aux-0.0001", "aux-0.001", "aux-0.01", "aux-0.1", "aux-1"),
                f"`{study} aux --epochs 20`",
            ],
            [
                "E.4: valid AP with 10 / 30 / 60 / 100 / 130 % of the potential's width",
                "0.208 / 0.218 / 0.228 / 0.233 / 0.222",
                _valid("capacity", *(f"{share}-percent" for share in (10, 30, 60, 100, 130))),
                f"`{study} capacity --epochs 20`",
            ],
        ],
        align="---",
    )


def _valid(study: str, *rows: str) -> str:
    runs = _runs(study, "embedded-nci")
    return " / ".join(f"{runs.loc[runs['row'] == row, 'valid'].mean():.3f}" for row in rows)


def _difference(study: str, row: str, other: str) -> float:
    means = _runs(study, "embedded-nci").groupby("row")["test"].mean()
    return float(means[row] - means[other])


def layer_table() -> str:
    """Time of our layer over that of PyG's, for each size."""
    frame = read(RESULTS / "benchmarks" / "layer-2-cores")
    rows = []
    for case, own in frame.groupby("case", sort=False):
        first = own.iloc[0]
        size = [f"{first.elements:,}", f"{first.segments:,}", first.channels, first.steps]
        ratios = [ratio(own, "unrolled", "pyg", quantity=key) for key in ("step", "eval")]
        rows.append([case, *size, *ratios])
    head = ["", "elements N", "sets S", "channels D", "steps T", "training step", "evaluation"]
    return table(head, rows)


def adjoint_table() -> str:
    """Time and memory of each adjoint over those of PyG's layer."""
    time = read(RESULTS / "benchmarks" / "adjoints-2-cores")
    peak = read(RESULTS / "benchmarks" / "peak-1-core")
    names = [name for name in peak["contestant"].unique() if name != "pyg"]
    names += [name for name in time["contestant"].unique() if name not in [*names, "pyg"]]
    theirs = _peak(peak, "pyg", "peak_step", 15)
    rows = []
    for name in names:
        step, evaluation = (ratio(time, name, "pyg", quantity=key) for key in ("step", "eval"))
        mib = _peak(peak, name, "peak_step", 15)
        rows.append(
            [
                f"`{name}`",
                *("" if value is None else value for value in (step, evaluation)),
                *(
                    ("", "")
                    if mib is None or theirs is None
                    else (f"{mib:,.0f}", f"{mib / theirs:.3f}")
                ),
            ]
        )
    return table(["", "training step", "evaluation", "peak of a step, MiB", "over PyG's"], rows)


def _peak(frame: pd.DataFrame, contestant: str, quantity: str, steps: int) -> float | None:
    values = select(frame, contestant=contestant, quantity=quantity, steps=steps)["value"]
    return None if values.empty else float(values.iloc[0])


def _model_ratio(frame: pd.DataFrame, contestant: str, steps: int) -> Ratio:
    own = select(frame, contestant=contestant, steps=steps)
    found = ratio(pd.concat([select(frame, contestant="sum"), own]), contestant, "sum")
    assert found is not None
    return found


def model_table() -> str:
    """Time of a training step of a whole network over that with the sum readout."""
    frame = read(RESULTS / "benchmarks" / "model-2-cores")
    steps = sorted(set(frame["steps"]) - {0})
    names = {"unrolled": "potential as wide as the nodes", "half-width": "half as wide"}
    rows = [
        [label, *(_model_ratio(frame, name, number) for number in steps)]
        for name, label in names.items()
    ]
    return table(["", *(f"{number} steps" for number in steps)], rows)


# ---- pictures


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
    if row in ("ea", "wide-ea", "ea-head"):
        return "EA"
    return "with a hidden layer" if row.endswith("-head") else "another readout"


def _panels() -> Figure:
    figure = Figure(figsize=(11, 4), layout="constrained")
    for axes, data in zip(figure.subplots(1, 3), DATA, strict=True):
        _draw_cost(axes, data, SHORT)
    _add_legend(figure)
    return figure


def _add_legend(figure: Figure) -> None:
    handles = [Line2D([], [], color=c, marker="o", linestyle="") for c in KINDS.values()]
    figure.legend(handles, list(KINDS), loc="outside lower center", ncols=4, fontsize=8)


def _one_panel(data: str) -> Figure:
    figure = Figure(figsize=(5.2, 5.4), layout="constrained")
    _draw_cost(figure.subplots(), data, READOUTS)
    _add_legend(figure)
    return figure


def _draw_cost(axes: Axes, data: str, rows: Iterable[str]) -> None:
    """Test score over time of a training step, a point for each readout."""
    runs, cost = _runs("readout", data), readouts.summary(COST)["ratio"]
    points = {}
    for row in (row for row in rows if row in set(runs["row"])):
        scores, color = runs.loc[runs["row"] == row, "test"], KINDS[_kind(row)]
        point = points[READOUTS[row]] = float(cost[row]), float(scores.mean())
        axes.errorbar(*point, yerr=scores.std(), color=color, fmt="o", elinewidth=0.6, ms=5)
    axes.set(xscale="log", xlim=(0.9, 9), title=DATA[data])
    axes.set_xticks([1, 2, 4, 8], ["1", "2", "4", "8"])
    axes.minorticks_off()
    axes.set(xlabel="time of a training step, mean readout = 1")
    axes.set_ylabel(f"test {TITLES[runs['metric'].iloc[0]]}, standard deviation over seeds")
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
        ratios = [_model_ratio(frame, name, number) for number in steps]
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


if __name__ == "__main__":
    main()
