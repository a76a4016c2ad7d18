"""Tables of molecules: a CSV file with a column of SMILES and columns of labels."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from experiments.common import UserError
from experiments.molpcba.config import Config
from experiments.molpcba.data.graphs import MISSING
from experiments.molpcba.data.molecules import groups, pack, read_molecules
from experiments.molpcba.data.splits import reading

SEPARATORS = (",", ";", "\t")
MANY = 10
"""A column of integers is real-valued from this many distinct values on."""
SMILES = re.compile(r"smiles?\s*$", re.IGNORECASE)
NO_TASK = re.compile(
    r"((is_?)?(train|valid|test|split|fold|subset|set|partition)(_?\d+)?|unnamed.*"
    r"|(.*_)?(id|idx|index|name|cid|activity|inchi(key)?)|)$",
    re.IGNORECASE,
)
"""Names of splits, folds and identifiers."""


def separator_of(line: str) -> str:
    """The separator of a table with that header."""
    return max(SEPARATORS, key=line.count)


def find_smiles_column(path: Path, header: Sequence[str], wanted: str | None) -> str:
    """The name of the SMILES column: the one wanted, or the one that is named like it."""
    if wanted is not None:
        if wanted not in header:
            raise UserError(f"{path} has no column {wanted!r}; it has {_some(header)}")
        return wanted
    found = [name for name in header if SMILES.search(name)]
    if len(found) == 1 or "smiles" in header:
        return "smiles" if "smiles" in header else found[0]
    what = f"several columns of SMILES ({_some(found)})" if found else "no column 'smiles'"
    raise UserError(f"{path} has {what}; --smiles-column names it, one of {_some(header)}")


def prepare_table(path: Path, config: Config) -> dict[str, Any]:
    """Graphs, tasks, metric and groups of equal molecules and scaffolds."""
    notes: list[str] = []
    header, separator = _check_rows(path)
    column = find_smiles_column(path, header, config.smiles_column)
    if column not in ("smiles", config.smiles_column):
        notes.append(f"SMILES are read from column {column!r}; --smiles-column chooses another")
    with reading(path) as file:
        frame = pd.read_csv(
            file,
            sep=separator,
            names=header,
            header=0,
            dtype={column: "string"},
            skip_blank_lines=False,
            skipinitialspace=True,
            low_memory=False,
        )
    frame.index += 2  # the number of a row's line
    frame = frame.dropna(how="all")  # blank lines
    labels, tasks, regression = _labels(path, frame.drop(columns=column), config, notes)
    smiles, lines = frame[column].fillna("").str.strip().tolist(), frame.index.to_numpy()
    found, rejected = read_molecules(smiles)
    reasons = [f"line {lines[row]}: {smiles[row][:60]!r}: {why}" for row, why in rejected.items()]
    if not found:
        raise UserError("; ".join([f"{path} has no SMILES that can be read", *reasons[:1]]))
    if rejected:
        notes.append(f"{len(rejected):,} rows left out, their SMILES cannot be read:")
        notes += reasons
    molecules, rows = list(found.values()), np.array(list(found))
    labels, lines = labels[rows], lines[rows]
    graphs, grouped = pack(molecules, labels), groups(molecules)
    canonical = grouped["canonical"].numpy()
    repeated = np.flatnonzero(pd.Series(canonical).duplicated(keep=False))
    known = pd.DataFrame(graphs.labels(torch.from_numpy(repeated)).numpy())
    equal = known.groupby(canonical[repeated])
    contradicting = (equal.max() > equal.min()).any(axis=1).loc[lambda differ: differ].index
    if len(contradicting):
        where = " and ".join(map(str, lines[canonical == contradicting[0]][:2]))
        notes.append(
            f"{len(contradicting)} molecules occur more than once with contradicting labels (lines "
            f"{where}, for example); all rows are kept"
        )
    kind = "regression" if regression else "classification"
    notes.append(f"{len(tasks)} tasks ({kind}): {_some(tasks)}")
    return {
        "tensors": vars(graphs),
        "task_names": tasks,
        "metric": "rmse" if regression else "rocauc" if len(tasks) == 1 else "ap",
        **grouped,
        "rows": torch.from_numpy(rows),
        "notes": notes,
    }


def _check_rows(path: Path) -> tuple[list[str], str]:
    """The names of the columns, and the separator; pandas would fill up a row that is too short."""
    with reading(path) as file:
        separator = separator_of(file.readline())
        file.seek(0)
        reader = csv.reader(file, delimiter=separator)
        header = next(reader, [])
        if not header:
            raise UserError(f"{path} is empty; it needs a header line with a column 'smiles'")
        for name in header:
            if header.count(name) > 1:
                raise UserError(f"{path} has the column {name!r} more than once")
        for row in reader:
            if row and len(row) != len(header):
                raise UserError(
                    f"{path} is not a well-formed table: line {reader.line_num} has {len(row)} "
                    f"fields, the header {len(header)}"
                )
    return header, separator


def _labels(
    path: Path, frame: pd.DataFrame, config: Config, notes: list[str]
) -> tuple[np.ndarray, list[str], bool]:
    """Labels `[rows, tasks]`, names of the tasks, and whether labels are real values."""
    given, ignored = _words(config.tasks), _words(config.ignore)
    for name in (*given, *ignored):
        if name not in frame:
            raise UserError(f"{path} has no column {name!r}; it has {_some(list(frame))}")
    frame = frame[given] if given else frame.drop(columns=ignored)
    labels = frame.apply(pd.to_numeric, errors="coerce").astype("float32")
    wrong = frame.notna() & ~np.isfinite(labels)
    if not given:
        is_text = wrong.any() & labels.isna().all()
        others = [name for name in labels if NO_TASK.match(name) or is_text[name]]
        if others:
            notes.append(
                "not tasks, as they have text or the name of a split, a fold or an identifier: "
                f"{_some(others)}; --tasks chooses the tasks"
            )
        labels, wrong = labels.drop(columns=others), wrong.drop(columns=others)
    if not len(labels.columns):
        raise UserError(f"{path} has no label column; it has {_some(list(frame))}; see --tasks")
    is_real = (labels.nunique() >= MANY) | (labels % 1 > 0).any()
    regression = config.task_type == "regression" or (
        config.task_type == "auto" and bool(is_real.all())
    )
    if not regression:
        wrong |= labels.notna() & ~labels.isin([0, 1])
    for row, task in np.argwhere(wrong.to_numpy())[:1]:
        name = labels.columns[task]
        raise UserError(
            f"{path}, line {frame.index[row]}, column {name!r}: {str(frame[name].iloc[row])[:40]!r}"
            " is not a label; expected 0 and 1, or True and False, or nothing, or with --task-type "
            "regression numbers (--tasks chooses columns, --ignore leaves columns out)"
        )
    y = labels.to_numpy(np.float32)
    if not regression:
        y = np.where(np.isnan(y), MISSING, y).astype(np.int8)
    return y, list(labels.columns), regression


def _words(text: str | None) -> list[str]:
    return [] if text is None else [word.strip() for word in text.split(",")]


def _some(names: Sequence[str], limit: int = 6) -> str:
    """The first names, separated by commas."""
    return ", ".join(map(repr, names[:limit])) + (", ..." if len(names) > limit else "")
