"""Labels of a table: which columns are tasks, and the numbers in their cells."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

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


class Cells(NamedTuple):
    """A column: the words that occur, their values, and which of them stands in each row."""

    codes: np.ndarray
    words: np.ndarray
    values: np.ndarray  # NaN: empty, WRONG: not a number

    @property
    def wrong(self) -> list[str]:
        """The words that are no numbers."""
        return self.words[np.isinf(self.values)].tolist()

    def are_real(self) -> bool:
        """Whether the numbers are more than a few classes."""
        finite = np.unique(self.values[np.isfinite(self.values)])
        return len(finite) >= MANY or bool((finite % 1 > 0).any())


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
    columns: dict[str, Cells] = {}
    for name in given or [name for name in names if name not in ignored]:
        position = table.names.index(name)
        codes, words = pd.factorize(np.array([row[position] for _, row in table.rows], object))
        cells = Cells(codes, words, np.array([read(word) for word in words]))
        is_text = np.isinf(cells.values).any() and not np.isfinite(cells.values).any()
        if given or not (NO_TASK.match(name) or is_text):
            columns[name] = cells
            continue
        others.append(name)
        if not NO_TASK.match(name) and (hint := _hint(cells.wrong)):
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
        config.task_type == "auto" and all(cells.are_real() for cells in columns.values())
    )
    for name, cells in columns.items():
        own = cells.values
        is_wrong = np.isinf(own) if is_real else ~(np.isnan(own) | (own == 0) | (own == 1))
        for row in np.flatnonzero(is_wrong[cells.codes])[:1]:
            hint = _hint(cells.wrong or [w for w in cells.words if read(w) == read(w)])
            raise UserError(
                f"{path}, line {table.rows[row][0]}, column {name!r}: "
                f"{cells.words[cells.codes[row]][:40]!r} is not a label; expected 0 and 1, or True "
                "and False, or nothing, or with --task-type regression numbers (--tasks chooses "
                "columns, --ignore leaves columns out)" + (f"; it has {hint}" if hint else "")
            )
    y = np.stack([cells.values[cells.codes] for cells in columns.values()], axis=1)
    return Labels(y, list(columns), is_real)


def _reader(form: str | None) -> Callable[[str], float]:
    """Reads a cell as ``--label-format`` says; NaN where it is empty."""
    words = WORDS
    if form is not None and form not in FORMATS:
        pairs = [pair.rpartition("=") for pair in form.split(",")]
        try:
            own = {word: float(value) if value.strip() else np.nan for word, _, value in pairs}
        except ValueError:
            own = {}
        if not all(word.strip() for word, _, _ in pairs) or not own or WRONG in own.values():
            raise UserError(
                f"--label-format must be {', '.join(FORMATS)}, or words and their labels such as "
                f"active=1,inactive=0,unclear=; got {form!r}"
            )
        words = WORDS | {word.strip().lower(): value for word, value in own.items()}

    def read(cell: str) -> float:
        text = cell.strip().lower().replace("\u2212", "-")
        if text in words:
            return words[text]
        if form in FORMATS and FORMATS[form][0].fullmatch(text):
            text = FORMATS[form][1](text)
        return float(text) if NUMBER.fullmatch(text) else WRONG

    return read


def _hint(cells: Sequence[str]) -> str | None:
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
