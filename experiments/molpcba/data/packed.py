"""All graphs of a data set in a few flat tensors; a batch is index arithmetic."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch

MISSING = -1
"""The value in `PackedGraphs.y` of a label that is not known."""

_EMPTY = Batch()


@dataclass(frozen=True)
class PackedGraphs:
    """Graphs stored end to end, in the smallest integer types that hold them.

    Atom and bond features are small category numbers and labels are 0, 1 or unknown, so one byte
    each holds them: ogbg-molpcba takes 0.4 GB instead of 2. `batch` widens to the types that PyG
    and OGB's encoders expect.

    Args:
        x: atom features, `[N, 9]`, uint8.
        edge_index: atoms of each directed bond, numbered from 0 within its graph, `[2, E]`.
        edge_attr: bond features, `[E, 3]`, uint8.
        y: labels, `[G, tasks]`, int8: 0, 1 or `MISSING`.
        node_ptr: graph g owns atoms `node_ptr[g]` to `node_ptr[g + 1]`, `[G + 1]`, int64, on CPU.
        edge_ptr: the same for bonds, `[G + 1]`, int64, on CPU.

    The two pointers stay on the CPU on purpose: the sizes of a batch are then known without
    waiting for a GPU.
    """

    x: Tensor
    edge_index: Tensor
    edge_attr: Tensor
    y: Tensor
    node_ptr: Tensor
    edge_ptr: Tensor

    def __len__(self) -> int:
        return self.node_ptr.numel() - 1

    @property
    def num_tasks(self) -> int:
        """Number of label columns."""
        return self.y.size(1)

    @property
    def device(self) -> torch.device:
        """Where the features lie, and where batches are made."""
        return self.x.device

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors together."""
        return sum(getattr(self, field.name).nbytes for field in fields(self))

    def to(self, device: torch.device | str) -> PackedGraphs:
        """Copy the features to `device` (the pointers stay on the CPU)."""
        names = ("x", "edge_index", "edge_attr", "y")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def labels(self, index: Tensor) -> Tensor:
        """Labels of the graphs `index [B]` as float32 `[B, tasks]`, NaN where unknown."""
        y = self.y.index_select(0, index).to(torch.float32)
        # y (y + 1) / (y + 1) is y, and NaN for MISSING = -1: a third of the time of a mask.
        known = y - MISSING
        return y.mul_(known.div_(known))

    def batch(self, index: Tensor) -> Batch:
        """The graphs `index [B]` (int64, on CPU) as one PyG `Batch`.

        Equal to `Batch.from_data_list` of the single graphs, `get_example` and `to_data_list`
        included. Costs a handful of gathers, whatever the number of graphs.
        """
        nodes = _Rows.of(self.node_ptr, index, self.device)
        edges = _Rows.of(self.edge_ptr, index, self.device)
        edge_index = self.edge_index.index_select(1, edges.rows).long()
        edge_index += nodes.ptr.index_select(0, edges.segment)
        batch = copy.copy(_EMPTY)  # a third of the time of `Batch()`
        batch.x = self.x.index_select(0, nodes.rows).long()
        batch.edge_index = edge_index
        batch.edge_attr = self.edge_attr.index_select(0, edges.rows).long()
        batch.y = self.labels(index.to(self.device))
        batch.batch = nodes.segment
        batch.ptr = nodes.ptr
        return _with_slices(batch, nodes.host_ptr, edges.host_ptr)

    def save(self, path: Path) -> None:
        """Write all tensors to one file that `load` can map into memory."""
        torch.save({field.name: getattr(self, field.name) for field in fields(self)}, path)

    @classmethod
    def load(cls, path: Path) -> PackedGraphs:
        """Map the file of `save` into memory: pages are read when a batch first needs them.

        Raises whatever `torch.load` raises on a damaged file; the store that owns the file checks
        its hash first.
        """
        return cls(**torch.load(path, mmap=True, weights_only=True))

    @classmethod
    def from_arrays(
        cls, graphs: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], y: Tensor
    ) -> PackedGraphs:
        """Pack single graphs `(x [n, 9], edge_index [2, e], edge_attr [e, 3])` with labels `y`."""
        x = np.concatenate([g[0] for g in graphs])
        edge_index = np.concatenate([g[1] for g in graphs], axis=1)
        edge_attr = np.concatenate([g[2] for g in graphs])
        return cls(
            x=torch.from_numpy(x.astype(np.uint8)),
            edge_index=compact_index(torch.from_numpy(edge_index)),
            edge_attr=torch.from_numpy(edge_attr.astype(np.uint8)),
            y=y,
            node_ptr=pointer([len(g[0]) for g in graphs]),
            edge_ptr=pointer([len(g[2]) for g in graphs]),
        )


@dataclass(frozen=True)
class _Rows:
    """Where the rows of some segments lie: `rows` and `segment` `[n]`, `ptr` `[B + 1]`."""

    rows: Tensor
    segment: Tensor
    ptr: Tensor
    host_ptr: Tensor

    @classmethod
    def of(cls, ptr: Tensor, index: Tensor, device: torch.device) -> _Rows:
        start = ptr.index_select(0, index)
        count = ptr.index_select(0, index + 1) - start
        host_ptr = pointer(count)
        total = int(host_ptr[-1])
        shift = start - host_ptr[:-1]
        own_ptr = host_ptr
        if device.type != "cpu":
            count, shift, own_ptr = (t.to(device) for t in (count, shift, host_ptr))
        numbers = torch.arange(index.numel(), device=device)
        segment = numbers.repeat_interleave(count, output_size=total)
        rows = torch.arange(total, device=device)
        rows += shift.index_select(0, segment)
        return cls(rows, segment, own_ptr, host_ptr)


def pointer(counts: Sequence[int] | Tensor) -> Tensor:
    """Cumulative sum with a leading zero: `[B]` sizes -> `[B + 1]` int64."""
    counts = torch.as_tensor(counts, dtype=torch.long)
    out = counts.new_zeros(counts.numel() + 1)
    torch.cumsum(counts, 0, out=out[1:])
    return out


def compact_index(index: Tensor) -> Tensor:
    """`index` as int16 when its values fit, else int32."""
    largest = int(index.max()) if index.numel() else 0
    return index.to(torch.int16 if largest <= torch.iinfo(torch.int16).max else torch.int32)


def _with_slices(batch: Batch, node_ptr: Tensor, edge_ptr: Tensor) -> Batch:
    """Give `batch` what `Batch.from_data_list` would: how to take it apart again."""
    num_graphs = node_ptr.numel() - 1
    none = torch.zeros(num_graphs, dtype=torch.long)
    by_graph = torch.arange(num_graphs + 1)
    batch._num_graphs = num_graphs
    batch._slice_dict = {
        "x": node_ptr,
        "edge_index": edge_ptr,
        "edge_attr": edge_ptr,
        "y": by_graph,
    }
    batch._inc_dict = {"x": none, "edge_index": node_ptr[:-1], "edge_attr": none, "y": none}
    return batch
