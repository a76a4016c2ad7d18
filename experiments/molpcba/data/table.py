"""Tables of molecules: a CSV file with a column of SMILES and columns of labels."""

from __future__ import annotations

import csv
import gzip
import hashlib
import re
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import torch

from experiments.common import UserError
from experiments.molpcba.data.graphs import MISSING
from experiments.molpcba.data.molecules import pack_smiles
from experiments.molpcba.data.splits import group_numbers

SEPARATORS = (",", ";", "\t")
CHUNK = 5_000
"""Rows read at a time."""
MANY = 10
"""A column of integers is real-valued from this many distinct values on."""

_SMILES = re.compile(r"smiles?$", re.IGNORECASE)
_SPLIT = re.compile(r"(is_?)?(train|valid|test|split|fold|subset|set|partition)(_?\d+)?$", re.I)
_ID = re.compile(r"(.*_)?(id|idx|index|name|cid|activity|inchi(key)?)$|unnamed", re.IGNORECASE)
_BOOLEAN = {"true": "1", "false": "0"}


@dataclass(frozen=True)
class TableSource:
    """A CSV file. Make it with `TableSource.of`.

    Args:
        path: the file, gzip or not.
        sha256: hash of the text (gzip or not makes no difference).
        name: of the data set.
        smiles_column: name of the SMILES column; None: recognised.
        tasks: names of the label columns; None: all that can be.
        ignore: names of columns that are not labels.
        task_type: "classification", "regression", or "auto".
    """

    path: Path
    sha256: str
    name: str
    smiles_column: str | None = None
    tasks: tuple[str, ...] | None = None
    ignore: tuple[str, ...] = ()
    task_type: str = "auto"

    @classmethod
    def of(cls, path: Path, name: str | None = None, **options: Any) -> TableSource:
        """Reads the file once to hash it.

        Raises:
            UserError: when the file cannot be read.
        """
        digest = hashlib.sha256()
        with reading(path) as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return cls(path, digest.hexdigest(), name or _stem(path), **options)

    @property
    def slug(self) -> str:
        """Name of the packed copy, plain characters only."""
        return "csv_" + re.sub(r"\W+", "_", _stem(self.path), flags=re.ASCII)[:40]

    @property
    def description(self) -> str:
        """Which data, for the user."""
        return self.path.name

    def key(self) -> str:
        """Hash of the text and of how it is read."""
        options = (self.smiles_column, self.tasks, self.ignore, self.task_type)
        return hashlib.sha256(f"{self.sha256} {options}".encode()).hexdigest()

    def prepare(self, workers: int) -> dict[str, Any]:
        """Graphs, tasks, metric and groups of equal molecules and scaffolds.

        Raises:
            UserError: on a malformed file, or when no row gives a usable molecule.
        """
        header, separator = read_header(self.path)
        notes: list[str] = []
        smiles_column = find_smiles_column(self.path, header, self.smiles_column, notes)
        columns = self._candidates(header, smiles_column, notes)
        lines, smiles, columns = self._read(header, separator, smiles_column, columns)
        labels, regression = self._labels(columns, lines, notes)
        packed = pack_smiles(smiles, labels, workers)
        rejected = [(lines[row], smiles[row], why) for row, why in packed.rejected.items()]
        if packed.graphs is None:
            reason = "; line {}: {!r}: {}".format(*rejected[0]) if rejected else ""
            raise UserError(f"{self.path} has no SMILES that can be read{reason}")
        if not len(packed.graphs.edge_attr):
            raise UserError(f"{self.path} has no molecule with a bond: there is nothing to learn")
        canonical = group_numbers(packed.canonical)
        first = _contradictions(canonical, packed.graphs.y.numpy())
        if first:
            where = " and ".join(str(lines[packed.rows[row]]) for row in first[1])
            notes.append(
                f"{first[0]} molecules occur more than once with contradicting labels (lines "
                f"{where}, for example); all rows are kept"
            )
        tasks = [column.name for column in columns if column.is_task]
        kind = "regression" if regression else "classification"
        notes.append(f"{len(tasks)} tasks ({kind}): {_some(tasks)}")
        return {
            "graphs": packed.graphs,
            "task_names": tasks,
            "metric": "rmse" if regression else "rocauc" if len(tasks) == 1 else "ap",
            "canonical": torch.from_numpy(canonical),
            "scaffold": torch.from_numpy(group_numbers(packed.scaffolds)),
            "rejected": rejected,
            "notes": notes,
        }

    def _candidates(self, header: list[str], smiles: str, notes: list[str]) -> list[Column]:
        """The columns that may be tasks, by name."""
        for name in (*(self.tasks or ()), *self.ignore):
            if name not in header:
                raise UserError(f"{self.path} has no column {name!r}; it has {_some(header)}")
        if self.tasks is not None:
            return [Column(name) for name in self.tasks]
        columns = []
        for number, name in enumerate(header):
            if name == smiles or name in self.ignore:
                continue
            reason = None
            if _SPLIT.match(name):
                reason = "its name is that of a split or fold"
            elif not name or _ID.match(name):
                reason = "its name is that of an identifier"
            if reason is None:
                columns.append(Column(name))
            elif name not in ("mol_id", "activity"):  # those of MoleculeNet are no surprise
                shown = repr(name) if name else f"number {number + 1}, which has no name,"
                notes.append(f"column {shown} is not a task: {reason}; --tasks chooses the tasks")
        if not columns:
            raise UserError(f"{self.path} has no label column beside {_some(header)}; see --tasks")
        return columns

    def _read(
        self, header: list[str], separator: str, smiles_column: str, columns: list[Column]
    ) -> tuple[list[int], list[str], list[Column]]:
        """Line numbers, SMILES, and the columns with their values."""
        lines: list[int] = []
        smiles: list[str] = []
        names = [column.name for column in columns]
        use = [header.index(name) for name in (smiles_column, *names)]
        for frame in read_frames(self.path, header, separator, use, smiles_column):
            frame = frame[frame.notna().any(axis=1)]  # a blank line
            start = len(lines)
            lines += (frame.index + 2).tolist()
            smiles += frame[smiles_column].fillna("").str.strip().tolist()
            for column in columns:
                column.add(frame[column.name], lines[start:])
        return lines, smiles, columns

    def _labels(
        self, columns: list[Column], lines: list[int], notes: list[str]
    ) -> tuple[np.ndarray, bool]:
        """Labels `[rows, tasks]`, and whether they are real values."""
        for column in columns:
            if column.text and not column.count and self.tasks is None:
                column.is_task = False
                notes.append(f"column {column.name!r} is not a task: it has text; see --tasks")
            elif column.text:
                line, value = column.text[0]
                raise UserError(
                    f"{self.path}, line {line}, column {column.name!r}: {value[:40]!r} is not a "
                    "label; expected 0, 1, True, False, a number or nothing (--tasks chooses "
                    "columns, --ignore leaves columns out)"
                )
        tasks = [column for column in columns if column.is_task]
        if not tasks:
            raise UserError(f"{self.path} has no label column: all other columns have text")
        regression = self._is_regression(tasks, lines)
        values = np.stack([np.concatenate(column.values) for column in tasks], axis=1)
        if not regression:
            values = np.where(np.isnan(values), MISSING, values).astype(np.int8)
        return values, regression

    def _is_regression(self, tasks: Sequence[Column], lines: list[int]) -> bool:
        if self.task_type == "regression":
            return True
        real = [column for column in tasks if not column.binary]
        if not real:
            return False
        column = real[0]
        if self.task_type == "auto" and len(real) == len(tasks) and all(c.real for c in real):
            return True
        values = np.concatenate(column.values)
        row = int(np.flatnonzero(~np.isnan(values) & (values != 0) & (values != 1))[0])
        raise UserError(
            f"{self.path}, line {lines[row]}, column {column.name!r}: {values[row]:g}; a label is "
            "0, 1 or nothing; --task-type regression takes numbers, --tasks and --ignore choose "
            "columns"
        )


