"""Shared by all experiments: the error class, atomic files, provenance, the frame of a command."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import subprocess
import sys
import uuid
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

PACKAGES = ("pyg_ea", "torch", "torch-geometric", "lightning", "ogb", "rdkit", "numpy")


class UserError(Exception):
    """A mistake or circumstance that the user can act on. Any function here may raise it.

    ``str(error)`` is one line: what was got, what was expected, what to do.
    """


class Interrupted(Exception):  # noqa: N818 - a request, not an error
    """A run was asked to stop; ``str(error)`` is the name of the signal."""


def command(function: Callable[[Sequence[str]], int | None]) -> Callable[..., int]:
    """Makes a ``main`` of a function of the command line's words.

    A user's mistake becomes one line and exit code 2; Ctrl-C and SIGTERM end with 130 and 143.
    """

    def main(argv: Sequence[str] | None = None) -> int:
        for stream in (sys.stdout, sys.stderr):  # whatever the locale
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(encoding="utf-8", errors="surrogateescape")
        try:
            return function(sys.argv[1:] if argv is None else argv) or 0
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except (KeyboardInterrupt, Interrupted) as error:
            name = str(error) or "SIGINT"
            print(f"stopped by {name}: --resume continues a run, the same command a study",
                  file=sys.stderr)  # fmt: skip
            return 143 if name == "SIGTERM" else 130

    main.__doc__ = f"Command line; returns the exit code.\n\n{function.__doc__}"
    return main


@contextmanager
def atomic(path: Path, overwrite: bool = True) -> Iterator[Path]:
    """A temporary path whose file replaces ``path`` when the block ends without an error.

    Without ``overwrite`` a ``path`` that exists by then raises ``FileExistsError``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        if not overwrite:
            path.touch(exist_ok=False)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str, overwrite: bool = True) -> None:
    """Writes a whole file or, if interrupted, none of it."""
    with atomic(path, overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8")


def save(path: Path, content: dict[str, Any]) -> None:
    """Writes tensors and plain values, all or nothing.

    Raises:
        OSError: when the disk is full or failing; torch reports that as a ``RuntimeError``.
    """
    with atomic(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:
            raise OSError(f"cannot write {path}: the disk is full or failing") from error


def load(path: Path) -> dict[str, Any]:
    """What :func:`save` wrote, mapped into memory, after a check of every byte's checksum.

    Raises:
        UserError: when the file is missing, damaged, or something else.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load does not look at checksums
            damaged = archive.testzip()
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError) as error:
        raise UserError(f"{path} is damaged ({error})") from error
    if damaged is not None:
        raise UserError(f"{path} is damaged (in its part {damaged})")
    try:
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, ValueError) as error:
        raise UserError(f"{path} is not a file of this program") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a file of this program")
    return content


def sha256(text: str) -> str:
    """Hash of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def revision() -> str:
    """The git commit of the code, with ``-dirty`` if changed since; unknown outside a checkout."""
    call = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(
            call, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"


def versions() -> dict[str, str | None]:
    """Versions of the packages that results depend on."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def mean_and_deviation(values: Sequence[float], form: str = ".4f") -> str:
    """``0.2266 ± 0.0028``, the unbiased deviation; a single value has none."""
    deviation = f" ± {stdev(values):{form}}" if len(values) > 1 else ""
    return f"{mean(values):{form}}{deviation}"
