"""Tables and figures of a study, made from its records alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median, stdev

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.common import mean_and_deviation, write_text
from experiments.molpcba.evaluation import TITLES
from experiments.studies.records import LAST, Records

SCORES = {"test": "at the best valid epoch", "test_last": f"mean of the last {LAST} epochs"}


def report(folder: Path) -> str:
    """Makes ``table.md``, ``outcome.png`` and ``learning.png`` of the records in ``folder``, and of
    nothing else; returns the table.
    """
    records = Records(folder)
    records.check_one_study()
    text = markdown(records)
    write_text(folder / "table.md", text)
    draw_points(records.runs).savefig(folder / "outcome.png", dpi=130)
    draw_learning(records).savefig(folder / "learning.png", dpi=130)
    return text


# ---- table


def markdown(records: Records) -> str:
    """A row for each row of the study: scores, paired differences, time, parameters."""
    runs = records.runs
    first, title = runs.iloc[0], TITLES[runs["metric"].iloc[0]]
    seeds = "a split for each seed" if runs["fingerprint"].nunique() > 1 else "one split"
    revisions = ", ".join(sorted(runs["revision"].unique()))
    threads = ", ".join(map(str, sorted(runs["threads"].unique())))
    lines = [
        f"{title} on {first.data} ({first.split}, {seeds}); mean ± standard deviation over seeds. "
        f"Differences are paired by seed, with the standard error of their mean in brackets; last: "
        f"mean of the last {LAST} epochs. Seconds are of training an epoch, on {threads} "
        f"thread(s); code {revisions}.",
        "",
        f"| row | seeds | valid {title} | test {title} | test, last | compared with "
        "| difference, test | difference, last | seconds | ratio | parameters |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [_line(records, row) for row in runs["row"].unique()]
    tried = records.tuning
    if len(tried):
        names, seeds = (", ".join(map(str, tried[key].unique())) for key in ("setting", "seed"))
        values = ", ".join(sorted(tried["value"].unique(), key=float))
        chosen = ", ".join(f"{row} {value}" for row, (_, value) in records.best_values().items())
        lines += [
            "",
            f"{names} is each row's best of {values}, by the valid score (mean of the last {LAST} "
            f"epochs) of a run with seed {seeds}, which is not in the table: {chosen}.",
        ]
    return "\n".join(lines) + "\n"


def _line(records: Records, row: str) -> str:
    own = records.runs[records.runs["row"] == row].set_index("seed")
    failed = int(records.failures["row"].str.fullmatch(rf"{row}-seed\d+").sum())
    reference = own["reference"].iloc[0]
    cells = [row, f"{len(own)} ({failed} failed)" if failed else str(len(own))]
    cells += [mean_and_deviation(list(own[key])) for key in ("valid", "test", "test_last")]
    cells.append("" if row == reference else reference)
    for key in ("test", "test_last"):
        values = differences(records.runs, row, reference, key)
        cells.append("" if row == reference else difference_text(values))
    ratios = ratios_of_time(records.runs, row, reference)
    cells.append(f"{own['train_seconds'].median():.2f}")
    cells.append(f"{median(ratios):.2f}" if ratios else "")
    cells.append(f"{own['parameters'].iloc[0]:,}")
    return "| " + " | ".join(cells) + " |"


def differences(runs: pd.DataFrame, row: str, reference: str, key: str) -> list[float]:
    """``key`` of ``row`` minus that of ``reference``, for each seed that both have."""
    own, other = _by_seed(runs, row, key), _by_seed(runs, reference, key)
    return [own[seed] - other[seed] for seed in own if seed in other]


def ratios_of_time(runs: pd.DataFrame, row: str, reference: str) -> list[float]:
    """Seconds of ``row`` over those of ``reference``, for each seed that both have."""
    own, other = (_by_seed(runs, name, "train_seconds") for name in (row, reference))
    return [own[seed] / other[seed] for seed in own if seed in other]


def difference_text(values: Sequence[float]) -> str:
    """``+0.0123 ± 0.0040 (0.0018)``: mean, deviation, standard error; of one value: itself."""
    if len(values) < 2:
        return "".join(f"{value:+.4f}" for value in values)
    deviation = stdev(values)
    return f"{mean(values):+.4f} ± {deviation:.4f} ({deviation / len(values) ** 0.5:.4f})"


def _by_seed(runs: pd.DataFrame, row: str, key: str) -> dict[int, float]:
    own = runs[runs["row"] == row]
    return dict(zip(own["seed"], own[key], strict=True))


# ---- figures


def draw_learning(records: Records) -> Figure:
    """Valid and test score over epochs, the mean over seeds, a line for each row."""
    rows = list(records.runs["row"].unique())
    drawing = Figure(figsize=(11, 4 + 0.12 * len(rows)), layout="constrained")
    title = TITLES[records.runs["metric"].iloc[0]]
    panels = drawing.subplots(1, 2, sharey=True)
    for axes, part in zip(panels, ("valid", "test"), strict=True):
        for i, row in enumerate(rows):
            curves = records.curves[records.curves["row"] == row]
            average = curves.groupby("epoch")[part].mean()
            style = ("-", "--", ":")[i // 10 % 3]
            axes.plot(average.index, average, style, color=f"C{i % 10}", label=row)
        axes.set(xlabel="epoch", title=f"{part} {title}, mean over seeds")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
    drawing.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return drawing


def draw_points(runs: pd.DataFrame) -> Figure:
    """Scores, and paired differences to the reference: a point for each seed, a bar at the mean."""
    references = runs.groupby("row", sort=False)["reference"].first()
    rows, title = list(references.index), TITLES[runs["metric"].iloc[0]]
    drawing = Figure(figsize=(12, 1.6 + 0.3 * len(rows)), layout="constrained")
    left, right = drawing.subplots(1, 2, sharey=True)
    for i, row in enumerate(rows):
        _strip(left, runs.loc[runs["row"] == row, "test"].to_list(), i)
        if row != references[row]:
            _strip(right, differences(runs, row, references[row], "test_last"), i)
    left.set_yticks(range(len(rows)), rows)
    compared = ["" if row == other else f"minus {other}" for row, other in references.items()]
    right.secondary_yaxis("right").set_yticks(range(len(rows)), compared)
    left.set(ylim=(len(rows) - 0.5, -0.5))
    left.set_title(f"test {title} {SCORES['test']}", fontsize="medium")
    right.set_title(f"paired difference, {SCORES['test_last']}", fontsize="medium")
    right.axvline(0, color="0.5", lw=1)
    for axes in (left, right):
        axes.grid(alpha=0.25)
    first = runs.iloc[0]
    drawing.suptitle(f"{first.study}   (data: {first.data}, {first.split} split)", fontsize=9)
    return drawing


def _strip(axes: Axes, values: list[float], y: int) -> None:
    axes.plot(values, [y] * len(values), "o", color=f"C{y % 10}", alpha=0.6)
    if values:
        axes.plot(sum(values) / len(values), y, "|", color="k", markersize=16)
