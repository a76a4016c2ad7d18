"""Tables of molecules: a column of SMILES, and columns of labels."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from experiments.common import UserError
from experiments.molpcba.config import Config
from experiments.molpcba.data.columns import SPACE, Columns, read_columns, some
from experiments.molpcba.data.graphs import stored_labels
from experiments.molpcba.data.molecules import groups, pack, read_molecules

SHOWN = 10
"""Rejected rows that are listed."""
MANY = 10
"""A column of integers is real-valued from this many distinct values on."""
NO_TASK = re.compile(
    r"((is_?)?(train|valid|test|split|fold|subset|set|partition)(_?\d+)?|unnamed.*|num"
    r"|(.*[\W_])?(id|idx|index|name|cid|inchi(key)?)|)$",
    re.IGNORECASE,
)
"""Names of splits, folds and identifiers."""
EMPTY = ("", "na", "n/a", "nan", "-nan", "null", "none", "<na>", "#n/a", "#na")
WORDS = {"true": 1.0, "false": 0.0, **dict.fromkeys(EMPTY, np.nan)}
NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?")
PAIR = re.compile(rf"(.*\S.*)=\s*({NUMBER.pattern}|nan)?\s*")
"""A word and its label, in ``--label-format``."""
WRONG = np.inf
"""Stands for a cell that is not a label."""
FORMATS: dict[str, tuple[str, dict[str, Any], str]] = {
    "thousands": (r"[-+]?[0-9]{1,3}(,[0-9]{3})+(\.[0-9]*)?", {",": ""}, "commas between thousands"),
    "decimal-comma": (
        r"[-+]?([0-9]{1,3}(\.[0-9]{3})+|[0-9]*),[0-9]+(e[-+]?[0-9]+)?",
        {".": "", ",": "."},
        "decimal commas",
    ),
    "percent": ("[^%]+%", {"%": ""}, "percent signs"),
}
"""What ``--label-format`` takes: cells that it is for, what it replaces in them, what they have."""
POSITIVE = re.compile(r"y|yes|t|\+|pos(itive)?|active|toxic|hit|pass|high|binder|inhibitor")
NEGATIVE = re.compile(
    r"n|no|f|-|neg(ative)?|fail|low|(non?|in|un)[- ]?(active|toxic|hit|binder|inhibitor)"
)
NAME = re.compile(r'\s*"([^"]+)"\s*|([^,]+)')
"""A column's name in a flag, in quotes if it has a comma."""


def prepare_table(path: Path, config: Config) -> dict[str, Any]:
    """Graphs, tasks, metric and groups of equal molecules and scaffolds."""
    columns = read_columns(path, config.smiles_column, [SPACE])
    notes = [f"{path.name}: {columns.about}; --smiles-column chooses another"]
    table = _table(path, columns)
    smiles = table.pop(columns.names[columns.smiles]).str.strip().to_list()
    y, is_real = read_labels(path, table, config, notes)
    del columns, table  # they take more memory than the molecules
    found, rejected = read_molecules(smiles)
    reasons = [f"line {y.index[i]}: {smiles[i][:60]!r}: {why}" for i, why in rejected.items()]
    if not found:
        raise UserError("; ".join([f"{path} has no SMILES that can be read", *reasons[:1]]))
    if rejected:
        notes.append(f"{len(rejected):,} rows left out:")
        notes += reasons[:SHOWN]
        notes += [f"... and {len(rejected) - SHOWN:,} more"] if len(rejected) > SHOWN else []
    molecules, y = list(found.values()), y.iloc[list(found)]
    grouped = groups(molecules)
    equal = y.groupby(grouped["canonical"].numpy())
    if len(differ := np.flatnonzero((equal.max() > equal.min()).any(axis=1))):
        where = " and ".join(map(str, equal.get_group(differ[0]).index[:2]))
        notes.append(
            f"{len(differ)} molecules occur more than once with contradicting labels (lines "
            f"{where}, for example); all rows are kept"
        )
    kind = "regression" if is_real else "classification"
    notes.append(f"{len(y.columns)} tasks ({kind}): {some(list(y))}")
    stored, units = stored_labels(y.to_numpy(), is_real)
    return {
        "tensors": vars(pack(molecules, stored)),
        "units": units,
        "task_names": list(y),
        "metric": "rmse" if is_real else "rocauc" if len(y.columns) == 1 else "ap",
        **grouped,
        "rows": torch.from_numpy(pd.Index(list(found)).get_indexer(range(len(smiles)))),
        "notes": notes,
    }


def _table(path: Path, columns: Columns) -> pd.DataFrame:
    """The cells, by line and column. Broken quotes and rows of other lengths are refused, and
    columns without a name or a cell, which separators at the end of a line make, left out.
    """
    names, fault = columns.names, columns.fault
    rows = {line: row for line, row in columns.rows if any(map(str.strip, row))}
    first = "the header" if columns.has_header else "the first row"
    for line, row in rows.items():
        if len(row) != len(names) and not fault:
            fault = f"line {line} has {len(row)} fields, {first} {len(names)}"
    if fault:
        raise UserError(f"{path} is not a well-formed table: {fault}")
    table = pd.DataFrame(rows.values(), index=list(rows), columns=names, dtype=object)
    spare = [i for i, name in enumerate(names) if not name and not any(table.iloc[:, i])]
    if spare:
        table = table.loc[:, ~np.isin(range(len(names)), spare)]
    for name in table.columns[table.columns.duplicated()]:
        raise UserError(f"{path} has the column {name!r} more than once")
    return table


