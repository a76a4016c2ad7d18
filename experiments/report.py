"""Table and figures of a study, made from its records alone: ``python -m experiments.report``."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter, NullLocator, ScalarFormatter

from experiments.common import UserError, atomic, command, mean_and_deviation, write_text
from experiments.metrics import SMALL, TITLES
from experiments.records import FRESH, LAST, RECORDS, Records

STYLE = Path(__file__).parent / "pictures.mplstyle"
"""Style of every picture."""


def report(folder: Path) -> str:
    """Makes ``table.md``, ``outcome.png`` and, of scores along the runs, ``learning.png`` and
    ``fit.png`` of the records in ``folder``, and of nothing else; returns the table.
    """
    records = Records(folder)
    text = markdown(records)
    write_text(folder / "table.md", text)
    save_picture(folder / "outcome.png", draw_points, records.runs)
    if records.curves["epoch"].nunique() > 1:
        save_picture(folder / "learning.png", draw_learning, records)
    if {"train_loss", "processor_seconds"} <= set(records.curves):
        save_picture(folder / "fit.png", draw_fit, records)
    return text


def save_picture(path: Path, draw: Callable[..., Figure], *of: Any) -> None:
    """Writes the picture ``draw(*of)``, in the project's style, all or nothing."""
    with mpl.rc_context(fname=STYLE), atomic(path) as temporary:
        draw(*of).savefig(temporary, dpi=130, format="png")


# ---- table


def markdown(records: Records) -> str:
    """A row for each row of the study: scores, paired differences, time, parameters."""
    if records.runs.empty:
        raise UserError(f"{records.folder} has no record of a run yet: make the study first")
    runs, tried = records.runs, records.tuning
    first, title = runs.iloc[0], TITLES[runs["metric"].iloc[0]]
    split, span = first.split, "a run"
    table = pd.DataFrame([_cells(runs, row) for row in runs["row"].unique()])
    if runs["test_last"].equals(runs["test"]):
        table = table.drop(columns=list(table.filter(regex="last")))
    if runs["valid"].equals(runs["test"]):  # older records of fresh sets
        table = table.drop(columns=list(table.filter(regex="valid")))
    if first.split.startswith(FRESH):
        valid = "valid score"
    else:
        split += ", a split for each seed" if runs["fingerprint"].nunique() > 1 else ", one split"
        span, valid = "an epoch", f"valid score (mean of the last {LAST} epochs)"
    table = table.loc[:, (table != "").any()]
    paired = "differences are paired by seed, with the standard error of their mean in brackets"
    notes = [paired] if "compared with" in table else []
    if "test, last" in table:
        notes.append(f"last: mean of the last {LAST} epochs")
    keys = ("revision", "threads")
    revisions, threads = (", ".join(map(str, sorted(runs[key].unique()))) for key in keys)
    where = f"{threads} thread(s)"
    if (on_gpu := _on_gpu(runs)).any():
        rows = ", ".join(runs["row"][on_gpu].unique())
        where += " and a GPU" if on_gpu.all() else f" or, of {rows}, a GPU"
    lines = [
        f"{title} on {first.data} ({split}); mean ± standard deviation over seeds. "
        f"{'; '.join(notes).capitalize()}{'. ' if notes else ''}"
        f"Seconds are of training {span}, on {where}; code {revisions}.",
        "",
        *(f"| {' | '.join(cells)} |" for cells in [table.columns, *table.to_numpy()]),
    ]
    lines.insert(3, "|---" * len(table.columns) + "|")
    if len(tried):
        names, seeds = (", ".join(map(str, tried[key].unique())) for key in ("setting", "seed"))
        settings = names.split(", ")
        columns = zip(*tried["value"].map(lambda own: json.loads(f"[{own}]")), strict=True)
        values = "; ".join(
            ", ".join(["none"] * (None in own) + [str(one) for one in sorted({*own} - {None})])
            for own in columns
        )
        configs = runs.groupby("row", sort=False)["config"].first().map(json.loads)
        chosen = ", ".join(
            " ".join([row, *(str(config.get(key, "none")) for key in settings)])
            for row, config in configs.items()
        )
        lines += [
            "",
            f"{names} {'are' if len(settings) > 1 else 'is'} each row's best of {values}, "
            f"by the {valid} of a run with seed {seeds}, "
            f"which is not in the table: {chosen}.",
        ]
    return "\n".join(lines) + "\n"


