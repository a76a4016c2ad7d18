"""Packed graphs and their loader: batches by index arithmetic, shared out over processes.

PyG's `InMemoryDataset` and `DataLoader` build one object a graph and collate them: 13 ms a batch of
256 against 1.2 ms here, 12 % of a training step of the preset `small` (docs/benchmarks.md).
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch

MISSING = -1
"""A label that is not known, in `PackedGraphs.y` of a classification."""

_EMPTY = Batch()

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]
"""One graph: `x [n, 9]`, `edge_index [2, e]`, `edge_attr [e, 3]`."""


@dataclass(frozen=True)
class PackedGraphs:
    """Graphs stored end to end, in the smallest integer types that hold them.

    Args:
        x: atom features, `[N, 9]`, uint8.
        edge_index: atoms of each directed bond, numbered from 0 within its graph, `[2, E]`.
        edge_attr: bond features, `[E, 3]`, uint8.
        y: labels, `[G, tasks]`: int8 with 0, 1 or `MISSING`, or float32 with NaN.
        node_ptr: graph g owns atoms `node_ptr[g]` to `node_ptr[g + 1]`, `[G + 1]`, int64.
        edge_ptr: the same for bonds.

    The two pointers stay on the CPU: the sizes of a batch are then known without waiting for a GPU.
    """

    x: Tensor
    edge_index: Tensor
    edge_attr: Tensor
    y: Tensor
    node_ptr: Tensor
    edge_ptr: Tensor

    @classmethod
    def pack(cls, graphs: Sequence[Arrays], y: Tensor) -> PackedGraphs:
        """Packs single graphs with labels `y`; at least one."""
        x, edge_index, edge_attr = zip(*graphs, strict=True)
        return cls(
            x=torch.from_numpy(np.concatenate(x).astype(np.uint8)),
            edge_index=compact(torch.from_numpy(np.concatenate(edge_index, axis=1))),
            edge_attr=torch.from_numpy(np.concatenate(edge_attr).astype(np.uint8)),
            y=y,
            node_ptr=pointer([len(part) for part in x]),
            edge_ptr=pointer([len(part) for part in edge_attr]),
        )

    def __len__(self) -> int:
        return self.node_ptr.numel() - 1

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def content_hash(self) -> str:
        """SHA-256 over names, types, shapes and bytes of all tensors."""
        digest = hashlib.sha256()
        for name, tensor in self.tensors().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()

    def to(self, device: torch.device) -> PackedGraphs:
        """Copies the features to `device`; the pointers stay on the CPU."""
        if self.x.device == device:
            return self
        names = ("x", "edge_index", "edge_attr", "y")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def labels(self, index: Tensor) -> Tensor:
        """Labels of the graphs `index [B]` as float32 `[B, tasks]`, NaN where unknown."""
        y = self.y.index_select(0, index)
        if y.is_floating_point():
            return y
        y = y.to(torch.float32)
        # y (y + 1) / (y + 1) is y, and NaN for MISSING = -1: a third of the time of a mask.
        known = y - MISSING
        return y.mul_(known.div_(known))

    def batch(self, index: Tensor) -> Batch:
        """The graphs `index [B]` (int64, on the CPU) as one PyG `Batch`.

        Equal to `Batch.from_data_list` of the single graphs, `to_data_list` included.
        """
        device = self.x.device
        nodes, segment, node_ptr = _rows(self.node_ptr, index, device)
        edges, edge_segment, edge_ptr = _rows(self.edge_ptr, index, device)
        edge_index = self.edge_index.index_select(1, edges).long()
        ptr = node_ptr.to(device)
        edge_index += ptr.index_select(0, edge_segment)
        batch = copy.copy(_EMPTY)  # a third of the time of `Batch()`
        batch.x = self.x.index_select(0, nodes).long()
        batch.edge_index = edge_index
        batch.edge_attr = self.edge_attr.index_select(0, edges).long()
        batch.y = self.labels(index.to(device))
        batch.batch, batch.ptr = segment, ptr
        # What `to_data_list` needs to take the batch apart again.
        none, rows = torch.zeros(len(index), dtype=torch.long), torch.arange(len(index) + 1)
        batch._num_graphs = len(index)
        slices = {"x": node_ptr, "edge_index": edge_ptr, "edge_attr": edge_ptr, "y": rows}
        batch._slice_dict = slices
        batch._inc_dict = {**dict.fromkeys(slices, none), "edge_index": node_ptr[:-1]}
        return batch


def _rows(ptr: Tensor, index: Tensor, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Rows `[n]` of the segments `index`, the number of each row's segment, and their pointer."""
    start = ptr.index_select(0, index)
    count = ptr.index_select(0, index + 1) - start
    own = pointer(count)
    total, shift = int(own[-1]), (start - own[:-1]).to(device)
    numbers = torch.arange(len(index), device=device)
    segment = numbers.repeat_interleave(count.to(device), output_size=total)
    rows = torch.arange(total, device=device)
    rows += shift.index_select(0, segment)
    return rows, segment, own


