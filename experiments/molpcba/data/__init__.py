"""Molecules for the trainer: OGB's sets, a CSV file of one's own, or the embedded set.

A source has `name`, `slug`, `description`, `key()` and `prepare(workers)`: graphs with labels, task
names, metric, and a split of its own or the groups to split by. :func:`load` prepares it once, as
one file under `root`, and gives a :class:`MoleculeData`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
import rdkit
from filelock import FileLock
from torch import Tensor

from experiments import common
from experiments.common import UserError
from experiments.molpcba.data.embedded import EmbeddedSource
from experiments.molpcba.data.graphs import GraphLoader, MoleculeData, PackedGraphs
from experiments.molpcba.data.molecules import default_workers, pack_smiles
from experiments.molpcba.data.ogb import OgbSource, molecule_sets
from experiments.molpcba.data.splits import random_split, scaffold_split
from experiments.molpcba.data.table import TableSource

__all__ = ["GraphLoader", "MoleculeData", "PackedGraphs", "load", "pack_smiles"]

VERSION = 2
"""Raise it whenever prepared data would come out differently: older files are then left unread."""
MOLPCBA = "ogbg-molpcba"
SPLITS = ("ogb", "scaffold", "random")

Source = OgbSource | TableSource | EmbeddedSource


def load(
    data: str = "auto",
    *,
    root: Path | str = "dataset",
    csv: Path | str | None = None,
    name: str | None = None,
    split: str | None = None,
    split_seed: int = 0,
    workers: int | None = None,
    **columns: Any,
) -> MoleculeData:
    """Finds or prepares a data set; the next time it is there in a second.

    Args:
        data: one of OGB's molecule sets by name (on disk or downloaded), "ogb" for ogbg-molpcba,
            "embedded" (needs no network), or "auto": ogbg-molpcba if it can be had, else the
            embedded set, and `source` says why.
        root: folder for downloads and prepared sets.
        csv: a CSV file of one's own, in place of `data`.
        name: what to call the CSV file's set; by default its stem.
        split: "ogb" (comes with OGB's sets), "scaffold", "random", or None: the set's own, for a
            CSV file "random". "random" never parts equal molecules.
        split_seed: fixes the order of "random".
        workers: processes for the preparation; by default one for each processor.
        columns: see :class:`TableSource`.

    Raises:
        UserError: when the data cannot be used.
    """
    root = Path(root)
    source = _source(data, root, None if csv is None else Path(csv), name, columns)
    path, content = _prepared(source, root, workers or default_workers())
    splits, split = _split(source.name, content, split, split_seed)
    graphs = PackedGraphs(**content["tensors"])
    description = f"{source.description}; {len(graphs):,} molecules"
    for note in content.get("notes", ()):
        print(f"note: {note}", file=sys.stderr)
    if content.get("rejected"):
        description += "; " + _report_rejected(content["rejected"], path)
    return MoleculeData(
        name=source.name,
        source=description,
        graphs=graphs,
        splits=splits,
        split=split,
        task_names=content["task_names"],
        metric=content["metric"],
        graphs_sha256=content["graphs_sha256"],
    )


def _source(
    data: str, root: Path, csv: Path | None, name: str | None, columns: dict[str, Any]
) -> Source:
    if csv is not None:
        if data != "auto":
            raise UserError(f"--csv and --data {data} exclude each other; leave one out")
        return TableSource.of(csv, name, **columns)
    if data == "embedded":
        return EmbeddedSource()
    sets = molecule_sets()
    if data not in ("auto", "ogb", *sets):
        choices = ", ".join(["auto", "ogb", "embedded", *sets])
        raise UserError(f"--data must be one of {choices}, got {data!r}")
    try:
        return OgbSource.get(data if data in sets else MOLPCBA, root)
    except UserError as error:
        if data != "auto":
            raise
        return EmbeddedSource(f"because {error}")


def _prepared(source: Source, root: Path, workers: int) -> tuple[Path, dict[str, Any]]:
    """The prepared data and its file under `root`, made now unless it is there already.

    The file appears whole or not at all, under a lock that the system drops with the process: of
    several processes (DDP) one works while the others wait.
    """
    key = f"{VERSION} {rdkit.__version__} {source.key()}"
    path = root / f"{source.slug}-{common.sha256(key)[:12]}.pt"
    if (content := _read(path)) is not None:
        return path, content
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{path.name}.lock"):
            if (content := _read(path)) is None:
                content = source.prepare(workers)
                graphs = content.pop("graphs")
                content |= {"tensors": graphs.tensors(), "graphs_sha256": graphs.content_hash()}
                common.save(path, content)
    except OSError as error:
        raise UserError(
            f"cannot write the data under {root}: {error.strerror or error}; nothing was left "
            "behind, free some space or name another folder with --root"
        ) from error
    content = _read(path)
    if content is None:
        raise UserError(f"{path} was written but cannot be read back; check the disk")
    return path, content


def _read(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        return common.load(path)
    except UserError as error:
        print(f"{error}; preparing it again", file=sys.stderr)
        return None


def _split(
    name: str, content: dict[str, Any], split: str | None, seed: int
) -> tuple[dict[str, Tensor], str]:
    """The split and its name."""
    own = content.get("split")
    if own is not None and (split is None or split == own == "ogb"):
        splits, split = content["splits"], own
    elif split == "ogb":
        raise UserError(f"{name} has no split of OGB's; use --split random or scaffold")
    elif own == "ogb":
        raise UserError(f"{name} comes with OGB's split, its own; leave out --split {split}")
    elif split == "scaffold":
        splits = scaffold_split(content["scaffold"].numpy())
    else:
        splits, split = random_split(content["canonical"].numpy(), seed), "random"
    empty = [part for part, index in splits.items() if not index.numel()]
    if empty:
        raise UserError(
            f"split {split} of the molecules of {name} leaves {' and '.join(empty)} empty; use "
            "more molecules or another --split"
        )
    return splits, str(split)


def _report_rejected(rejected: list[tuple[int, str, str]], path: Path) -> str:
    """Lists the rows left out in a table beside the data; a sentence about them."""
    table = path.with_name(f"{path.stem}-rejects.csv")
    if not table.exists():
        frame = pd.DataFrame(rejected, columns=["line", "smiles", "reason"])
        common.write_text(table, frame.to_csv(index=False))
    shown = "; ".join(f"line {line}: {text[:60]!r}: {why}" for line, text, why in rejected[:3])
    sentence = f"{len(rejected):,} rows left out"
    print(f"note: {sentence}, their SMILES cannot be read ({shown})", file=sys.stderr)
    return f"{sentence}, all listed in {table}"