def _cells(runs: pd.DataFrame, row: str) -> dict[str, str]:
    """The cells of a row, by their titles."""
    own = runs[runs["row"] == row]
    first, title = own.iloc[0], TITLES[own["metric"].iloc[0]]
    form = ".2e" if first.metric in SMALL else ".4f"

    def score(key: str) -> str:
        values = own[key].dropna().to_list()
        return mean_and_deviation(values, form) if values else ""

    def difference(key: str) -> str:
        return other and difference_text(differences(runs, row, other, key))

    other = "" if row == first.reference else first.reference
    alone = (runs["row"] == runs["reference"]).all()
    alike = runs[_on_gpu(runs) == _on_gpu(own).iloc[0]]
    times = by_seed(alike, row, "train_seconds") / by_seed(alike, first.reference, "train_seconds")
    return {
        "row": row,
        "seeds": str(len(own)),
        f"valid {title}": score("valid"),
        f"test {title}": score("test"),
        "test, last": score("test_last"),
        "compared with": other,
        "difference, test": difference("test"),
        "difference, last": difference("test_last"),
        **{name.replace("_", " "): score(name) for name in runs.columns[len(RECORDS) :]},
        "seconds": f"{by_seed(alike, row, 'train_seconds').median():.2f}",
        "ratio": "" if alone or times.isna().all() else f"{times.median():.2f}",
        "parameters": f"{first.parameters:,}",
    }


def _on_gpu(runs: pd.DataFrame) -> pd.Series:
    """Whether each run was asked to be on a GPU: its time compares only with those that were."""
    return runs["config"].map(lambda config: json.loads(config).get("accelerator") == "gpu")


def by_seed(runs: pd.DataFrame, row: str, key: str) -> pd.Series:
    """``key`` of the runs of ``row``, by their seeds."""
    return runs[runs["row"] == row].set_index("seed")[key]


def differences(runs: pd.DataFrame, row: str, reference: str, key: str) -> list[float]:
    """``key`` of ``row`` minus that of ``reference``, for each seed that both have."""
    return (by_seed(runs, row, key) - by_seed(runs, reference, key)).dropna().to_list()


def difference_text(values: Sequence[float]) -> str:
    """``+0.0123 ± 0.0040 (0.0018)``: mean, deviation, standard error; of one value: itself."""
    if len(values) < 2:
        return "".join(f"{value:+.4f}" for value in values)
    deviation = stdev(values)
    return f"{mean(values):+.4f} ± {deviation:.4f} ({deviation / len(values) ** 0.5:.4f})"


# ---- pictures

COLORS = 7
"""Colours of the style."""
WIDTH = 7.2
"""Inches: the width of a page, so that text of 9 points keeps its size."""
SHARES = ("ap", "rocauc", "accuracy")
"""Metrics between 0 and 1, whose differences near 1 are shown by a logit scale."""
TICKS = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99)
SPAN = 0.2
"""Least range of an axis of a run, over its largest value: less is no change worth seeing."""


def draw_learning(records: Records) -> Figure:
    """Valid and test score over epochs."""
    first, curves = records.runs.iloc[0], records.curves
    parts = [part for part in ("valid", "test") if curves[part].notna().any()]
    if curves["valid"].equals(curves["test"]):
        parts = ["test"]
    drawing = _draw_curves(records, [("epoch", part) for part in parts])
    for axes in drawing.axes:
        axes.set_xlabel("training step" if first.split.startswith(FRESH) else "epoch")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return drawing


def draw_fit(records: Records) -> Figure:
    """Valid score over processor time and over train loss.

    At equal train loss a row that is lower overfits; one whose line ends at a higher train loss
    lacks fit or capacity.
    """
    drawing = _draw_curves(records, [("processor_seconds", "valid"), ("train_loss", "valid")])
    labels = ("processor time of training, seconds", "train loss")
    for axes, label in zip(drawing.axes, labels, strict=True):
        axes.set(xlabel=label, xscale="log")
        low, high = axes.dataLim.intervalx
        if high < 10 * low:  # powers of ten would be too few
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.xaxis.set_major_formatter(ScalarFormatter())
            axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
        if records.runs["metric"].iloc[0] in SHARES:
            axes.set_yscale("logit")
            axes.yaxis.set_major_locator(FixedLocator(TICKS))
            axes.yaxis.set_major_formatter(ScalarFormatter())
            axes.yaxis.set_minor_locator(NullLocator())
    drawing.axes[0].set_ylabel("valid score")
    return drawing