@dataclass
class Column:
    """A label column while its file is read.

    Args:
        name: in the header.
    """

    name: str
    is_task: bool = True
    values: list[np.ndarray] = field(default_factory=list)
    text: list[tuple[int, str]] = field(default_factory=list)
    """Line and content of the first cell that is not a number."""
    distinct: set[float] = field(default_factory=set)

    def add(self, cells: pd.Series, lines: Sequence[int]) -> None:
        """Takes the cells of the next rows."""
        if not pd.api.types.is_numeric_dtype(cells):
            text = cells.astype("string").str.strip().str.lower().replace(_BOOLEAN)
            numbers = pd.to_numeric(text, errors="coerce").astype("float64")
            wrong = np.flatnonzero((numbers.isna() & text.notna() & (text != "")).to_numpy(bool))
            if len(wrong) and not self.text:
                self.text.append((lines[wrong[0]], str(cells.iloc[wrong[0]])))
            cells = numbers
        values = cells.to_numpy(dtype=np.float32, na_value=np.nan)
        if np.isinf(values).any() and not self.text:
            row = int(np.flatnonzero(np.isinf(values))[0])
            self.text.append((lines[row], str(values[row])))
        self.values.append(values)
        if len(self.distinct) < MANY:
            self.distinct |= set(np.unique(values[~np.isnan(values)])[:MANY].tolist())

    @property
    def count(self) -> int:
        """Number of labels."""
        return sum(int((~np.isnan(values)).sum()) for values in self.values)

    @property
    def binary(self) -> bool:
        """Whether all labels are 0 or 1."""
        return self.distinct <= {0.0, 1.0}

    @property
    def real(self) -> bool:
        """Whether the labels are unmistakably real values."""
        return len(self.distinct) >= MANY or any(value % 1 for value in self.distinct)


