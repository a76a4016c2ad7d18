"""The data that the settings name, prepared once as one file under ``--root``.

The file holds packed graphs with labels, task names, metric, and a split or groups to split by.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import rdkit
from filelock import FileLock
from lightning_utilities import apply_to_collection
from torch import Tensor

import experiments.molpcba.data.embedded as embedded
from experiments import common
from experiments.common import UserError
from experiments.flags import flag
from experiments.molpcba.config import Config
from experiments.molpcba.data.graphs import MoleculeData, PackedGraphs
from experiments.molpcba.data.ogb import NEEDED, find_ogb, molecule_sets, prepare_ogb
from experiments.molpcba.data.splits import random_split, read_split, scaffold_split
from experiments.molpcba.data.table import prepare_table

VERSION = 5
"""Raise it whenever prepared data would come out differently: older files are then left unread."""


OF_TABLES = ("smiles_column", "tasks", "ignore", "task_type", "label_format")
"""Settings that decide how a table is read."""


class Source(NamedTuple):
    """A data set: its name, what the user reads of it, what it depends on, and how it is made."""

    name: str
    about: str
    key: object
    prepare: Callable[[], dict[str, Any]]


def load(config: Config) -> MoleculeData:
    """The data that the settings name, found or prepared; the next time it is there in a second."""
    source = find_source(config)
    content = _prepared(source, Path(config.root))
    for note in content.get("notes", ()):
        print(f"note: {note}", file=sys.stderr)
    graphs = PackedGraphs(**content["tensors"])
    splits, split = _split(source.name, content, config)
    about = f"{source.about}; {len(graphs):,} molecules"
    same = {key: content[key] for key in ("task_names", "metric", "graphs_sha256", "units")}
    return MoleculeData(source.name, about, graphs, splits, split, **same)


def find_source(config: Config) -> Source:
    """The source that the settings name."""
    data = config.data
    if config.csv is not None:
        if data != "auto":
            raise UserError(f"--csv and --data {data} exclude each other; leave one out")
        path = Path(config.csv)
        name = config.data_name or Path(path.name.removesuffix(".gz")).stem
        if name in molecule_sets():
            raise UserError(f"a table is not OGB's {name}: give it another --data-name")
        content = _hash(path), [getattr(config, setting) for setting in OF_TABLES]
        return Source(name, path.name, content, partial(prepare_table, path, config))
    for setting in (*OF_TABLES, "data_name"):
        if getattr(config, setting) not in (None, "auto"):
            raise UserError(f"{flag(setting)} is for --csv: leave it out, or name a table")
    sets, because = molecule_sets(), "as asked"
    if data not in (choices := ["auto", "ogb", "embedded", *sets]):
        raise UserError(f"--data must be one of {', '.join(choices)}, got {data!r}")
    if data != "embedded":
        name = data if data in sets else "ogbg-molpcba"
        try:
            folder, origin = find_ogb(name, Path(config.root))
            key = [_hash(folder / file) for file in NEEDED]
            return Source(name, f"{name}, {origin}", key, partial(prepare_ogb, name, folder))
        except UserError as error:
            if data != "auto":
                raise
            because = f"because {error}"
    smiles = embedded.read_nci()
    about = f"embedded set, NOT ogbg-molpcba ({because}): {embedded.ABOUT}"
    return Source("embedded-nci", about, smiles, partial(embedded.prepare_embedded, smiles))


def _hash(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():  # a pipe could not be read again
            raise UserError(f"{path} is not a file")
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None


def _prepared(source: Source, root: Path) -> dict[str, Any]:
    """The prepared data, from its file under `root`, which is made now unless it is there already.

    The file appears whole or not at all, under a lock that the system drops with the process: of
    several processes one works while the others wait.
    """
    key = joblib.hash([VERSION, rdkit.__version__, source.key])
    path = root / f"{re.sub('[^A-Za-z0-9]', '_', source.name)[:40]}-{key[:12]}.pt"
    if (content := _read(path, key)) is not None:
        return content
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{path.name}.lock"):
            if (content := _read(path, key)) is None:
                if path.exists():
                    print(f"{path} is not what was prepared; preparing it again", file=sys.stderr)
                for left in root.glob(f".{path.name}.*.tmp"):  # by a process that was killed
                    left.unlink()
                content = {"units": None, **source.prepare()}
                content["graphs_sha256"] = PackedGraphs(**content["tensors"]).content_hash()
                common.save(path, content | {"key": key, "content": _digest(content)})
    except OSError as error:
        raise UserError(
            f"cannot write under {root} ({error.strerror or error}): choose another --root"
        ) from error
    return content


def _read(path: Path, key: str) -> dict[str, Any] | None:
    """What the file holds; None where it is missing, damaged, or not what was prepared."""
    with suppress(UserError, TypeError, RuntimeError):  # the latter two: odd tensors
        content = common.load(path)
        if content.pop("key", None) == key and content.pop("content", None) == _digest(content):
            return content
    return None


def _digest(content: object) -> str:
    """A hash of tensors and plain values in dictionaries."""
    return joblib.hash(apply_to_collection(content, Tensor, Tensor.numpy))


def _split(name: str, content: dict[str, Any], config: Config) -> tuple[dict[str, Tensor], str]:
    """The split and its name."""
    own = content.get("split")
    split = config.split or own or "random"
    if split == own and config.split in (None, "ogb"):
        splits = content["splits"]
    elif split == "scaffold" and split in content:
        splits = scaffold_split(content["scaffold"].numpy())
    elif split == "random" and "canonical" in content:
        splits = random_split(content["canonical"].numpy(), config.split_seed)
    elif "rows" in content and Path(split).is_dir():
        splits = read_split(Path(split), content["rows"].numpy())
    else:
        raise UserError(
            f"{name} has no split {split}: leave out --split to take its own; of a table it may be "
            "random, scaffold, or a folder that exists"
        )
    return splits, Path(split).resolve().name
