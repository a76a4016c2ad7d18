"""The table of a study, made from its records alone."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, median, stdev

import pandas as pd

from experiments.molpcba.ablations.records import LAST, Records
from experiments.molpcba.evaluation import TITLES
from experiments.molpcba.seeds import mean_and_deviation


def markdown(records: Records) -> str:
    """A row for each row of the study: scores, paired differences, time, parameters."""
    runs = records.runs
    first, title = runs.iloc[0], TITLES[runs["metric"].iloc[0]]
    splits = runs["fingerprint"].nunique()
    seeds = "a split for each seed" if splits > 1 else "one split"
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
    return "\n".join(lines + _tuning(records)) + "\n"


def _tuning(records: Records) -> list[str]:
    """What was tuned, how, and which value each row has."""
    tried = records.tuning
    if not len(tried):
        return []
    settings, seeds = (", ".join(map(str, tried[key].unique())) for key in ("setting", "seed"))
    values = ", ".join(sorted(tried["value"].unique(), key=float))
    chosen = ", ".join(f"{row} {value}" for row, (_, value) in records.best_values().items())
    return [
        "",
        f"{settings} is each row's best of {values}, by the valid score (mean of the last {LAST} "
        f"epochs) of a run with seed {seeds}, which is not in the table: {chosen}.",
    ]


def _line(records: Records, row: str) -> str:
    own = records.runs[records.runs["row"] == row].set_index("seed")
    failed = int((records.failures["row"] == row).sum())
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
