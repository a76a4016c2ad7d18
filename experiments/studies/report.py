"""Table and figures of a study, made from its records alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.common import UserError, mean_and_deviation, write_text
from experiments.molpcba.evaluation import TITLES as MOLECULES
from experiments.studies.records import FRESH, LAST, RECORDS, Records

TITLES = {**MOLECULES, "mse": "squared error", "accuracy": "accuracy"}
SMALL = ("mse",)
"""Metrics whose values differ by orders of magnitude."""


def report(folder: Path) -> str:
    """Makes ``table.md``, ``outcome.png`` and, of scores along the runs, ``learning.png`` of the
    records in ``folder``, and of nothing else; returns the table.
    """
    records = Records(folder)
    text = markdown(records)
    write_text(folder / "table.md", text)
    draw_points(records.runs).savefig(folder / "outcome.png", dpi=130)
    if records.curves["epoch"].nunique() > 1:
        draw_learning(records).savefig(folder / "learning.png", dpi=130)
    return text


# ---- table


def markdown(records: Records) -> str:
    """A row for each row of the study: scores, paired differences, time, parameters."""
    if records.runs.empty:
        raise UserError(f"{records.folder} has no record of a run yet: make the study first")
    runs, tried = records.runs, records.tuning
    first, title = runs.iloc[0], TITLES[runs["metric"].iloc[0]]
    split, span, valid = first.split, "a run", "score"
    table = pd.DataFrame([_cells(runs, row) for row in runs["row"].unique()])
    if first.split == FRESH:
        table = table.drop(columns=list(table.filter(regex="valid|last")))
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


def draw_learning(records: Records) -> Figure:
    """Valid and test score over epochs, the mean over seeds, a line for each row."""
    first, rows = records.runs.iloc[0], list(records.runs["row"].unique())
    is_fresh = first.split == FRESH
    drawing = Figure(figsize=(11, 4 + 0.12 * len(rows)), layout="constrained")
    parts = ["test"] if is_fresh else ["valid", "test"]
    parts = [part for part in parts if records.curves[part].notna().any()]
    panels = drawing.subplots(1, len(parts), sharey=True, squeeze=False)[0]
    for axes, part in zip(panels, parts, strict=True):
        for i, row in enumerate(rows):
            curves = records.curves[records.curves["row"] == row]
            average = curves.groupby("epoch")[part].mean()
            style = ("-", "--", ":")[i // 10 % 3]
            axes.plot(average.index, average, style, color=f"C{i % 10}", label=row)
        axes.set(xlabel="training step" if is_fresh else "epoch", yscale=_scale(first.metric))
        axes.set_title(f"{part} {TITLES[first.metric]}, mean over seeds")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
    drawing.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return drawing


def draw_points(runs: pd.DataFrame) -> Figure:
    """Scores, and paired differences to the reference: a point for each seed, a bar at the mean."""
    references = runs.groupby("row", sort=False)["reference"].first()
    first, rows = runs.iloc[0], list(references.index)
    is_fresh = first.split == FRESH
    drawing = Figure(figsize=(12, 1.6 + 0.3 * len(rows)), layout="constrained")
    panels = 2 if (runs["row"] != runs["reference"]).any() else 1
    left, *others = drawing.subplots(1, panels, sharey=True, squeeze=False)[0]
    for i, row in enumerate(rows):
        _strip(left, by_seed(runs, row, "test").to_list(), i)
    left.set_yticks(range(len(rows)), rows)
    left.set(ylim=(len(rows) - 0.5, -0.5), xscale=_scale(first.metric))
    epoch = "after training" if is_fresh else "at the best valid epoch"
    left.set_title(f"test {TITLES[first.metric]} {epoch}", fontsize="medium")
    for right in others:
        for i, (row, other) in enumerate(references.items()):
            if row != other:
                _strip(right, differences(runs, str(row), other, "test_last"), i)
        compared = ["" if row == other else f"minus {other}" for row, other in references.items()]
        right.secondary_yaxis("right").set_yticks(range(len(rows)), compared)
        right.set_title(f"paired difference, mean of the last {LAST} epochs", fontsize="medium")
        right.axvline(0, color="0.5", lw=1)
    for axes in (left, *others):
        axes.grid(alpha=0.25)
    drawing.suptitle(f"{first.study}   (data: {first.data}; split: {first.split})", fontsize=9)
    return drawing


def _scale(metric: str) -> str:
    return "log" if metric in SMALL else "linear"


def _strip(axes: Axes, values: list[float], y: int) -> None:
    axes.plot(values, [y] * len(values), "o", color=f"C{y % 10}", alpha=0.6)
    if values:
        axes.plot(sum(values) / len(values), y, "|", color="k", markersize=16)
