"""Records of a study: ``records.csv`` (a row a run), ``curves.csv`` (a row an evaluation),
``tuning.csv`` (a row a run that a setting was chosen by).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from experiments.common import DROPPED, UserError, write_text

FORMAT = 1
"""Raised when a column changes its meaning: older records are then refused."""
LAST = 4
"""Evaluations in ``test_last``, a score with less luck in it than one epoch's."""
FRESH = "fresh "
"""How the split of data that is drawn without end starts: scores are of the end of training, an
epoch is a training step, and ``train_seconds`` is the time of all steps.
"""

RECORDS = {
    "format": "int", "study": "str", "row": "str", "reference": "str", "seed": "int",
    "metric": "str", "valid": "float", "test": "float", "test_last": "float",
    "best_epoch": "int", "epochs": "int", "train_seconds": "float", "threads": "int",
    "parameters": "int", "data": "str", "split": "str", "graphs": "str", "fingerprint": "str",
    "revision": "str", "config": "str",
}  # fmt: skip
"""``test`` is the score of the epoch with the best ``valid``; ``train_seconds`` an epoch's median.
A study's further test scores follow, each a column.
"""
CURVES = {"row": "str", "seed": "int", "epoch": "int", "valid": "float", "test": "float"}
TUNING = {
    "row": "str", "setting": "str", "value": "str", "seed": "int", "valid_last": "float",
    "data": "str", "graphs": "str", "revision": "str", "config": "str",
}  # fmt: skip
"""Settings, and their values as JSON, separated by commas; the valid part's score, mean of the last
:data:`LAST` epochs, decides.
"""


class Run(NamedTuple):
    """One run of a study, with all its settings, as plain values, and the row that its differences
    are taken to; ``tries`` are the settings that it tries values of, None for a run of the table.
    """

    row: str
    seed: int
    settings: dict[str, Any]
    reference: str
    tries: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        """Of the run's folder."""
        if self.tries is None:
            return f"{self.row}-seed{self.seed}"
        return "-".join([self.row, *(f"{key}{self.settings.get(key)}" for key in self.tries)])

    @property
    def value(self) -> str:
        """The values that it tries, as JSON."""
        return ", ".join(json.dumps(self.settings.get(key)) for key in self.tries or ())


class Outcome(NamedTuple):
    """A finished run: columns of :data:`RECORDS` but format, study, row, reference and config, and
    further scores; a curve with columns epoch, valid, test and others; the score that values are
    chosen by.
    """

    record: dict[str, Any]
    curve: pd.DataFrame
    score: float


class Records:
    """The tables of a study in ``folder``, empty where there are none yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs = _read(folder / "records.csv", RECORDS)
        self.curves = _read(folder / "curves.csv", CURVES)
        self.tuning = _read(folder / "tuning.csv", TUNING)

    def find(self, run: Run) -> pd.DataFrame:
        """The record of that run, no row where there is none."""
        key, table = ("seed", self.runs) if run.tries is None else ("value", self.tuning)
        return table[(table["row"] == run.row) & (table[key] == getattr(run, key))]

    def add(self, study: str, run: Run, outcome: Outcome) -> None:
        """Takes in a finished run."""
        config = json.dumps(run.settings, sort_keys=True)
        row = {**outcome.record, "row": run.row, "seed": run.seed, "config": config}
        if run.tries is not None:
            row |= {"setting": ", ".join(run.tries), "value": run.value}
            row |= {"valid_last": outcome.score}
            self.tuning = _extended(self.tuning, {key: row[key] for key in TUNING}, TUNING)
            return
        row |= {"format": FORMAT, "study": study, "reference": run.reference}
        self.runs = _extended(self.runs, row, RECORDS)
        curve = outcome.curve.assign(row=run.row, seed=run.seed)
        others = (self.curves["row"] != run.row) | (self.curves["seed"] != run.seed)
        self.curves = _extended(self.curves[others], curve, CURVES)

    def tried(self, row: str) -> list[dict[str, Any]]:
        """The values of the tuned settings that were tried for a row."""
        own = self.tuning[self.tuning["row"] == row]
        return [_values(*pair) for pair in zip(own["setting"], own["value"], strict=True)]

    def best_values(self, is_lower_better: bool) -> dict[str, dict[str, Any]]:
        """The best values of each row's tuned settings."""
        groups = self.tuning.reset_index(drop=True).groupby("row", sort=False)["valid_last"]
        best = self.tuning.iloc[groups.idxmin() if is_lower_better else groups.idxmax()]
        return {own.row: _values(own.setting, own.value) for own in best.itertuples()}

    def write(self, rows: Sequence[str]) -> None:
        """Replaces the files, each at once, rows in that order and seeds in theirs."""
        place = {row: i for i, row in enumerate(rows)}
        # A curve before its run, which counts as made once it is in the records.
        tables = {"tuning": self.tuning, "curves": self.curves, "records": self.runs}
        for name, table in tables.items():
            if len(table):
                ordered = table.sort_values(
                    ["row", "seed"], key=lambda own: own.map(place) if own.name == "row" else own
                )
                write_text(self.folder / f"{name}.csv", ordered.to_csv(index=False))

    def check_same(self, identity: dict[str, str], of: str = "") -> None:
        """Raises ``UserError`` when there are runs of another study or other data than ``of``."""
        for table in (self.runs, self.tuning):
            for key, value in identity.items():
                for other in set(table.get(key, ())) - {value}:
                    raise UserError(
                        f"{of}{self.folder}: made on {key} {other}, not {value}, which are not "
                        "compared: choose another folder for records and runs"
                    )


def check_equal(where: str, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raises ``UserError`` naming the first setting in which a run differs from what is wanted."""
    for key in sorted((found.keys() | wanted.keys()) - DROPPED):
        if found.get(key) != wanted.get(key):
            raise UserError(
                f"{where}: made with {key} {found.get(key)}, not {wanted.get(key)}: keep to the "
                "settings of the row's other runs, or choose another name or folder"
            )


def _values(setting: str, value: str) -> dict[str, Any]:
    return dict(zip(setting.split(", "), json.loads(f"[{value}]"), strict=True))


def _extended(
    table: pd.DataFrame, new: dict[str, Any] | pd.DataFrame, columns: dict[str, str]
) -> pd.DataFrame:
    """The table with new rows, at least these columns first."""
    rows = pd.DataFrame([new]) if isinstance(new, dict) else new
    rows = rows[[*columns, *rows.columns.difference(list(columns), sort=False)]].astype(columns)
    return pd.concat([table, rows]) if len(table) else rows


def _read(path: Path, columns: dict[str, str]) -> pd.DataFrame:
    if not path.exists():
        return pd.DataFrame(columns=list(columns)).astype(columns)
    try:
        missing = {name: "" for name, kind in columns.items() if kind == "float"}
        table = pd.read_csv(path, dtype=columns, keep_default_na=False, na_values=missing)
        others = table.columns.difference(list(columns))
        table[others] = table[others].apply(pd.to_numeric)
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): delete it") from error
    own = list(table.columns[: len(columns)])
    if own != list(columns) or ("format" in own and (table["format"] != FORMAT).any()):
        raise UserError(f"{path} is of another version: choose another folder, or delete it")
    return table
