"""Packed graphs: a data set is six tensors, and a batch a few selections of their rows.

Both live on the device that trains. PyG's `InMemoryDataset` and `DataLoader` build one object a
graph and collate them, which takes ten times as long (docs/benchmarks.md).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch_geometric.data import Batch
from torch_geometric.utils import cumsum

CHUNK = 8_192
"""Graphs whose rows are selected at once, so that a batch costs a GPU few launches."""

MISSING = -1
"""A label that is not known, in `PackedGraphs.y` of a classification."""


@dataclass(frozen=True)
class PackedGraphs:
    """Graphs stored end to end, in the smallest integer types that hold them."""

    x: Tensor  # atom features, [N, 9], uint8
    edge_index: Tensor  # atoms of each directed bond, numbered from 0 within its graph, [2, E]
    edge_attr: Tensor  # bond features, [E, 3], uint8
    y: Tensor  # labels, [G, tasks]: as `stored_labels` makes them
    node_ptr: Tensor  # graph g owns atoms node_ptr[g] to node_ptr[g + 1], [G + 1], int64
    edge_ptr: Tensor  # the same for bonds

    @classmethod
    def pack(cls, x: Any, bonds: Any, attr: Any, y: Any, nodes: Any, counts: Any) -> PackedGraphs:
        """Packs concatenated arrays of graphs with `nodes [G]` atoms and `counts [G]` bonds.

        Each of the `bonds [e, 2]` becomes two edges, it and its reverse, as OGB has them.
        """
        ends = torch.as_tensor(bonds)
        index = torch.stack([ends, ends.flip(1)], dim=1).reshape(-1, 2).T
        small = index.numel() == 0 or int(index.max()) <= torch.iinfo(torch.int16).max
        return cls(
            torch.as_tensor(x).to(torch.uint8),
            index.to(torch.int16 if small else torch.int32),
            torch.as_tensor(attr).to(torch.uint8).repeat_interleave(2, dim=0),
            torch.as_tensor(y),
            cumsum(torch.as_tensor(nodes).long()),
            cumsum(2 * torch.as_tensor(counts).long()),
        )

    def __len__(self) -> int:
        return self.node_ptr.numel() - 1

    def content_hash(self) -> str:
        """SHA-256 over names, types, shapes and bytes of all tensors."""
        digest = hashlib.sha256()
        for name, tensor in vars(self).items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()

    def to(self, device: torch.device) -> PackedGraphs:
        """A copy on `device`."""
        return replace(self, **{name: tensor.to(device) for name, tensor in vars(self).items()})

    def labels(self, index: Tensor) -> Tensor:
        """Labels of the graphs `index [B]` as float32 `[B, tasks]`, NaN where unknown."""
        y = self.y.index_select(0, index)
        return y if y.is_floating_point() else y.float().masked_fill_(y == MISSING, torch.nan)

    def batch(self, index: Tensor) -> Batch:
        """The graphs `index [B]` as one PyG `Batch`, on the device of the tensors."""
        ptr = torch.stack([self.node_ptr, self.edge_ptr], dim=1)
        size = (ptr[index + 1] - ptr[index]).sum(dim=0).tolist()
        return next(self.in_batches([index], [size]))

    def in_batches(self, parts: list[Tensor], sizes: list[list[int]]) -> Iterator[Batch]:
        """The graphs of each part as a PyG `Batch`, on the device of the tensors.

        Rows are selected for all at once, and cut for each. A GPU is not waited for, since `sizes`
        has the numbers of atoms and bonds of each batch.
        """
        index = torch.cat(parts).to(self.node_ptr.device)
        atoms, graph, ptr = _rows(self.node_ptr, index, sum(nodes for nodes, _ in sizes))
        bonds, owner, _ = _rows(self.edge_ptr, index, sum(edges for _, edges in sizes))
        x, edge_attr = self.x.index_select(0, atoms), self.edge_attr.index_select(0, bonds)
        edge_index = self.edge_index[:, bonds].long()  # index_select(1) takes 100 times as long
        edge_index += ptr.index_select(0, owner)
        y = self.labels(index)
        first = node = edge = 0
        for part, (nodes, edges) in zip(parts, sizes, strict=True):
            yield Batch(
                x=x[node : node + nodes].long(),
                edge_index=edge_index[:, edge : edge + edges] - node,
                edge_attr=edge_attr[edge : edge + edges].long(),
                y=y[first : first + len(part)],
                batch=graph[node : node + nodes] - first,
                ptr=ptr[first : first + len(part) + 1] - node,
            )
            first, node, edge = first + len(part), node + nodes, edge + edges


def _rows(ptr: Tensor, index: Tensor, total: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows `[n]` of the segments `index`, the number of each row's segment, and their pointer."""
    start = ptr.index_select(0, index)
    count = ptr.index_select(0, index + 1) - start
    own = cumsum(count)
    segment = torch.repeat_interleave(count, output_size=total)
    rows = torch.arange(len(segment), device=ptr.device)
    rows += (start - own[:-1]).index_select(0, segment)
    return rows, segment, own


