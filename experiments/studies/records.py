"""Records of a study: ``records.csv`` (a row a run), ``curves.csv``, ``tuning.csv`` (a row a run
that a setting was chosen by), ``failures.csv``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from experiments.common import UserError, write_text

FORMAT = 1
"""Raised when a column is added or changes its meaning: older records are then refused."""
LAST = 4
"""Evaluations in ``test_last``, a score with less luck in it than one epoch's."""

RECORDS = {
    "format": "int", "study": "str", "row": "str", "reference": "str", "seed": "int",
    "metric": "str", "valid": "float", "test": "float", "test_last": "float",
    "best_epoch": "int", "epochs": "int", "train_seconds": "float", "threads": "int",
    "parameters": "int", "data": "str", "split": "str", "graphs": "str", "fingerprint": "str",
    "revision": "str", "config": "str",
}  # fmt: skip
"""``test`` is that of the epoch with the best ``valid``; ``train_seconds`` an epoch's median."""
CURVES = {"row": "str", "seed": "int", "epoch": "int", "valid": "float", "test": "float"}
TUNING = {
    "row": "str", "setting": "str", "value": "str", "seed": "int", "valid_last": "float",
    "data": "str", "graphs": "str", "revision": "str", "config": "str",
}  # fmt: skip
"""``value`` as JSON; the valid part's score, mean of the last :data:`LAST` epochs, decides."""
FAILURES = {"row": "str", "seed": "int", "message": "str"}


class Run(NamedTuple):
    """One run of a study, with all its settings, as plain values, and the row that its differences
    are taken to; ``tries`` is the setting that it tries a value of, None for a run of the table.
    """

    row: str
    seed: int
    settings: dict[str, Any]
    reference: str
    tries: str | None = None

    @property
    def name(self) -> str:
        """Of the run's folder."""
        if self.tries is None:
            return f"{self.row}-seed{self.seed}"
        return f"{self.row}-{self.tries}{self.settings[self.tries]}"


class Outcome(NamedTuple):
    """A finished run: columns of :data:`RECORDS` but format, study, row, reference and config; a
    curve with columns epoch, valid, test; and the score that a value is chosen by.
    """

    record: dict[str, Any]
    curve: pd.DataFrame
    score: float


