"""OGB's own set: found on disk, or downloaded whole or not at all."""

from __future__ import annotations

import hashlib
import os
import queue
import shutil
import threading
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError

from tqdm import tqdm

from .errors import DataError
from .layout import RAW_FILES
from .splits import PARTS
from .store import VERSION, Contents, locked, writing

REACH = 5.0
"""Seconds within which the server has to answer."""


@dataclass(frozen=True)
class OgbSet:
    """Public facts of one of OGB's sets; the download has no checksum, so they are checked."""

    name: str
    num_tasks: int
    metric: str
    sizes: tuple[int, int, int]
    url: str

    @property
    def folder(self) -> str:
        """Name of its folder under the root."""
        return self.name.replace("-", "_")

    @property
    def needed(self) -> list[str]:
        """The files a complete folder has."""
        split = [f"split/scaffold/{part}.csv.gz" for part in PARTS]
        return ["RELEASE_v1.txt", *RAW_FILES, *split]


MOLPCBA = OgbSet(
    name="ogbg-molpcba",
    num_tasks=128,
    metric="ap",
    sizes=(350_343, 43_793, 43_793),
    url="http://snap.stanford.edu/ogb/data/graphproppred/csv_mol_download/pcba.zip",
)


@dataclass(frozen=True)
class OgbSource:
    """A complete folder of OGB's; it is read, never written.

    Args:
        facts: which set it is.
        folder: where it lies.
    """

    facts: OgbSet
    folder: Path

    @property
    def slug(self) -> str:
        """Name of the packed copy's folder."""
        return f"{self.facts.folder}_packed"

    @property
    def key(self) -> str:
        """Hash of all files.

        Raises:
            DataError: when one cannot be read.
        """
        digest = hashlib.sha256(f"{VERSION}".encode())
        try:
            for name in self.facts.needed:
                with open(self.folder / name, "rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise DataError(f"cannot read {error.filename}: {error.strerror}") from None
        return digest.hexdigest()

    def write(self, folder: Path, workers: int) -> Contents:
        """Link the raw files, so that the stock class makes its cache elsewhere."""
        for name in ("raw", "split", "mapping"):
            (folder / name).symlink_to((self.folder / name).resolve(), target_is_directory=True)
        (folder / "RELEASE_v1.txt").write_text("")
        names = [f"task {i}" for i in range(self.facts.num_tasks)]
        return Contents(sum(self.facts.sizes), names)


def find(facts: OgbSet, root: Path) -> OgbSource | None:
    """The set if it lies complete under `root`; None if there is no such folder.

    Raises:
        DataError: when there is a folder, but incomplete.
    """
    for folder in (root / f"{facts.folder}_pyg", root / facts.folder):
        if folder.exists():
            missing = [name for name in facts.needed if not (folder / name).is_file()]
            if missing:
                raise DataError(
                    f"{folder} is incomplete: it lacks {missing[0]} and "
                    f"{len(missing) - 1} other files; remove it to have it downloaded again"
                )
            return OgbSource(facts, folder)
    return None


def download(facts: OgbSet, root: Path) -> OgbSource:
    """Download the set into a temporary folder, check it, and rename it into place.

    Raises:
        DataError: when the server does not answer within `REACH` seconds, or what it sends is no
            good, or it cannot be written. Nothing is left behind.
    """
    response = _reach(facts)
    with response, writing(root), locked(root / f".{facts.folder}.lock"):
        found = find(facts, root)
        if found is not None:
            return found
        with _temporary(root, facts.folder) as temporary:
            _fetch(response, temporary / "set.zip", facts)
            extracted = _extract(temporary / "set.zip", temporary, facts)
            extracted.rename(root / facts.folder)
    return OgbSource(facts, root / facts.folder)


def _reach(facts: OgbSet) -> HTTPResponse:
    """Open the URL. In a thread: looking up a name has no time limit of its own."""
    answer: queue.Queue[HTTPResponse | Exception] = queue.Queue()

    def ask() -> None:
        try:
            answer.put(urllib.request.urlopen(facts.url, timeout=REACH))
        except (OSError, HTTPException) as error:
            if isinstance(error, HTTPError):
                error.close()
            answer.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        got = answer.get(timeout=REACH + 1)
    except queue.Empty:
        got = TimeoutError(f"no answer within {REACH:g} s")
    if isinstance(got, Exception):
        raise DataError(f"{facts.name} could not be downloaded ({got})")
    return got


@contextmanager
def _temporary(root: Path, name: str) -> Iterator[Path]:
    """A folder that is gone afterwards, together with those that killed processes left."""
    try:
        for stale in root.glob(f".{name}.tmp-*"):
            shutil.rmtree(stale)
        temporary = root / f".{name}.tmp-{os.getpid()}"
        temporary.mkdir()
        yield temporary
    finally:
        for left in root.glob(f".{name}.tmp-*"):
            shutil.rmtree(left, ignore_errors=True)


def _fetch(response: HTTPResponse, path: Path, facts: OgbSet) -> None:
    total = int(response.headers.get("Content-Length") or 0)
    done = 0
    bar = tqdm(total=total or None, desc=f"download {facts.name}", unit="B", unit_scale=True)
    with bar, open(path, "wb") as file:
        while block := _next_block(response, facts):
            file.write(block)
            done += len(block)
            bar.update(len(block))
    if total and done != total:
        raise DataError(f"the download of {facts.name} broke off after {done:,} of {total:,} bytes")


def _next_block(response: HTTPResponse, facts: OgbSet) -> bytes:
    try:
        return response.read(1 << 20)
    except (OSError, HTTPException) as error:
        raise DataError(f"the download of {facts.name} broke off ({error})") from None


def _extract(archive: Path, folder: Path, facts: OgbSet) -> Path:
    """Unpack; the folder that holds the files."""
    try:
        with zipfile.ZipFile(archive) as file:
            file.extractall(folder)
    except zipfile.BadZipFile as error:
        raise DataError(f"{facts.url} sent no sound zip file ({error})") from None
    for release in folder.glob("*/RELEASE_v1.txt"):
        missing = [name for name in facts.needed if not (release.parent / name).is_file()]
        if not missing:
            return release.parent
    raise DataError(f"{facts.url} sent a zip file that does not hold {facts.name}")