def stored_labels(y: np.ndarray, is_real: bool) -> tuple[np.ndarray, Tensor | None]:
    """Labels `y [G, tasks]` (float64, NaN: unknown) as `PackedGraphs.y` has them, and their units.

    Real values become `(y - offset) / scale` with the median and the largest deviation of a task.
    Computed in float64, they keep their precision relative to the spread of the labels, however
    large the offset. Units are `offset` and `scale`, `[2, tasks]`; None for 0 and 1.
    """
    if not is_real:
        return np.where(np.isnan(y), MISSING, y).astype(np.int8), None
    table = pd.DataFrame(y)
    offset = table.median().fillna(0.0)
    scale = (table - offset).abs().max().fillna(1.0).replace(0.0, 1.0)
    stored = ((table - offset) / scale).to_numpy(dtype=np.float32, copy=True)
    return stored, torch.from_numpy(np.stack([offset, scale]))


@dataclass
class GraphLoader:
    """Iterates over the graphs `indices` (on the CPU) in batches; each is a PyG `Batch`.

    The order depends on `seed` and `epoch` alone. In training (`shuffle=True`) the batches of
    all `world_size` processes, side by side, are the batch that one process with `world_size *
    batch_size` would make; a last step with fewer graphs than processes is left out. In evaluation
    process `rank` gets its contiguous share, so that every graph comes exactly once.
    """

    graphs: PackedGraphs
    indices: Tensor
    batch_size: int
    shuffle: bool = False
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    epoch: int = 0

    def batches(self) -> list[Tensor]:
        """The graph numbers of each of this process's batches in this epoch."""
        if not self.shuffle:
            own = self._share(self.indices)
            return list(own.split(self.batch_size)) if own.numel() else []
        generator = np.random.default_rng([self.seed, self.epoch])
        order = self.indices[torch.from_numpy(generator.permutation(self.indices.numel()))]
        steps = order.split(self.batch_size * self.world_size)
        return [self._share(step) for step in steps if step.numel() >= self.world_size]

    def _share(self, rows: Tensor) -> Tensor:
        """This process's contiguous share; shares differ by one row at most."""
        start, end = (len(rows) * r // self.world_size for r in (self.rank, self.rank + 1))
        return rows[start:end]

    def __len__(self) -> int:
        return len(self.batches())

    def __iter__(self) -> Iterator[Batch]:
        # Once an epoch: the sizes of the graphs to the CPU.
        pointers = torch.stack([self.graphs.node_ptr, self.graphs.edge_ptr], dim=1)
        parts, sizes = self.batches(), pointers.diff(dim=0).cpu()
        number = max(1, CHUNK // self.batch_size)
        for start in range(0, len(parts), number):
            chunk = parts[start : start + number]
            totals = torch.stack([sizes[part].sum(dim=0) for part in chunk]).tolist()
            yield from self.graphs.in_batches(chunk, totals)


@dataclass(frozen=True)
class MoleculeData:
    """A data set ready for training."""

    name: str  # "ogbg-molpcba", "embedded-nci", or a CSV file's given name or stem
    source: str  # a sentence: which data, how many molecules, why this one was taken
    graphs: PackedGraphs  # all molecules
    splits: dict[str, Tensor]  # "train", "valid", "test" -> graph numbers, int64
    split: str  # how they were made: "ogb", "scaffold", "random" or the name of a folder
    task_names: list[str]
    metric: str  # "ap" or "rocauc" for classification, "rmse" for regression
    graphs_sha256: str  # hash of the packed graphs and labels
    units: Tensor | None = None  # of real values: see `stored_labels`

    def labels(self, part: str) -> Tensor:
        """Labels of a part as they are stored, `[B, tasks]`, NaN where unknown."""
        return self.graphs.labels(self.splits[part])

    @property
    def scale(self) -> Tensor | float:
        """The unit of the stored labels of each task."""
        return 1.0 if self.units is None else self.units[1]

    @property
    def fingerprint(self) -> str:
        """Hash of graphs, labels, task names, metric and split: equal only for the same task."""
        digest = hashlib.sha256(f"{self.graphs_sha256} {self.metric} {self.task_names}".encode())
        if self.units is not None:
            digest.update(self.units.numpy().tobytes())
        for name in sorted(self.splits):
            digest.update(name.encode() + self.splits[name].numpy().tobytes())
        return digest.hexdigest()[:16]

    def describe(self) -> dict[str, object]:
        """What records say of the data."""
        return {
            "name": self.name,
            "source": self.source,
            "fingerprint": self.fingerprint,
            "graphs": self.graphs_sha256[:16],
            "split": self.split,
            "molecules": {part: len(index) for part, index in self.splits.items()},
            "tasks": len(self.task_names),
        }
