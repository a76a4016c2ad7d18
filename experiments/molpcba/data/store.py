"""A prepared data set on disk: made whole or not at all, and checked each time it is used."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout

from .errors import DataError
from .packed import PackedGraphs
from .stock import PACKED, pack_layout

VERSION = 1
"""Raise it whenever prepared data would come out differently: old folders are then left unread."""

MARKER = "complete.json"
"""Written last; a folder without it, or whose files differ from it, is not trusted."""


@dataclass(frozen=True)
class Contents:
    """What a source wrote: sizes, and a line for each thing a user should know about it."""

    num_graphs: int
    task_names: list[str]
    num_rejected: int = 0


class Source(Protocol):
    """Where a data set comes from. A new one is one class with these three members."""

    @property
    def slug(self) -> str:
        """Short name for the folder."""

    @property
    def key(self) -> str:
        """Hash of everything the prepared data depends on."""

    def write(self, folder: Path, workers: int) -> Contents:
        """Write OGB's raw layout into the empty `folder`."""


@dataclass(frozen=True)
class Store:
    """A prepared folder: OGB's raw layout, the packed graphs and the marker."""

    path: Path
    contents: Contents
    graphs_sha256: str

    def graphs(self) -> PackedGraphs:
        """The packed graphs, mapped into memory."""
        return PackedGraphs.load(self.path / PACKED)


def prepare(source: Source, root: Path, workers: int) -> Store:
    """The prepared data of `source` under `root`, made now unless it is there already.

    It is made in a temporary folder that is renamed when complete, under a lock that the system
    drops with the process: a killed preparation leaves a folder that nothing trusts and that the
    next one removes, and of several processes (DDP) one works while the others wait.

    Raises:
        DataError: when the source is no good, or the folder cannot be written.
    """
    path = root / f"{source.slug}-{source.key[:12]}"
    store, _ = _open(path, source.key)
    if store is not None:
        return store
    with writing(root), locked(root / f".{path.name}.lock"):
        store, damage = _open(path, source.key)
        if store is not None:
            return store
        if damage:
            print(f"{path}: {damage}; preparing it afresh", file=sys.stderr)
        _build(source, path, workers)
    store, damage = _open(path, source.key)
    if store is None:
        raise DataError(f"{path} was written but reads back wrong ({damage}); check the disk")
    return store


@contextmanager
def writing(root: Path) -> Iterator[None]:
    """Make `root`; turn a failure to write under it into a `DataError`."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise DataError(
            f"cannot write the data under {root}: {error.strerror or error}; "
            "nothing was left behind, make room or name another folder with --root"
        ) from error


def _build(source: Source, path: Path, workers: int) -> None:
    """Write everything into a temporary folder, then rename it to `path`."""
    for stale in path.parent.glob(f".{path.name}.tmp-*"):
        shutil.rmtree(stale)
    temporary = path.parent / f".{path.name}.tmp-{os.getpid()}"
    temporary.mkdir()
    try:
        contents = source.write(temporary, workers)
        packing = pack_layout(temporary, len(contents.task_names), contents.num_graphs)
        if packing.num_graphs != contents.num_graphs:
            raise DataError(
                f"{packing.num_graphs} molecules read back where {contents.num_graphs} were written"
            )
        marker = {
            "key": source.key,
            "contents": asdict(contents),
            "graphs_sha256": packing.sha256,
            "files": {name: _sha256(temporary / name) for name in _checked_files(temporary)},
        }
        (temporary / MARKER).write_text(json.dumps(marker, indent=1))
        _flush(temporary)
        if path.exists():
            path.rename(path.parent / f".{path.name}.tmp-damaged")
        temporary.rename(path)
        _flush_folder(path.parent)
    finally:
        for left in path.parent.glob(f".{path.name}.tmp-*"):
            shutil.rmtree(left, ignore_errors=True)


def _checked_files(folder: Path) -> list[str]:
    """Files whose hash the marker holds: all but `raw`, which nothing reads any more."""
    files = (f.relative_to(folder) for f in folder.rglob("*") if f.is_file())
    return sorted(str(f) for f in files if f.parts[0] != "raw")


def _open(path: Path, key: str) -> tuple[Store | None, str]:
    """The store at `path`, or None and what is wrong with it (nothing when there is none)."""
    if not path.exists():
        return None, ""
    try:
        marker = json.loads((path / MARKER).read_text())
        if marker["key"] != key:
            return None, "it was made from other data"
        for name, digest in marker["files"].items():
            if _sha256(path / name) != digest:
                return None, f"{name} is damaged"
        return Store(path, Contents(**marker["contents"]), marker["graphs_sha256"]), ""
    except (OSError, ValueError, KeyError, TypeError) as error:
        return None, f"it is incomplete ({error})"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path`; the system drops it when the process ends, however it ends."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"waiting for another process that prepares {path.parent}", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(folder: Path) -> None:
    """Have the system write all files under `folder` to disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
    _flush_folder(folder)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