# ---- labels


def read_labels(
    path: Path, table: pd.DataFrame, config: Config, notes: list[str]
) -> tuple[pd.DataFrame, bool]:
    """The labels in a table as float64, NaN where missing, and whether they are real values.

    What is worth knowing about its columns is added to `notes`.
    """
    given, ignored = (
        [text] if text in table else [(a or b).strip() for a, b in NAME.findall(text or "")]
        for text in (config.tasks, config.ignore)
    )
    for name in (*given, *ignored):
        if name not in table:
            raise UserError(f"{path} has no column {name!r}; it has {some(list(table))}")
    y = table[list(dict.fromkeys(given)) or list(table)].drop(columns=ignored, errors="ignore")
    y = y.map(_reader(config.label_format)).astype(float)
    has_labels = np.isfinite(y).any()
    others = [] if given else [own for own in y if NO_TASK.match(own) or not has_labels[own]]
    hints = [
        f"column {name!r} could be labels but has {hint}"
        for name in others
        if not NO_TASK.match(name) and (hint := _hint(table[name][np.isinf(y[name])]))
    ]
    y = y.drop(columns=others)
    if y.columns.empty:
        why = "; ".join(hints) or f"it has {some(list(table)) or 'only SMILES'}; see --tasks"
        raise UserError(f"{path} has no label column: {why}")
    if others:
        notes.append(
            "not tasks, as they have no labels or the name of a split, a fold or an identifier: "
            f"{some(others)}; --tasks chooses the tasks"
        )
    notes += hints
    finite = y.replace(WRONG, np.nan)  # more than a few classes in each column: real values
    many = (finite.nunique() >= MANY) | (finite % 1 > 0).any()
    is_real = config.task_type == "regression" or (config.task_type == "auto" and many.all())
    wrong = np.isinf(y) if is_real else ~(y.isna() | y.isin([0, 1]))
    for name in y.columns[wrong.any()][:1]:
        cells, is_odd = table[name], np.isinf(y[name])
        line = wrong.index[wrong[name]][0]
        cell = cells[line].strip()[:40]
        hint = _hint(cells[is_odd if is_odd.any() else y[name].notna()])
        raise UserError(
            f"{path}, line {line}, column {name!r}: {cell!r} is not a label; expected 0 and 1, or "
            "True and False, or nothing, or with --task-type regression numbers (--tasks chooses "
            f"columns, --ignore leaves columns out, --label-format={shlex.quote(cell)}= leaves "
            "these cells out)" + (f"; it has {hint}" if hint else "")
        )
    return y, is_real


def _reader(form: str | None) -> Callable[[str], float]:
    """Reads a cell as ``--label-format`` says: NaN where it is empty, WRONG if it is no number."""
    words = WORDS
    if form is not None and form not in FORMATS:
        pairs = [pair for pair in map(PAIR.fullmatch, form.lower().split(",")) if pair]
        if len(pairs) != form.count(",") + 1:
            raise UserError(
                f"--label-format must be {', '.join(FORMATS)}, or words and their labels such as "
                f"active=1,inactive=0,unclear=; got {form!r}"
            )
        words = WORDS | {pair[1].strip(): float(pair[2] or "nan") for pair in pairs}

    @cache
    def read(cell: str) -> float:
        text = cell.strip().lower().replace("\u2212", "-")
        if text in words:
            return words[text]
        if form in FORMATS and re.fullmatch(FORMATS[form][0], text):
            text = text.translate(str.maketrans(FORMATS[form][1])).strip()
        return float(text) if NUMBER.fullmatch(text) else WRONG

    return read


def _hint(cells: Iterable[str]) -> str | None:
    """What cells that are no numbers have instead, and the flag that reads them."""
    texts = sorted({cell.strip().lower() for cell in cells})
    shown = some([text[:20] for text in texts], 3)
    if not texts or texts == ["-"]:  # alone, most likely a missing label
        return None
    for form, (pattern, _, what) in FORMATS.items():
        if all(re.fullmatch(pattern, text) for text in texts):
            return f"{what} ({shown}): --label-format={form} reads them"
    if all(re.match("[<>~≤≥]", text) for text in texts):
        return f"bounds ({shown}): write numbers, or leave these cells empty"
    kinds = ["1" if POSITIVE.fullmatch(t) else "0" if NEGATIVE.fullmatch(t) else "" for t in texts]
    if len(texts) == 2 and not any(kinds):
        kinds = ["0", "1"]
    if len(texts) > 3 or not any(kinds):
        return None
    pairs = ",".join(f"{text}={kind}" for text, kind in zip(texts, kinds, strict=True))
    return f"words ({shown}): --label-format={pairs!r} reads them"
