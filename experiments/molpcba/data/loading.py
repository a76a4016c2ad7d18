"""`load`: from the command line's words to a `MoleculeData`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from .csv_source import REJECTS, CsvSource, first_rejects
from .dataset import MoleculeData, SmilesColumn
from .embedded import HIDDEN, EmbeddedSource
from .errors import DataError
from .groups import molecule_groups
from .ogb_source import MOLPCBA, OgbSource, download, find
from .parallel import default_workers
from .splits import random_split, scaffold_split
from .stock import read_split
from .store import Source, Store, prepare

SPLITS = ("ogb", "scaffold", "random")


@dataclass(frozen=True)
class _Choice:
    """A source, and what the outside calls it."""

    source: Source
    name: str
    metric: str
    told: str
    own_split: tuple[str, str] | None = None
    """Folder of the split that comes with the set, and its name in `SPLITS`."""


def load(
    data: str = "auto",
    *,
    root: Path | str = Path("dataset"),
    csv: Path | str | None = None,
    name: str | None = None,
    split: str | None = None,
    split_seed: int = 0,
    workers: int | None = None,
) -> MoleculeData:
    """Find or prepare a data set; prepared once, it is there in a second the next time.

    Args:
        data: "ogb" (OGB's set, on disk or downloaded), "embedded" (needs no network), or "auto":
            OGB's if it can be had, else the embedded one, and `source` says why.
        root: folder for downloads and prepared sets.
        csv: a CSV file of one's own, in place of `data`.
        name: what to call the CSV file's set; by default its stem.
        split: "ogb" (comes with OGB's set), "scaffold", "random", or None: the set's own, for a
            CSV file "random". "random" never parts equal molecules.
        split_seed: fixes the order of "random".
        workers: processes for the preparation; by default one for each processor.

    Raises:
        DataError: on whatever keeps the data from being used.
    """
    root = Path(root)
    workers = default_workers() if workers is None else workers
    _check_arguments(data, csv, split, split_seed, workers)
    choice = _from_csv(Path(csv), name) if csv is not None else CHOICES[data](root)
    store = prepare(choice.source, root, workers)
    smiles = SmilesColumn(store.path / "mapping" / "mol.csv.gz")
    splits, split = _split(choice, store, smiles, split, split_seed, workers)
    return MoleculeData(
        name=choice.name,
        source=choice.told + _rejected(store),
        graphs=store.graphs(),
        splits=splits,
        split=split,
        task_names=store.contents.task_names,
        metric=choice.metric,
        smiles=smiles,
        graphs_sha256=store.graphs_sha256,
    )


def _check_arguments(
    data: str, csv: Path | str | None, split: str | None, split_seed: int, workers: int
) -> None:
    if data not in CHOICES:
        raise DataError(f"data is {data!r}; it has to be one of {', '.join(CHOICES)}")
    if csv is not None and data != "auto":
        raise DataError(f"a CSV file and data {data!r} exclude each other; leave one out")
    if split not in (None, *SPLITS):
        raise DataError(f"split is {split!r}; it has to be one of {', '.join(SPLITS)}")
    if split_seed < 0:
        raise DataError(f"the split's seed is {split_seed}; it has to be 0 or more")
    if workers < 1:
        raise DataError(f"workers is {workers}; it has to be at least 1")


def _from_csv(path: Path, name: str | None) -> _Choice:
    source = CsvSource.of(path)
    tasks = len(source.task_names)
    return _Choice(
        source=source,
        name=name or source.stem,
        metric="rocauc" if tasks == 1 else "ap",
        told=f"{path.name}, {tasks} task{'s' if tasks > 1 else ''}",
    )


def _embedded(root: Path, why: str = "as asked") -> _Choice:
    source = EmbeddedSource()
    return _Choice(
        source=source,
        name="embedded-nci",
        metric="ap",
        told=(
            f"embedded set, NOT {MOLPCBA.name} ({why}): NCI compounds of the rdkit package, "
            f"{source.num_tasks} structural alerts as tasks, {HIDDEN:.0%} of the labels hidden"
        ),
        own_split=("random", "random"),
    )


def _ogb(root: Path) -> _Choice:
    found = find(MOLPCBA, root)
    if found is not None:
        return _ogb_choice(found, f"found in {found.folder}")
    return _ogb_choice(download(MOLPCBA, root), "downloaded")


def _ogb_choice(source: OgbSource, how: str) -> _Choice:
    facts = source.facts
    return _Choice(source, facts.name, facts.metric, f"{facts.name}, {how}", ("scaffold", "ogb"))


def _auto(root: Path) -> _Choice:
    try:
        return _ogb(root)
    except DataError as error:
        return _embedded(root, f"because {error}")


CHOICES: dict[str, Callable[[Path], _Choice]] = {"auto": _auto, "ogb": _ogb, "embedded": _embedded}


def _split(
    choice: _Choice,
    store: Store,
    smiles: SmilesColumn,
    split: str | None,
    seed: int,
    workers: int,
) -> tuple[dict[str, Tensor], str]:
    """The split and its name."""
    own = choice.own_split
    if own and (split is None or split == own[1] == "ogb"):
        folder, split = own
        splits = read_split(store.path, folder)
    elif split == "ogb":
        raise DataError(f"{choice.name} has no split of OGB's; use split random or scaffold")
    elif split == "scaffold":
        splits = scaffold_split(molecule_groups(store, smiles, "scaffold", workers))
    else:
        split = "random"
        splits = random_split(molecule_groups(store, smiles, "canonical", workers), seed)
    empty = [name for name, index in splits.items() if not index.numel()]
    if empty:
        raise DataError(
            f"split {split} of the {store.contents.num_graphs} molecules of {choice.name} leaves "
            f"{' and '.join(empty)} empty; use more molecules or another split"
        )
    return splits, split


def _rejected(store: Store) -> str:
    """The rest of `source`: how many molecules, and how many rows were left out."""
    told = f"; {store.contents.num_graphs:,} molecules"
    if store.contents.num_rejected:
        rows = f"{store.contents.num_rejected:,} rows left out"
        listed = f"all listed in {store.path / REJECTS}"
        shown = "; ".join(first_rejects(store.path / REJECTS))
        print(f"{rows}, their SMILES cannot be read ({shown}); {listed}", file=sys.stderr)
        told += f"; {rows}, {listed}"
    return told
