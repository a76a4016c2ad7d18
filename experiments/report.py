"""Table and figures of a study, made from its records alone: ``python -m experiments.report``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, ScalarFormatter

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
    with mpl.rc_context(fname=STYLE):
        save_figure(draw_points(records.runs), folder / "outcome.png")
        if records.curves["epoch"].nunique() > 1:
            save_figure(draw_learning(records), folder / "learning.png")
        if {"train_loss", "processor_seconds"} <= set(records.curves):
            save_figure(draw_fit(records), folder / "fit.png")
    return text


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a picture, all or nothing."""
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")


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
    notes = []
    if "compared with" in table:
        notes = [
            "differences are paired by seed, with the standard error of their mean in brackets"
        ]
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
        values = "; ".join(", ".join(map(_plain, sorted(set(own), key=_order))) for own in columns)
        configs = runs.groupby("row", sort=False)["config"].first().map(json.loads)
        chosen = ", ".join(
            " ".join([row, *(_plain(config.get(key)) for key in settings)])
            for row, config in configs.items()
        )
        lines += [
            "",
            f"{names} {'are' if len(settings) > 1 else 'is'} each row's best of {values}, "
            f"by the {valid} of a run with seed {seeds}, "
            f"which is not in the table: {chosen}.",
        ]
    return "\n".join(lines) + "\n"


def _plain(value: object) -> str:
    return "none" if value is None else str(value)


def _order(value: object) -> tuple[str, object]:
    return type(value).__name__, value


def _cells(runs: pd.DataFrame, row: str) -> dict[str, str]:
    """The cells of a row, by their titles."""
    own = runs[runs["row"] == row]
    first, title = own.iloc[0], TITLES[own["metric"].iloc[0]]
    form = ".2e" if first.metric in SMALL else ".4f"

    def score(key: str) -> str:
        values = own[key].dropna().to_list()
        return mean_and_deviation(values, form) if values else ""

    def difference(key: str) -> str:
        if row == first.reference:
            return ""
        return difference_text(differences(runs, row, first.reference, key))

    alone = (runs["row"] == runs["reference"]).all()
    alike = runs[_on_gpu(runs) == _on_gpu(own).iloc[0]]
    times = by_seed(alike, row, "train_seconds") / by_seed(alike, first.reference, "train_seconds")
    return {
        "row": row,
        "seeds": str(len(own)),
        f"valid {title}": score("valid"),
        f"test {title}": score("test"),
        "test, last": score("test_last"),
        "compared with": "" if row == first.reference else first.reference,
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


# ---- figures

COLORS = 7
"""Colours of the style."""
WIDTH = 7.2
"""Inches: the width of a page, so that text of 9 points keeps its size."""
SHARES = ("ap", "rocauc", "accuracy")
"""Metrics between 0 and 1, whose differences near 1 are shown by a logit scale."""
TICKS = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99)


def draw_learning(records: Records) -> Figure:
    """Valid and test score over epochs, the mean over seeds, a line for each row."""
    first, rows = records.runs.iloc[0], list(records.runs["row"].unique())
    is_fresh = first.split.startswith(FRESH)
    drawing = Figure(figsize=(WIDTH, 3.2 + 0.08 * len(rows)))
    parts = [part for part in ("valid", "test") if records.curves[part].notna().any()]
    if records.curves["valid"].equals(records.curves["test"]):
        parts = ["test"]
    panels = drawing.subplots(1, len(parts), sharey=True, squeeze=False)[0]
    for axes, part in zip(panels, parts, strict=True):
        for i, row in enumerate(rows):
            average = _average(records, row)[part]
            axes.plot(average.index, average, _style(i), color=f"C{i % COLORS}", label=row)
        axes.set(xlabel="training step" if is_fresh else "epoch", yscale=_scale(first.metric))
        axes.set_title(f"{part} {TITLES[first.metric]}, mean over seeds")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    _add_legend(drawing, panels[0])
    return drawing


def draw_fit(records: Records) -> Figure:
    """Valid score over processor time and over train loss, the mean over seeds, a line a row.

    At equal train loss a row that is lower overfits; one whose line ends at a higher train loss
    lacks fit or capacity.
    """
    first, rows = records.runs.iloc[0], list(records.runs["row"].unique())
    drawing = Figure(figsize=(WIDTH, 3.2 + 0.08 * len(rows)))
    left, right = drawing.subplots(1, 2, sharey=True)
    for i, row in enumerate(rows):
        average, style = _average(records, row), {"ls": _style(i), "color": f"C{i % COLORS}"}
        left.plot(average["processor_seconds"].cumsum(), average["valid"], **style, label=row)
        right.plot(average["train_loss"], average["valid"], **style)
    left.set(xlabel="processor time of training, seconds", xscale="log", ylabel="valid score")
    right.set(xlabel="train loss", xscale="log")
    for axes in (left, right):
        first_x, last_x = axes.dataLim.intervalx
        if last_x < 10 * first_x:  # powers of ten would be too few
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.xaxis.set_major_formatter(ScalarFormatter())
            axes.xaxis.set_minor_locator(NullLocator())
        axes.set(
            title=f"valid {TITLES[first.metric]}, mean over seeds", yscale=_scale(first.metric)
        )
        if first.metric in SHARES:
            axes.set_yscale("logit")
            axes.yaxis.set_major_locator(FixedLocator(TICKS))
            axes.yaxis.set_major_formatter(ScalarFormatter())
            axes.yaxis.set_minor_locator(NullLocator())
    _add_legend(drawing, left)
    return drawing


def _add_legend(drawing: Figure, axes: Axes) -> None:
    """Names the lines of a panel below all panels."""
    drawing.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)


def _average(records: Records, row: str) -> pd.DataFrame:
    """The curves of a row, the mean over its seeds."""
    own = records.curves[records.curves["row"] == row]
    return own.drop(columns=["row", "seed"]).groupby("epoch").mean()


def _style(number: int) -> str:
    return ("-", "--", ":", "-.")[number // COLORS % 4]


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
        for i, own in enumerate(values.values()):
            _strip(axes, own, i)
        axes.set_yticks(range(len(values)), list(values))
        axes.set_ylim(len(values) - 0.5, -0.5)
        axes.xaxis.set_major_locator(MaxNLocator(6))
    upper.set(xscale=_scale(first.metric), title=f"test {TITLES[first.metric]} {epoch}")
    for axes in lower:
        epochs = "" if is_fresh else f", mean of the last {LAST} epochs"
        axes.set_title(f"paired difference{epochs}")
        axes.axvline(0, color="0.5", linewidth=1)
    drawing.suptitle(f"{first.study}   (data: {first.data}; split: {first.split})")
    return drawing


def _scale(metric: str) -> str:
    return "log" if metric in SMALL else "linear"


def _strip(axes: Axes, values: list[float], y: int) -> None:
    axes.plot(values, [y] * len(values), "o", color=f"C{y % COLORS}", alpha=0.6)
    if values:
        axes.plot(sum(values) / len(values), y, "|", color="k", markersize=16)


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