def find_smiles_column(path: Path, header: list[str], wanted: str | None, notes: list[str]) -> str:
    """The name of the SMILES column: the one wanted, or the one that is named like it.

    Raises:
        UserError: when there is none, or more than one.
    """
    if wanted is not None:
        if wanted not in header:
            raise UserError(f"{path} has no column {wanted!r}; it has {_some(header)}")
        return wanted
    if "smiles" in header:
        return "smiles"
    found = [name for name in header if is_smiles_name(name)]
    if len(found) != 1:
        what = f"several columns of SMILES ({_some(found)})" if found else "no column 'smiles'"
        raise UserError(f"{path} has {what}; --smiles-column names it, one of {_some(header)}")
    notes.append(f"SMILES are read from column {found[0]!r}; --smiles-column chooses another")
    return found[0]


def is_smiles_name(name: str) -> bool:
    """Whether a column of that name has SMILES: ``smiles``, ``canonical_smiles``, ``SMILES``."""
    return bool(_SMILES.search(name.strip()))


def read_header(path: Path) -> tuple[list[str], str]:
    """The names of the columns, and the separator.

    Raises:
        UserError: when there is no header, or a name occurs twice.
    """
    with reading(path) as file:
        line = file.readline().decode("utf-8-sig").rstrip("\r\n")
    separator = max(SEPARATORS, key=line.count)
    header = next(csv.reader([line], delimiter=separator), [])
    if not header:
        raise UserError(f"{path} is empty; it needs a header line with a column 'smiles'")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise UserError(f"{path} has the column {twice[0]!r} more than once")
    return header, separator


def read_frames(
    path: Path, header: list[str], separator: str, use: list[int], smiles: str
) -> Iterator[pd.DataFrame]:
    """The columns `use` of the table, some thousand rows at a time."""
    with reading(path) as file:
        frames = pd.read_csv(
            file,
            sep=separator,
            encoding="utf-8-sig",
            names=header,
            header=0,
            dtype={smiles: "string"},
            index_col=False,
            skip_blank_lines=False,
            chunksize=CHUNK,
        )
        for frame in frames:
            yield frame.iloc[:, use]


@contextmanager
def reading(path: Path) -> Iterator[BinaryIO]:
    """The file, unzipped; every way in which reading it can fail becomes a `UserError`."""
    try:
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            warnings.simplefilter("ignore", pd.errors.DtypeWarning)
            zipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            yield gzip.GzipFile(fileobj=file) if zipped else file  # type: ignore[misc]
    except EOFError:
        raise UserError(f"{path} is cut short: its gzip stream has no end; get it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} is damaged ({error}); get it again") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start})") from None
    except (pd.errors.ParserError, pd.errors.ParserWarning, csv.Error) as error:
        reason = " ".join(str(error).split()).removeprefix("Error tokenizing data. C error: ")
        raise UserError(f"{path} is not a well-formed table: {reason}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None


def _contradictions(groups: np.ndarray, y: np.ndarray) -> tuple[int, tuple[int, int]] | None:
    """Number of molecules whose rows have different labels, and the first such pair of rows."""
    repeated = np.flatnonzero(np.bincount(groups)[groups] > 1)
    order = repeated[np.argsort(groups[repeated], kind="stable")]
    if not len(order):
        return None
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    labels = y[order].astype(np.float32)
    missing = np.isnan(labels) | (labels == MISSING if y.dtype == np.int8 else False)
    low = np.minimum.reduceat(np.where(missing, np.inf, labels), starts)
    high = np.maximum.reduceat(np.where(missing, -np.inf, labels), starts)
    wrong = np.flatnonzero((low < high).any(axis=1))
    if not len(wrong):
        return None
    start = starts[wrong[0]]
    return len(wrong), (int(order[start]), int(order[start + 1]))


def _stem(path: Path) -> str:
    return re.sub(r"\.(csv|tsv|txt)(\.gz)?$|\.gz$", "", path.name)


def _some(names: Sequence[str], limit: int = 6) -> str:
    """The first names, separated by commas."""
    return ", ".join(map(repr, names[:limit])) + (", ..." if len(names) > limit else "")