def _draw_curves(records: Records, columns: Sequence[tuple[str, str]]) -> Figure:
    """Panels of one column of the curves over another, the mean over seeds, a line for each row."""
    rows, metric = list(records.runs["row"].unique()), records.runs["metric"].iloc[0]
    drawing = Figure(figsize=(WIDTH, 3.2 + 0.08 * len(rows)))
    panels = drawing.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for i, row in enumerate(rows):
        own = records.curves[records.curves["row"] == row].drop(columns=["row", "seed"])
        average = own.groupby("epoch", as_index=False).mean()
        if "processor_seconds" in average:
            average["processor_seconds"] = average["processor_seconds"].cumsum()
        style = {"ls": ("-", "--", ":", "-.")[i // COLORS % 4], "color": f"C{i % COLORS}"}
        for axes, (x, y) in zip(panels, columns, strict=True):
            axes.plot(average[x], average[y], **style, label=row)
            axes.set_title(f"{y} {TITLES[metric]}, mean over seeds")
            axes.set_yscale("log" if metric in SMALL else "linear")
    lines = panels[0].get_legend_handles_labels()
    drawing.legend(*lines, loc="outside lower center", ncols=3)
    return drawing


def draw_points(runs: pd.DataFrame) -> Figure:
    """Scores and paired differences to the reference: a point for each seed, a bar at the mean."""
    references = runs.groupby("row", sort=False)["reference"].first()
    first, rows = runs.iloc[0], list(references.index)
    is_fresh = first.split.startswith(FRESH)
    epoch = "after training" if is_fresh else "at the best valid epoch"
    scores = {row: by_seed(runs, row, "test").to_list() for row in rows}
    compared = {
        f"{row} \N{MINUS SIGN} {other}": differences(runs, str(row), other, "test_last")
        for row, other in references.items()
        if row != other
    }
    panels = [values for values in (scores, compared) if values]
    sizes = [0.9 + 0.24 * len(values) for values in panels]
    drawing = Figure(figsize=(WIDTH, 0.3 + sum(sizes)))
    upper, *lower = drawing.subplots(len(panels), 1, height_ratios=sizes, squeeze=False)[:, 0]
    for axes, values in zip((upper, *lower), panels, strict=True):
        for y, own in enumerate(values.values()):
            axes.plot(own, [y] * len(own), "o", color=f"C{y % COLORS}", alpha=0.6)
            if own:
                axes.plot(mean(own), y, "|", color="k", markersize=16)
        axes.set_yticks(range(len(values)), list(values))
        axes.set_ylim(len(values) - 0.5, -0.5)
        axes.xaxis.set_major_locator(MaxNLocator(6))
    scale = "log" if first.metric in SMALL else "linear"
    upper.set(xscale=scale, title=f"test {TITLES[first.metric]} {epoch}")
    for axes in lower:
        epochs = "" if is_fresh else f", mean of the last {LAST} epochs"
        axes.set_title(f"paired difference{epochs}")
        axes.axvline(0, color="0.5", linewidth=1)
    drawing.suptitle(f"{first.study}   (data: {first.data}; split: {first.split})")
    return drawing


def draw_run(metrics: pd.DataFrame, results: dict[str, Any], name: str) -> Figure:
    """Loss and score of a run of the trainer over its epochs, the best epoch, and the score of the
    best constant; with EA also step size, momentum and regulariser weight, a line for each EA layer
    (Figure C.1 of the paper).
    """
    score, data, panels = TITLES[results["metric"]], results["data"], {}
    for title, columns in {
        "loss": "^(train|valid|test)_loss$",
        score: f"_{results['metric']}$",
        "inner step size": "_step_size$",
        "inner momentum": "_momentum$",
        "weight of ||y||²": "_regulariser$",
    }.items():
        if len((table := metrics.filter(regex=columns)).columns):
            panels[title] = table
    rows, across = -(-len(panels) // 3), min(3, len(panels))
    figure = Figure(figsize=(WIDTH, 0.4 + 2.6 * rows))
    for place, (title, table) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(rows, across, place)
        for column in table:  # train_loss: train; conv0_momentum: layer 1
            part = str(column).partition("_")[0]
            label = re.sub(r"conv(\d+)", lambda match: f"layer {int(match[1]) + 1}", part)
            axes.plot(table.index, table[column], "o-" if len(table) < 3 else "-", label=label)
        best = axes.axvline(results["best_epoch"], color="0.6", lw=1)
        if title == score:
            best.set_label("best epoch")
            axes.axhline(results["chance"], color="0.5", ls="--", label="best constant")
        low, high = axes.get_ylim()  # so wide that 0.899 to 0.901 does not look like a change
        missing = max(0.0, SPAN * max(abs(low), abs(high)) - (high - low))
        axes.set(title=title, xlabel="epoch", ylim=(low - missing / 2, high + missing / 2))
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.legend()
    figure.suptitle(f"{name}   (data: {data['name']}, {data['split']} split)")
    return figure


@command
def main(argv: Sequence[str]) -> None:
    """Makes table and pictures of records that are there."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.report",
        description="Make table and pictures of the records of a study. Nothing is trained.",
    )
    parser.add_argument("folders", nargs="+", type=Path, help="folders with a records.csv")
    for folder in parser.parse_args(argv).folders:
        print(report(folder))


if __name__ == "__main__":
    sys.exit(main())