def pointer(counts: Sequence[int] | Tensor) -> Tensor:
    """Cumulative sum with a leading zero: `[B]` sizes -> `[B + 1]` int64."""
    counts = torch.as_tensor(counts, dtype=torch.long)
    out = counts.new_zeros(counts.numel() + 1)
    torch.cumsum(counts, 0, out=out[1:])
    return out


def compact(index: Tensor) -> Tensor:
    """`index` as int16 when its values fit, else int32."""
    largest = int(index.max()) if index.numel() else 0
    return index.to(torch.int16 if largest <= torch.iinfo(torch.int16).max else torch.int32)


def concatenate(parts: Sequence[PackedGraphs]) -> PackedGraphs:
    """Packed graphs put one after another."""
    columns = {name: [getattr(p, name) for p in parts] for name in parts[0].tensors()}
    joined = {name: torch.cat(columns[name]) for name in ("x", "edge_attr", "y")}
    counts = {
        name: torch.cat([p.diff() for p in columns[name]]) for name in ("node_ptr", "edge_ptr")
    }
    # The types of the parts may differ: torch.cat takes the larger.
    index = torch.cat(columns["edge_index"], dim=1)
    return PackedGraphs(
        edge_index=index, **joined, **{name: pointer(count) for name, count in counts.items()}
    )


class GraphLoader:
    """Iterates over some graphs in batches; each batch is a PyG `Batch`.

    The order depends on `seed` and the epoch alone. In training (`shuffle=True`) the batches of
    all `world_size` processes, side by side, are the batch that one process with `world_size *
    batch_size` would make; a last step with fewer graphs than processes is left out. In evaluation
    process r gets the r-th contiguous share, so that every graph comes exactly once.

    Args:
        graphs: the packed graphs.
        indices: numbers of the graphs to go through, `[n]`, int64.
        batch_size: graphs in a batch on this process.
        shuffle: a new order each epoch.
        seed: with the epoch, fixes the order.
        rank: this process's number among `world_size`.
        world_size: number of processes that share the work.
    """

    def __init__(
        self,
        graphs: PackedGraphs,
        indices: Tensor,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.graphs, self.indices, self.batch_size = graphs, indices, batch_size
        self.shuffle, self.seed, self.rank, self.world_size = shuffle, seed, rank, world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose order the next iteration follows."""
        self.epoch = epoch

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
        total = rows.numel()
        start, end = (total * r // self.world_size for r in (self.rank, self.rank + 1))
        return rows[start:end]

    def __len__(self) -> int:
        if not self.shuffle:
            return -(-self._share(self.indices).numel() // self.batch_size)
        full, rest = divmod(self.indices.numel(), self.batch_size * self.world_size)
        return full + (rest >= self.world_size)

    def __iter__(self) -> Iterator[Batch]:
        for index in self.batches():
            yield self.graphs.batch(index)


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
        metric: "ap" or "rocauc" for classification, "rmse" for regression.
        graphs_sha256: hash of the packed graphs and labels.
    """

    name: str
    source: str
    graphs: PackedGraphs
    splits: dict[str, Tensor]
    split: str
    task_names: list[str]
    metric: str
    graphs_sha256: str

    @property
    def num_tasks(self) -> int:
        """Number of label columns."""
        return len(self.task_names)

    @property
    def fingerprint(self) -> str:
        """Hash of graphs, labels, task names, metric and split: equal only for the same task."""
        digest = hashlib.sha256(f"{self.graphs_sha256} {self.metric} {self.task_names}".encode())
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
            "tasks": self.num_tasks,
        }
