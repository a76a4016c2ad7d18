"""MoleculeData and `load`: one path from every source to packed graphs and a split."""

from __future__ import annotations

import csv
import gzip
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import overload

from torch import Tensor

from .packed import PackedGraphs


class SmilesColumn(Sequence[str]):
    """The SMILES of a prepared set, read from `mapping/mol.csv.gz` when first asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _values(self) -> list[str]:
        with gzip.open(self.path, "rt", newline="") as file:
            return [row["smiles"] for row in csv.DictReader(file)]

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        return self._values[index]

    def __len__(self) -> int:
        return len(self._values)


@dataclass(frozen=True)
class MoleculeData:
    """A data set ready for training.

    Args:
        name: "ogbg-molpcba", "embedded-nci", or a CSV file's given name or stem.
        source: a sentence: which data, how many molecules, why this one was taken.
        graphs: all molecules, packed.
        splits: "train", "valid", "test" -> graph numbers, int64.
        split: how they were made: "ogb", "scaffold" or "random".
        task_names: a name for each label column.
        metric: OGB's metric, "ap" or "rocauc".
        smiles: the molecules as text, in the order of `graphs`; read when first used.
        graphs_sha256: hash of the packed graphs and labels.
    """

    name: str
    source: str
    graphs: PackedGraphs
    splits: dict[str, Tensor]
    split: str
    task_names: list[str]
    metric: str
    smiles: Sequence[str]
    graphs_sha256: str

    @property
    def num_tasks(self) -> int:
        """Number of label columns."""
        return len(self.task_names)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of graphs, labels, task names, metric and split: equal only for the same task."""
        digest = hashlib.sha256(f"{self.graphs_sha256} {self.metric} {self.task_names}".encode())
        for name in sorted(self.splits):
            digest.update(name.encode() + self.splits[name].numpy().tobytes())
        return digest.hexdigest()[:16]
