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
from dataclasses import dataclass
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
        notes: list[str] = []
        header, separator = read_header(self.path)
        column = find_smiles_column(self.path, header, self.smiles_column, notes)
        with reading(self.path) as file:
            frame = pd.read_csv(
                file,
                sep=separator,
                encoding="utf-8-sig",
                names=header,
                header=0,
                dtype={column: "string"},
                index_col=False,
                skip_blank_lines=False,
                low_memory=False,
            )
        frame.index += 2  # the number of a row's line
        frame = frame[frame.notna().any(axis=1)]  # a blank line
        names = self._candidates(header, column, notes)
        labels, tasks, regression = self._labels(frame[names], notes)
        smiles = frame[column].fillna("").str.strip().tolist()
        packed = pack_smiles(smiles, labels, workers)
        lines = frame.index.tolist()
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

    def _candidates(self, header: list[str], smiles: str, notes: list[str]) -> list[str]:
        """The columns that may be tasks, by name."""
        for name in (*(self.tasks or ()), *self.ignore):
            if name not in header:
                raise UserError(f"{self.path} has no column {name!r}; it has {_some(header)}")
        if self.tasks is not None:
            return list(self.tasks)
        names = []
        for number, name in enumerate(header):
            if name == smiles or name in self.ignore:
                continue
            if _SPLIT.match(name):
                reason = "its name is that of a split or fold"
            elif not name or _ID.match(name):
                reason = "its name is that of an identifier"
            else:
                names.append(name)
                continue
            if name not in ("mol_id", "activity"):  # those of MoleculeNet are no surprise
                shown = repr(name) if name else f"number {number + 1}, which has no name,"
                notes.append(f"column {shown} is not a task: {reason}; --tasks chooses the tasks")
        if not names:
            raise UserError(f"{self.path} has no label column beside {_some(header)}; see --tasks")
        return names

    def _labels(self, frame: pd.DataFrame, notes: list[str]) -> tuple[np.ndarray, list[str], bool]:
        """Labels `[rows, tasks]`, names of the tasks, and whether labels are real values."""
        columns: dict[str, np.ndarray] = {}
        for name in frame:
            values, wrong = _numbers(frame[name])
            if wrong is not None and self.tasks is None and np.isnan(values).all():
                notes.append(f"column {name!r} is not a task: it has text; see --tasks")
            elif wrong is not None:
                raise UserError(
                    f"{self.path}, line {frame.index[wrong]}, column {name!r}: "
                    f"{str(frame[name].iloc[wrong])[:40]!r} is not a label; expected 0, 1, True, "
                    "False, a number or nothing (--tasks chooses columns, --ignore leaves columns "
                    "out)"
                )
            else:
                columns[str(name)] = values
        if not columns:
            raise UserError(f"{self.path} has no label column: all other columns have text")
        labels = np.stack(list(columns.values()), axis=1)
        other = ~np.isnan(labels) & (labels != 0) & (labels != 1)
        regression = self.task_type == "regression" or (
            self.task_type == "auto" and all(map(_is_real, labels.T))
        )
        if other.any() and not regression:
            row, task = np.argwhere(other)[0]
            raise UserError(
                f"{self.path}, line {frame.index[row]}, column {list(columns)[task]!r}: "
                f"{labels[row, task]:g}; a label is 0, 1 or nothing; --task-type regression takes "
                "numbers, --tasks and --ignore choose columns"
            )
        if not regression:
            labels = np.where(np.isnan(labels), MISSING, labels).astype(np.int8)
        return labels, list(columns), regression


def _numbers(cells: pd.Series) -> tuple[np.ndarray, int | None]:
    """A column as float32, NaN where missing, and the first row that is not a number."""
    wrong = np.zeros(len(cells), dtype=bool)
    if not pd.api.types.is_numeric_dtype(cells):
        text = cells.astype("string").str.strip().str.lower().replace(_BOOLEAN)
        cells = pd.to_numeric(text, errors="coerce").astype("float64")
        wrong = (cells.isna() & text.notna() & (text != "")).to_numpy(bool)
    values = cells.to_numpy(dtype=np.float32, na_value=np.nan)
    rows = np.flatnonzero(wrong | np.isinf(values))
    return values, int(rows[0]) if len(rows) else None


def _is_real(values: np.ndarray) -> bool:
    """Whether the labels of a column are unmistakably real values."""
    distinct = np.unique(values[~np.isnan(values)])
    return len(distinct) >= MANY or bool((distinct % 1 != 0).any())


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


@contextmanager
def reading(path: Path) -> Iterator[BinaryIO]:
    """The file, unzipped; every way in which reading it can fail becomes a `UserError`."""
    try:
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
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
    """Number of molecules whose rows have different labels, and two rows of the first of them."""
    rows = np.flatnonzero(pd.Series(groups).duplicated(keep=False))
    labels = pd.DataFrame(y[rows])
    labels = labels.mask(labels == MISSING) if y.dtype == np.int8 else labels
    differ = labels.groupby(groups[rows]).nunique().gt(1).any(axis=1)
    if not differ.any():
        return None
    first, second = np.flatnonzero(groups == differ.idxmax())[:2].tolist()
    return int(differ.sum()), (first, second)


def _stem(path: Path) -> str:
    return re.sub(r"\.(csv|tsv|txt)(\.gz)?$|\.gz$", "", path.name)


def _some(names: Sequence[str], limit: int = 6) -> str:
    """The first names, separated by commas."""
    return ", ".join(map(repr, names[:limit])) + (", ..." if len(names) > limit else "")
