"""A CSV file in MoleculeNet's form: `smiles`, 0/1/empty task columns, optionally `mol_id`."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import itertools
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import rdkit

from .errors import DataError
from .layout import CHUNK, UNKNOWN, Record, Written, write_layout
from .store import VERSION, Contents

SMILES, MOL_ID = "smiles", "mol_id"
NOT_TASKS = frozenset({SMILES, MOL_ID, "activity"})
"""Columns that are no tasks; `activity` is the text column of MoleculeNet's hiv.csv."""
REJECTS = "rejects.csv"
"""In the prepared folder: line, SMILES and reason of each row that was left out."""
FEW = 2_000
"""Up to this many rows the work is done in this process."""

_LABELS = {"": UNKNOWN, "nan": UNKNOWN, "NaN": UNKNOWN, "0": 0, "0.0": 0, "1": 1, "1.0": 1}


@dataclass(frozen=True)
class CsvSource:
    """A checked CSV file. Make it with `CsvSource.of(path)`.

    Args:
        path: the file, gzip or not.
        columns: its header.
        num_lines: lines of text, for the progress bar.
        sha256: hash of the text (gzip or not makes no difference).
    """

    path: Path
    columns: list[str]
    num_lines: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> CsvSource:
        """Read the file once: whole, hash, number of lines and header.

        Raises:
            DataError: when the file cannot be read or its header is no good.
        """
        with _reading(path):
            digest, newlines = hashlib.sha256(), 0
            with _open(path) as file:
                while block := file.read(1 << 20):
                    digest.update(block)
                    newlines += block.count(b"\n")
            with _rows(path) as rows:
                columns = next(rows, [])
        _check_header(path, columns)
        return cls(path, columns, newlines, digest.hexdigest())

    @property
    def stem(self) -> str:
        """The file's name without `.csv` and `.gz`."""
        return re.sub(r"\.csv(\.gz)?$|\.gz$", "", self.path.name)

    @property
    def slug(self) -> str:
        """`stem` with plain characters only."""
        return "csv_" + re.sub(r"\W+", "_", self.stem, flags=re.ASCII)[:40]

    @property
    def key(self) -> str:
        """Hash of the text, RDKit's version (it decides the features) and ours."""
        return hashlib.sha256(f"{VERSION} {rdkit.__version__} {self.sha256}".encode()).hexdigest()

    @property
    def task_names(self) -> list[str]:
        """The columns that are tasks."""
        return [name for name in self.columns if name not in NOT_TASKS]

    def write(self, folder: Path, workers: int) -> Contents:
        """Write OGB's raw layout and the table of rejected rows.

        Raises:
            DataError: on a malformed row, or when no row gives a usable molecule.
        """
        few = self.num_lines <= FEW
        with _reading(self.path), _rows(self.path) as rows:
            written = write_layout(
                folder,
                self._chunks(rows),
                workers=0 if few else workers,
                total=self.num_lines - 1,
            )
        self._check_written(written)
        with open(folder / REJECTS, "w", newline="") as rejects:
            writer = csv.writer(rejects)
            writer.writerow(["line", "smiles", "reason"])
            writer.writerows(written.rejected)
        return Contents(written.num_graphs, self.task_names, len(written.rejected))

    def _check_written(self, written: Written) -> None:
        if not written.num_graphs:
            first = written.rejected[:1]
            told = (
                f"; line {first[0].line}: {first[0].smiles!r}: {first[0].reason}" if first else ""
            )
            raise DataError(f"{self.path} holds no SMILES that can be read{told}")
        if not written.num_bonds:
            raise DataError(f"{self.path} holds no molecule with a bond: there is nothing to learn")

    def _chunks(self, rows: Iterator[list[str]]) -> Iterator[list[Record]]:
        chunk: list[Record] = []
        for record in self._records(rows):
            chunk.append(record)
            if len(chunk) == CHUNK:
                yield chunk
                chunk = []
        if chunk:
            yield chunk

    def _records(self, reader: Iterator[list[str]]) -> Iterator[Record]:
        next(reader)
        smiles = self.columns.index(SMILES)
        mol_id = self.columns.index(MOL_ID) if MOL_ID in self.columns else None
        tasks = [i for i, name in enumerate(self.columns) if name not in NOT_TASKS]
        for row in reader:
            if not row:
                continue
            line = reader.line_num  # type: ignore[attr-defined]
            if len(row) != len(self.columns):
                raise DataError(
                    f"{self.path}, line {line}: {len(row)} fields, "
                    f"but the header has {len(self.columns)}"
                )
            try:
                labels = bytes([_LABELS[row[i]] for i in tasks])
            except KeyError:
                raise self._label_error(row, tasks, line) from None
            name = row[mol_id] if mol_id is not None else str(line)
            yield Record(line, row[smiles].strip(), name, labels)

    def _label_error(self, row: list[str], tasks: list[int], line: int) -> DataError:
        wrong = next(i for i in tasks if row[i] not in _LABELS)
        return DataError(
            f"{self.path}, line {line}, column {self.columns[wrong]!r}: {row[wrong][:40]!r}; "
            f"a task column holds 0, 1 or nothing (columns that are no tasks: "
            f"{', '.join(sorted(NOT_TASKS))})"
        )


def first_rejects(path: Path, number: int = 3) -> list[str]:
    """The first rows of a table of rejects, as text for the terminal."""
    with open(path, newline="") as file:
        rows = list(itertools.islice(csv.DictReader(file), number))
    return [f"line {row['line']}: {row['smiles'][:60]!r}: {row['reason']}" for row in rows]


def _check_header(path: Path, columns: list[str]) -> None:
    if not columns:
        raise DataError(f"{path} is empty; it needs a header line with a column {SMILES!r}")
    if SMILES not in columns:
        shown = ", ".join(columns[:6]) + (", ..." if len(columns) > 6 else "")
        raise DataError(f"{path} has no column {SMILES!r}; its header is: {shown}"[:300])
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise DataError(f"{path} has the column {twice[0]!r} more than once")
    if set(columns) <= NOT_TASKS:
        raise DataError(f"{path} has no task column beside {', '.join(columns)}")
    if "" in columns:
        raise DataError(f"{path}: column {columns.index('') + 1} has no name")


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    with open(path, "rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if zipped:
            with gzip.open(file, "rb") as unzipped:
                yield unzipped  # type: ignore[misc]
        else:
            yield file


@contextmanager
def _rows(path: Path) -> Iterator[Iterator[list[str]]]:
    with _open(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        yield csv.reader(text, strict=True)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn every way in which reading `path` can fail into a `DataError`."""
    try:
        yield
    except EOFError:
        raise DataError(f"{path} is cut short: its gzip stream has no end; get it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is damaged ({error}); get it again") from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is no UTF-8 text (byte {error.start}); is it a CSV file?"
        ) from None
    except csv.Error as error:
        raise DataError(f"{path} is no well-formed CSV file: {error}") from None
    except OSError as error:
        if error.filename != str(path) and error.filename != path:
            raise  # a failure to write, which is not about this file
        raise DataError(f"cannot read {path}: {error.strerror}") from None
