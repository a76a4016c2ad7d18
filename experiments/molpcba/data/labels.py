"""Labels of a table: which columns are tasks, and the numbers in their cells."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.common import UserError
from experiments.molpcba.config import Config
from experiments.molpcba.data.columns import Columns, some

MANY = 10
"""A column of integers is real-valued from this many distinct values on."""
NO_TASK = re.compile(
    r"((is_?)?(train|valid|test|split|fold|subset|set|partition)(_?\d+)?|unnamed.*"
    r"|(.*_)?(id|idx|index|name|cid|activity|inchi(key)?)|)$",
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
FORMATS: dict[str, tuple[re.Pattern[str], Callable[[str], str], str]] = {
    "thousands": (
        re.compile(r"[-+]?[0-9]{1,3}(,[0-9]{3})+(\.[0-9]*)?"),
        lambda text: text.replace(",", ""),
        "commas between thousands",
    ),
    "decimal-comma": (
        re.compile(r"[-+]?([0-9]{1,3}(\.[0-9]{3})+|[0-9]*),[0-9]+(e[-+]?[0-9]+)?"),
        lambda text: text.replace(".", "").replace(",", "."),
        "decimal commas",
    ),
    "percent": (re.compile(r"[^%]+%"), lambda text: text.rstrip("% "), "percent signs"),
}
"""What ``--label-format`` takes: the cells it is for, how they become numbers, what they have."""
POSITIVE = re.compile(r"y|yes|t|\+|pos(itive)?|active|toxic|hit|pass|high|binder|inhibitor")
NEGATIVE = re.compile(
    r"n|no|f|-|neg(ative)?|fail|low|(non?|in|un)[- ]?(active|toxic|hit|binder|inhibitor)"
)


class Labels(NamedTuple):
    """Labels ``y [rows, tasks]`` as float64, NaN where missing."""

    y: np.ndarray
    tasks: list[str]
    is_real: bool  # real values, otherwise 0 and 1


def read_labels(path: Path, table: Columns, config: Config, notes: list[str]) -> Labels:
    """The labels in a table; what is worth knowing about its columns is added to `notes`."""
    names = [name for i, name in enumerate(table.names) if i != table.smiles]
    given, ignored = _words(config.tasks), _words(config.ignore)
    for name in (*given, *ignored):
        if name not in names:
            raise UserError(f"{path} has no column {name!r}; it has {some(names)}")
    read = _reader(config.label_format)
    others: list[str] = []
    hints: list[str] = []
    columns: dict[str, np.ndarray] = {}
    for name in given or [name for name in names if name not in ignored]:
        cells = _cells(table, name)
        values = np.array([read(cell) for cell in cells])
        is_text = np.isinf(values).any() and not np.isfinite(values).any()
        if given or not (NO_TASK.match(name) or is_text):
            columns[name] = values
            continue
        others.append(name)
        if not NO_TASK.match(name) and (hint := _hint(cells[np.isinf(values)])):
            hints.append(f"column {name!r} could be labels but has {hint}")
    if not columns:
        why = "; ".join(hints) or f"it has {some(names) or 'only SMILES'}; see --tasks"
        raise UserError(f"{path} has no label column: {why}")
    if others:
        notes.append(
            "not tasks, as they have text or the name of a split, a fold or an identifier: "
            f"{some(others)}; --tasks chooses the tasks"
        )
    notes += hints
    is_real = config.task_type == "regression" or (
        config.task_type == "auto" and all(map(_are_real, columns.values()))
    )
    for name, values in columns.items():
        is_wrong = np.isinf(values) if is_real else ~(np.isnan(values) | np.isin(values, (0, 1)))
        for row in np.flatnonzero(is_wrong)[:1]:
            cells, is_odd = _cells(table, name), np.isinf(values)
            hint = _hint(cells[is_odd if is_odd.any() else ~np.isnan(values)])
            raise UserError(
                f"{path}, line {table.rows[row][0]}, column {name!r}: {cells[row][:40]!r} is not a "
                "label; expected 0 and 1, or True and False, or nothing, or with --task-type "
                "regression numbers (--tasks chooses columns, --ignore leaves columns out)"
                + (f"; it has {hint}" if hint else "")
            )
    return Labels(np.stack(list(columns.values()), axis=1), list(columns), is_real)


def _cells(table: Columns, name: str) -> np.ndarray:
    position = table.names.index(name)
    return np.array([row[position] for _, row in table.rows], dtype=object)


def _are_real(values: np.ndarray) -> bool:
    """Whether the numbers are more than a few classes."""
    finite = np.unique(values[np.isfinite(values)])
    return len(finite) >= MANY or bool((finite % 1 > 0).any())


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
        if form in FORMATS and FORMATS[form][0].fullmatch(text):
            text = FORMATS[form][1](text)
        return float(text) if NUMBER.fullmatch(text) else WRONG

    return read


def _hint(cells: Iterable[str]) -> str | None:
    """What cells that are no numbers have instead, and the flag that reads them."""
    texts = sorted({cell.strip().lower() for cell in cells})
    shown = some([text[:20] for text in texts], 3)
    if not texts:
        return None
    for form, (pattern, _, what) in FORMATS.items():
        if all(map(pattern.fullmatch, texts)):
            return f"{what} ({shown}): --label-format {form} reads them"
    if all(re.match("[<>~≤≥]", text) for text in texts):
        return f"bounds ({shown}): write numbers, or leave these cells empty"
    kinds = [
        "1" if POSITIVE.fullmatch(text) else "0" if NEGATIVE.fullmatch(text) else ""
        for text in texts
    ]
    if len(texts) == 2 and not any(kinds):
        kinds = ["0", "1"]
    if len(texts) > 3 or not any(kinds):
        return None
    pairs = ",".join(f"{text}={kind}" for text, kind in zip(texts, kinds, strict=True))
    return f"words ({shown}): --label-format {pairs!r} reads them"


def _words(text: str | None) -> list[str]:
    return [] if text is None else [word.strip() for word in text.split(",")]
