"""Columns of a file of molecules: text, separator, quotes, header and the column with the SMILES.

Gzip, UTF-16 and UTF-32 are recognised by the first bytes; all other text is UTF-8.
A table has cells between commas, semicolons, tabs or white space. A SMILES file is read as a table
of two columns: what stands before the first white space, and the rest, whatever it contains.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from json import detect_encoding
from pathlib import Path
from typing import BinaryIO, NamedTuple

from experiments.common import UserError
from experiments.molpcba.data.molecules import is_smiles

STANDARD_INPUT = Path("-")
GZIP, ZIP = b"\x1f\x8b", b"PK\x03\x04"
Rows = list[tuple[int, list[str]]]
"""Cells of each row, behind the number of the line in which it begins."""
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
GAP = re.compile(r"[ \t]+")
FIRST_SPACE, SPACE = "the first white space", "white space"
SPACES = {FIRST_SPACE: 1, SPACE: 0}
"""How often a line is cut there; 0: wherever there is some."""
WORD = re.compile(r"(?=.*[adefghijkmqtuvwxyz\u0080-\uffff])[^\W\d_][\w ()-]*|[A-Z_ ]{5,}")
"""A word that a header could have, with letters that SMILES lack."""
NUMBER = re.compile(r"[-+]?[0-9.,]*[0-9][0-9.,]*(e[-+]?[0-9]+)?", re.IGNORECASE)
SAMPLE = 200
"""Rows whose cells are looked at to find the SMILES."""
csv.field_size_limit(sys.maxsize)


@contextmanager
def reading(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a file, or of standard input for ``-``, decompressed if need be.

    Every way in which reading it or parsing what was read can fail becomes a ``UserError``.
    """
    try:
        data = sys.stdin.buffer.read() if path == STANDARD_INPUT else path.read_bytes()
        yield io.BytesIO(gzip.decompress(data) if data.startswith(GZIP) else data)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: expected a file") from None
    except (OSError, EOFError, zlib.error, ValueError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise UserError(f"{path} cannot be read ({reason}): get it again") from None


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, without their ends: LF, CR LF or CR.

    Other characters that Unicode counts as line ends (U+2028, form feed) are part of a line.
    """
    with reading(path) as file:
        data = file.read()
    if data.startswith(ZIP):
        raise UserError(f"{path} is a workbook or an archive, not text: save it as 'CSV UTF-8'")
    encoding = detect_encoding(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path} is not {encoding[:6].upper().strip('-')} text (line {line} has the byte "
            f"0x{data[error.start]:02x}): save it as UTF-8 (in a spreadsheet: 'CSV UTF-8')"
        ) from None
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.removesuffix("\n").split("\n") if text else []


class Columns(NamedTuple):
    """A file of molecules, cut into cells."""

    names: list[str]  # from the header, otherwise "column 1", ...
    has_header: bool
    rows: Rows  # without the header, with blank lines
    smiles: int  # position of the column with SMILES
    separator: str  # a character, or a key of SPACES
    fault: str  # the first quoting error, or ""

    @property
    def about(self) -> str:
        """What was decided about the file, in a line."""
        title = f" ({self.names[self.smiles]!r})"
        header, name = ("a header", title) if self.has_header else ("no header", "")
        between = SEPARATORS.get(self.separator, self.separator)
        shown = [row[self.smiles][:40] for _, row in self.rows if len(row) > self.smiles][:3]
        return (
            f"{len(self.rows):,} rows, columns separated by {between}, {header}; SMILES in column "
            f"{self.smiles + 1}{name}: {', '.join(map(repr, shown))}"
        )


def read_columns(path: Path, wanted: str | None, spaces: Sequence[str]) -> Columns:
    """Cuts a file into columns; all its lines decide how.

    Args:
        path: the file.
        wanted: name of the SMILES column, or its number from 1; None: it is recognised by its
            header, otherwise by its cells.
        spaces: the keys of :data:`SPACES` to try besides the separators.

    Raises:
        UserError: when the file cannot be read, or no column or several could be the SMILES.
    """
    body = read_lines(path)
    declared = re.fullmatch(r'"?sep=(.)\W*', body[0], re.IGNORECASE) if body else None
    first = 2 if declared else 1
    body = body[first - 1 :]
    head_line = next(filter(str.strip, body), "")
    if not head_line:
        raise UserError(f"{path} is empty and has no molecule: expected one in each line")
    separators = [declared[1]] if declared else [*filter(head_line.count, SEPARATORS), *spaces]
    best, score = None, (-1.0, 0.0)
    for separator in separators:
        if score[1] == 1.0 and score[0] >= (0.5 if separator in SPACES else 1.0):
            break  # a space in a SMILES does not make an even table one that spaces separate
        rows, fault = _cut(body, separator, first)
        full = [row for _, row in rows if any(map(str.strip, row))]
        rates = _smiles_rates(full)
        even = 1.0 if separator == FIRST_SPACE else _evenness(full) * len(rows) / len(body)
        own = max(rates), even
        if own > score:
            best, score = (separator, rows, full, rates, fault), own
    assert best is not None
    separator, rows, full, rates, fault = best
    head = [name.strip() for name in full[0]]
    position, has_header = _find_smiles(path, head, rates, wanted)
    names = head if has_header else [f"column {i + 1}" for i in range(len(head))]
    if has_header:
        rows = rows[next(i for i, (_, row) in enumerate(rows) if row is full[0]) + 1 :]
    return Columns(names, has_header, rows, position, separator, fault)


def some(names: Sequence[str], limit: int = 6) -> str:
    """The first names, separated by commas."""
    shown = [repr(name[:80]) for name in names[:limit]]
    return ", ".join(shown) + (", ..." if len(names) > limit else "")


def _cut(lines: list[str], separator: str, first: int) -> tuple[Rows, str]:
    """The rows, and what is wrong with the quotes: each line is then cut by itself."""
    if separator in SPACES:
        cells = [GAP.split(line.strip(" \t"), maxsplit=SPACES[separator]) for line in lines]
        return list(enumerate(cells, first)), ""
    cells = [line.split(separator) for line in lines]
    alone = list(enumerate(cells, first))
    if not any('"' in line for line in lines):
        return alone, ""
    read = partial(csv.reader, delimiter=separator, strict=True, skipinitialspace=True)
    for row, line in zip(cells, lines, strict=True):
        with suppress(csv.Error):
            row[:] = next(read([line]))  # in ``alone``, too
    reader = read(f"{line}\n" for line in lines)
    quoted: Rows = []
    start = first
    try:
        for row in reader:
            quoted.append((start, row))
            start = first + reader.line_num
    except csv.Error as error:
        return alone, f"line {start}: the quotes of a cell do not match ({error})"
    if _evenness([row for row in cells if any(map(str.strip, row))]) == 1:
        for (begin, _), (number, _) in zip(quoted, [*quoted[1:], (start, [])], strict=True):
            if number > begin + 1:
                return alone, f"line {begin}: a quote opens a cell that ends in line {number - 1}"
    return quoted, ""


def _evenness(rows: list[list[str]]) -> float:
    """Share of the rows with as many cells, two or more, as the first."""
    width = len(rows[0])
    return sum(len(row) == width for row in rows) / len(rows) if width > 1 else 0.0


def _smiles_rates(rows: list[list[str]]) -> list[float]:
    """For each column, the share of its cells that are SMILES."""
    sample = rows[:: max(1, len(rows) // SAMPLE)]
    rates = []
    for column in range(len(rows[0])):
        cells = [row[column].strip(" \t") for row in sample if len(row) > column]
        cells = [cell for cell in cells if cell]
        rates.append(sum(map(is_smiles, cells)) / len(cells) if cells else 0.0)
    return rates


def _find_smiles(
    path: Path, head: list[str], rates: list[float], wanted: str | None
) -> tuple[int, bool]:
    """Position of the SMILES column, and whether the first row, `head`, is a header."""
    likely = [i for i, rate in enumerate(rates) if rate >= 0.5]
    named = [i for i, name in enumerate(head) if "smile" in name.lower()]
    if any(is_smiles(head[i]) for i in likely):
        named = []  # a molecule with a name
    named = [i for i in named if rates[i] > 0 or max(rates) == 0]
    exact = [i for i in named if head[i].lower() == "smiles"]
    found = exact or named or likely or ([0] if len(head) == 1 else [])
    if wanted is not None:
        named = [i for i, name in enumerate(head) if name == wanted] or named
        found = named if wanted in head else [i for i in range(len(head)) if wanted == str(i + 1)]
        if not found:
            raise UserError(f"{path} has no column {wanted!r}; it has {some(head)}")
    if len(found) != 1:
        what = f"several columns of SMILES ({some([head[i] for i in found])})"
        raise UserError(
            f"{path} has {what if found else 'no column of SMILES'}; --smiles-column names it "
            f"(or gives its number from 1), one of {some(head)}"
        )
    title = head[found[0]]  # in a header: a word, no molecule, and no numbers beside it
    is_title = WORD.fullmatch(title) is not None and not is_smiles(title)
    return found[0], bool(named) or (is_title and not any(map(NUMBER.fullmatch, head)))
