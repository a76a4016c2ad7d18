"""Text of users' files: gzip and byte-order marks are understood, everything else is UTF-8."""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from experiments.common import UserError

STANDARD_INPUT = Path("-")
GZIP, ZIP = b"\x1f\x8b", b"PK\x03\x04"
MARKS = {
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
"""Byte-order marks, the longer ones first, and what they mean."""


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
    """The lines of a text file, without their ends: LF, CR LF, or CR in a file without LF.

    Other characters that Unicode counts as line ends (U+2028, form feed) are part of a line.
    """
    with reading(path) as file:
        data = file.read()
    if data.startswith(ZIP):
        raise UserError(f"{path} is a workbook or an archive, not text: save it as 'CSV UTF-8'")
    encoding = next((name for mark, name in MARKS.items() if data.startswith(mark)), "utf-8-sig")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path} is not {encoding[:6].upper().strip('-')} text (line {line} has the byte "
            f"0x{data[error.start]:02x}): save it as UTF-8 (in a spreadsheet: 'CSV UTF-8')"
        ) from None
    text = text.replace("\r\n", "\n")
    if "\n" not in text:
        text = text.replace("\r", "\n")
    return text.removesuffix("\n").split("\n") if text else []
