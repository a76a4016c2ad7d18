"""Shared by all experiments: the error class, atomic files, provenance, the frame of a command."""

from __future__ import annotations

import io
import os
import pickle
import re
import subprocess
import sys
import uuid
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import wraps
from importlib.metadata import distributions
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
import yaml
from filelock import FileLock, Timeout

DROPPED = {"compile"}
"""Settings of older versions that decided nothing but speed: records that have them stay valid."""
PACKAGES = ("pyg_ea", "torch", "torch-geometric", "lightning", "ogb", "rdkit", "numpy")


class UserError(Exception):
    """A mistake or circumstance that the user can act on. Any function here may raise it.

    ``str(error)`` is one line: what was got, what was expected, what to do.
    """


@dataclass(eq=False)
class Interrupted(Exception):  # noqa: N818 - a request, not an error
    """A run was asked to stop by the signal ``name``; ``way_on`` says how to continue."""

    name: str = "SIGINT"
    way_on: str = "the same command continues"


def command(function: Callable[[Sequence[str]], int | None]) -> Callable[..., int]:
    """Makes a ``main`` of a function of the command line's words.

    A user's mistake and a failing disk become one line and exit code 2; Ctrl-C and SIGTERM end with
    130 and 143.
    """

    @wraps(function)
    def main(argv: Sequence[str] | None = None) -> int:
        for name in ("stdout", "stderr"):
            if getattr(sys, name) is None:  # closed, as by 2>&-
                setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - until the end
            if isinstance(stream := getattr(sys, name), io.TextIOWrapper):  # whatever the locale
                stream.reconfigure(encoding="utf-8", errors="surrogateescape")
        try:
            return function(sys.argv[1:] if argv is None else argv) or 0
        except (UserError, OSError) as error:
            is_known = isinstance(error, UserError | BrokenPipeError)
            way_out = "" if is_known else ": free the disk, or choose another folder"
            print(f"error: {error}{way_out}", file=sys.stderr)
            return 2
        except (KeyboardInterrupt, Interrupted) as error:
            stop = error if isinstance(error, Interrupted) else Interrupted()
            print(f"stopped by {stop.name}: {stop.way_on}", file=sys.stderr)
            return 143 if stop.name == "SIGTERM" else 130

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


@contextmanager
def owned(folder: Path, other: str) -> Iterator[None]:
    """Holds a folder, made if need be, against other processes of this project.

    The system drops the lock when the process ends, however it ends. Where another process holds
    it, a ``UserError`` names ``other``, the flag by which the user chooses another folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / ".lock", timeout=0).acquire()
    except Timeout as error:
        raise UserError(
            f"another process is at work in {folder}: wait for it, or choose another by {other}"
        ) from error
    with lock:
        yield


class _Loader(yaml.SafeLoader):
    """Refuses equal keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"the key {key!r} stands there more than once")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(  # 1e-3, in YAML 1.1 a text
    "tag:yaml.org,2002:float", re.compile("[-+]?[0-9]+e[-+]?[0-9]+$"), [*"-+0123456789"]
)


def read_yaml(path: Path) -> dict[str, Any]:
    """A file of settings.

    Raises:
        UserError: when it cannot be read or is no mapping. Aliases are refused, since nested ones
            stand for content without bound.
    """
    try:
        if not path.is_file():
            raise UserError(f"{path}: there is no such file")
        data = path.read_bytes()
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(data)):
            raise UserError(f"{path}: aliases (*name) are not supported, write the values out")
        content = yaml.load(data, _Loader)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} has no settings: expected lines such as 'lr: 0.01'")
    return content


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
            if (damaged := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"in its part {damaged}")
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError) as error:
        raise UserError(f"{path} is damaged ({error})") from error
    except (RuntimeError, pickle.UnpicklingError, ValueError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a file of this program")
    return content


def revision() -> str:
    """The git commit of the code, with ``-dirty`` if changed since; unknown outside a checkout."""
    place = str(Path(__file__).parent)
    call = ["git", "-C", place, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.check_output(call, stderr=subprocess.DEVNULL, text=True).strip()
    return "unknown"


def versions() -> dict[str, str | None]:
    """Versions of the packages that results depend on."""
    found = {name: next(iter(distributions(name=name)), None) for name in PACKAGES}
    return {name: None if own is None else own.version for name, own in found.items()}


def duration(seconds: float) -> str:
    """``1 h 5 min``, ``5 min 10 s`` or ``10 s``."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def mean_and_deviation(values: Sequence[float], form: str = ".4f") -> str:
    """``0.2266 ± 0.0028``, the unbiased deviation; a single value has none."""
    deviation = f" ± {stdev(values):{form}}" if len(values) > 1 else ""
    return f"{mean(values):{form}}{deviation}"
