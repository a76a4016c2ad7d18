"""`load`: from the command line's words to a `MoleculeData`."""

from __future__ import annotations

from pathlib import Path

from .dataset import MoleculeData, SmilesColumn
from .embedded import EmbeddedSource
from .errors import DataError
from .parallel import default_workers
from .stock import read_split
from .store import prepare


def load(
    data: str = "auto",
    *,
    root: Path = Path("dataset"),
    csv: Path | None = None,
    name: str | None = None,
    split: str | None = None,
    split_seed: int = 0,
    workers: int | None = None,
) -> MoleculeData:
    """First cut: the embedded set only."""
    if csv is not None or data == "ogb":
        raise DataError("only --data embedded is there yet")
    store = prepare(EmbeddedSource(), Path(root), workers or default_workers())
    return MoleculeData(
        name="embedded-nci",
        source="embedded set",
        graphs=store.graphs(),
        splits=read_split(store.path, "random"),
        split="random",
        task_names=store.contents.task_names,
        metric="ap",
        smiles=SmilesColumn(store.path / "mapping/mol.csv.gz"),
        graphs_sha256=store.graphs_sha256,
    )
