"""What is kept of a study: ``records.csv`` (a row a run), ``curves.csv``, ``tuning.csv`` (a row a
run that a setting was chosen by), ``failures.csv``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.molpcba.config import flag
from experiments.molpcba.errors import UserError
from experiments.molpcba.runs import RunFolder, read_results, write_text

FORMAT = 1
"""Raised when a column is added or changes its meaning: older records are then refused."""

LAST = 4
"""Evaluations in ``test_last``, a score with less luck in it than one epoch's."""

PLACES = ("root", "csv", "runs_dir", "name", "resume", "seeds")
"""Settings that say where a run lies, not what it is."""

SHARED = {"ea_lr": "lr", "ea_width": "width"}
"""EA's own settings, left out where they are those of the rest of the network."""

COLUMNS = {
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


@dataclass
class Records:
    """The four tables of a study, and the folder they lie in."""

    folder: Path
    runs: pd.DataFrame
    curves: pd.DataFrame
    tuning: pd.DataFrame
    failures: pd.DataFrame

    @classmethod
    def read(cls, folder: Path) -> Records:
        """The tables in ``folder``; empty where there are none yet.

        Raises:
            UserError: when they were written by another version, or are damaged.
        """
        runs = _read(folder / "records.csv", COLUMNS)
        if (runs["format"] != FORMAT).any():
            raise UserError(
                f"{folder / 'records.csv'} is of another version of this program: choose another "
                "--out, or delete it"
            )
        curves = _read(folder / "curves.csv", CURVES)
        tuning = _read(folder / "tuning.csv", TUNING)
        return cls(folder, runs, curves, tuning, _read(folder / "failures.csv", FAILURES))

    def has(self, row: str, seed: int) -> bool:
        """Whether that run is recorded."""
        return bool(_is(self.runs, row, seed).any())

    def add(self, record: dict[str, Any], curve: pd.DataFrame) -> None:
        """Takes in what :func:`record_of` says of a finished run."""
        self.forget(record["row"], record["seed"])
        self.runs = pd.concat([self.runs, _typed(pd.DataFrame([record]), COLUMNS)])
        self.curves = pd.concat([self.curves, _typed(curve, CURVES)])

    def add_tuning(self, record: dict[str, Any]) -> None:
        """Takes in what :func:`tuning_record_of` says of a finished run."""
        added = _typed(pd.DataFrame([record]), TUNING)
        self.tuning = pd.concat([self.tuning, added], ignore_index=True)
        tried = tuning_name(record["row"], record["setting"], json.loads(record["value"]))
        self.failures = self.failures[~_is(self.failures, tried, record["seed"])]

    def has_tried(self, row: str, value: str) -> bool:
        """Whether that value's run is recorded."""
        return bool(((self.tuning["row"] == row) & (self.tuning["value"] == value)).any())

    def best_values(self) -> dict[str, tuple[str, str]]:
        """Of each row: which setting was tuned, and its best value, in JSON."""
        best = self.tuning.loc[self.tuning.groupby("row", sort=False)["valid_last"].idxmax()]
        pairs = zip(best["setting"], best["value"], strict=True)
        return dict(zip(best["row"], pairs, strict=True))

    def fail(self, row: str, seed: int, message: str) -> None:
        """Takes in that a run failed."""
        self.forget(row, seed)
        failure = pd.DataFrame([{"row": row, "seed": seed, "message": message}])
        self.failures = pd.concat([self.failures, _typed(failure, FAILURES)])

    def forget(self, row: str, seed: int) -> None:
        """Drops whatever is recorded of that run."""
        self.runs, self.curves, self.failures = (
            table[~_is(table, row, seed)] for table in (self.runs, self.curves, self.failures)
        )

    def write(self, rows: Sequence[str]) -> None:
        """Replaces the files, each at once, rows in that order and seeds in theirs."""
        self.folder.mkdir(parents=True, exist_ok=True)
        files = {"curves": self.curves, "records": self.runs}  # a curve before what counts
        seldom = {"tuning": self.tuning, "failures": self.failures}
        for name, table in (files | seldom).items():
            path = self.folder / f"{name}.csv"
            if name in seldom and not len(table):
                path.unlink(missing_ok=True)
            else:
                write_text(path, _sorted(table, rows).to_csv(index=False))

    def check_one_study(self) -> None:
        """Raises ``UserError`` when the runs cannot be compared."""
        where = self.folder / "records.csv"
        if not len(self.runs):
            raise UserError(f"{where} holds no run yet")
        for column in ("study", "data", "split", "metric", "graphs"):
            values = self.runs[column].unique()
            if len(values) > 1:
                raise UserError(f"{where} mixes runs of {column} {' and '.join(values)}")
        for seed, prints in self.runs.groupby("seed")["fingerprint"].unique().items():
            if len(prints) > 1:
                raise UserError(f"{where}: runs of seed {seed} saw different molecules or labels")
        for row, configs in self.runs.groupby("row")["config"]:
            settings = [{**json.loads(c), "seed": 0, "split_seed": 0} for c in configs]
            for other in settings[1:]:
                check_equal(f"{where}, row {row}", other, settings[0])


def without_places(config: dict[str, Any]) -> dict[str, Any]:
    """The settings that say what a run is."""
    shared = {own for own, common in SHARED.items() if config.get(own) == config.get(common)}
    return {key: value for key, value in config.items() if key not in {*PLACES, *shared}}


def check_equal(where: str, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raises ``UserError`` naming the first setting in which a run differs from what is wanted."""
    for key in sorted(found.keys() | wanted.keys()):
        if found.get(key) != wanted.get(key):
            raise UserError(
                f"{where}: made with {flag(key)} {found.get(key)}, not {wanted.get(key)}: go on "
                "with the settings it was started with, or choose another --out and --runs-dir"
            )


def record_of(
    folder: RunFolder, study: str, row: str, reference: str
) -> tuple[dict[str, Any], pd.DataFrame]:
    """The row in ``records.csv`` of a finished run, and its curve."""
    results, metrics = read_results(folder.results), pd.read_csv(folder.metrics)
    metric, data, config = results["metric"], results["data"], results["config"]
    tests = metrics[f"test_{metric}"]
    curve = metrics[["epoch", f"valid_{metric}", f"test_{metric}"]]
    curve = curve.set_axis(["epoch", "valid", "test"], axis=1)
    record = {
        "format": FORMAT,
        "study": study,
        "row": row,
        "reference": reference,
        **{k: results[k] for k in ("seed", "metric", "valid", "test")},
        "test_last": tests.tail(LAST).mean(),
        **{k: results[k] for k in ("best_epoch", "epochs")},
        "train_seconds": metrics["train_seconds"].median(),
        **{k: results[k] for k in ("threads", "parameters")},
        "data": data["name"],
        **{k: data[k] for k in ("split", "graphs", "fingerprint")},
        "revision": results["revision"] or "unknown",
        "config": json.dumps(without_places(config), sort_keys=True),
    }
    return record, curve.assign(row=row, seed=results["seed"])[list(CURVES)]


def tuning_name(row: str, setting: str, value: Any) -> str:
    """What the run is called that tries a value for a row."""
    return f"{row}-{setting}{value}"


def tuning_record_of(folder: RunFolder, row: str, setting: str) -> dict[str, Any]:
    """The row in ``tuning.csv`` of a finished run."""
    results, metrics = read_results(folder.results), pd.read_csv(folder.metrics)
    return {
        "row": row,
        "setting": setting,
        "value": json.dumps(results["config"][setting]),
        "seed": results["seed"],
        "valid_last": metrics[f"valid_{results['metric']}"].tail(LAST).mean(),
        "data": results["data"]["name"],
        "graphs": results["data"]["graphs"],
        "revision": results["revision"] or "unknown",
        "config": json.dumps(without_places(results["config"]), sort_keys=True),
    }


def _is(table: pd.DataFrame, row: str, seed: int) -> pd.Series:
    return (table["row"] == row) & (table["seed"] == seed)


def _sorted(table: pd.DataFrame, rows: Sequence[str]) -> pd.DataFrame:
    place = {row: i for i, row in enumerate(rows)}
    order = table["row"].map(lambda row: place.get(row, len(place))), table["seed"]
    keys = pd.DataFrame(dict(enumerate(order))).reset_index(drop=True)
    return table.iloc[keys.sort_values([0, 1], kind="stable").index]


def _typed(table: pd.DataFrame, columns: dict[str, str]) -> pd.DataFrame:
    return table[list(columns)].astype(columns)


def _read(path: Path, columns: dict[str, str]) -> pd.DataFrame:
    if not path.exists():
        return _typed(pd.DataFrame(columns=list(columns)), columns)
    try:
        table = pd.read_csv(path, dtype=columns, keep_default_na=False)
    except (ValueError, pd.errors.ParserError) as error:
        raise UserError(f"{path} is damaged ({error}): delete it") from error
    if list(table.columns) != list(columns):
        raise UserError(
            f"{path} is of another version of this program: choose another --out, or delete it"
        )
    return table