class Records:
    """The tables of a study in ``folder``, empty where there are none yet.

    ``lower`` says that a smaller score is the better one.
    """

    def __init__(self, folder: Path, lower: bool = False) -> None:
        self.folder, self.lower = folder, lower
        self.runs = _read(folder / "records.csv", RECORDS)
        if (self.runs["format"] != FORMAT).any():
            raise _other_version(folder / "records.csv")
        self.curves = _read(folder / "curves.csv", CURVES)
        self.tuning = _read(folder / "tuning.csv", TUNING)
        self.failures = _read(folder / "failures.csv", FAILURES)

    def has(self, run: Run) -> bool:
        """Whether that run is recorded."""
        if run.tries is None:
            return bool(_is(self.runs, run.row, run.seed).any())
        return bool(self._tried(run).any())

    def _tried(self, run: Run) -> pd.Series:
        value = json.dumps(run.settings[str(run.tries)])
        return (self.tuning["row"] == run.row) & (self.tuning["value"] == value)

    def add(self, study: str, run: Run, outcome: Outcome) -> None:
        """Takes in a finished run."""
        config = json.dumps(run.settings, sort_keys=True)
        self.failures = self.failures[self.failures["row"] != run.name]
        if run.tries is not None:
            value = json.dumps(run.settings[run.tries])
            row = {**outcome.record, "row": run.row, "setting": run.tries, "value": value}
            row |= {"seed": run.seed, "valid_last": outcome.score, "config": config}
            self.tuning = pd.concat([self.tuning, _typed(pd.DataFrame([row]), TUNING)])
            return
        row = {"format": FORMAT, "study": study, "row": run.row, "reference": run.reference}
        row |= {**outcome.record, "seed": run.seed, "config": config}
        curve = outcome.curve.assign(row=run.row, seed=run.seed)
        self.runs = pd.concat([self.runs, _typed(pd.DataFrame([row]), RECORDS)])
        self.curves = pd.concat([self.curves, _typed(curve, CURVES)])

    def fail(self, run: Run, message: str) -> None:
        """Takes in that a run failed; its row is the run's name."""
        self.failures = self.failures[self.failures["row"] != run.name]
        failure = pd.DataFrame([{"row": run.name, "seed": run.seed, "message": message}])
        self.failures = pd.concat([self.failures, _typed(failure, FAILURES)])

    def best_values(self) -> dict[str, tuple[str, Any]]:
        """Of each row: which setting was tuned, and its best value."""
        groups = self.tuning.reset_index(drop=True).groupby("row", sort=False)["valid_last"]
        best = self.tuning.iloc[groups.idxmin() if self.lower else groups.idxmax()]
        return {b.row: (b.setting, json.loads(b.value)) for b in best.itertuples()}

    def write(self, rows: Sequence[str]) -> None:
        """Replaces the files, each at once, rows in that order and seeds in theirs."""
        tables = {"curves": self.curves, "records": self.runs}  # a curve before what counts
        seldom = {"tuning": self.tuning, "failures": self.failures}
        place = {row: i for i, row in enumerate(rows)}
        for name, table in (tables | seldom).items():
            path = self.folder / f"{name}.csv"
            if name in seldom and not len(table):
                path.unlink(missing_ok=True)
                continue
            order = table.assign(_place=table["row"].map(lambda row: place.get(row, len(place))))
            order = order.sort_values(["_place", "seed"], kind="stable").drop(columns="_place")
            write_text(path, order.to_csv(index=False))

    def check(self, run: Run, data: dict[str, Any]) -> None:
        """Raises ``UserError`` when a run is recorded with other settings or of other data."""
        table, file = (
            (self.runs[_is(self.runs, run.row, run.seed)], "records.csv")
            if run.tries is None
            else (self.tuning[self._tried(run)], "tuning.csv")
        )
        for found in table.to_dict("records"):
            where = f"{self.folder / file}, {run.name}"
            for key, value in data.items():
                if found[key] != value:
                    raise UserError(
                        f"{where}: made on {key} {found[key]}, not {value}: choose another --out "
                        "and --runs-dir"
                    )
            check_equal(where, json.loads(found["config"]), run.settings)

    def check_one_study(self) -> None:
        """Raises ``UserError`` when the runs cannot be compared."""
        where = self.folder / "records.csv"
        if not len(self.runs):
            raise UserError(f"{where} has no run yet")
        for column in ("study", "data", "split", "metric", "graphs"):
            values = self.runs[column].unique()
            if len(values) > 1:
                raise UserError(f"{where} mixes runs of {column} {' and '.join(values)}")
        for seed, prints in self.runs.groupby("seed")["fingerprint"].unique().items():
            if len(prints) > 1:
                raise UserError(f"{where}: runs of seed {seed} had different molecules or labels")


def check_equal(where: str, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raises ``UserError`` naming the first setting in which a run differs from what is wanted."""
    for key in sorted(found.keys() | wanted.keys()):
        if found.get(key) != wanted.get(key):
            raise UserError(
                f"{where}: made with {key} {found.get(key)}, not {wanted.get(key)}: continue with "
                "the settings it was started with, or choose another --out and --runs-dir"
            )


def _is(table: pd.DataFrame, row: str, seed: int) -> pd.Series:
    return (table["row"] == row) & (table["seed"] == seed)


def _typed(table: pd.DataFrame, columns: dict[str, str]) -> pd.DataFrame:
    return table[list(columns)].astype(columns)


def _other_version(path: Path) -> UserError:
    return UserError(f"{path} is of another version: choose another --out, or delete it")


def _read(path: Path, columns: dict[str, str]) -> pd.DataFrame:
    if not path.exists():
        return _typed(pd.DataFrame(columns=list(columns)), columns)
    try:
        table = pd.read_csv(path, dtype=columns, keep_default_na=False)
    except (ValueError, pd.errors.ParserError) as error:
        raise UserError(f"{path} is damaged ({error}): delete it") from error
    if list(table.columns) != list(columns):
        raise _other_version(path)
    return table
