"""Edges: the formats in which PyG passes the edges of a graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.utils import degree, to_edge_index


@dataclass(frozen=True)
class Edges:
    """The edges of a graph, or of a bipartite graph."""

    edge_index: Tensor
    """Source and receiver of each edge, int64 ``[2, E]``."""
    values: Tensor | None
    """Values of a sparse matrix, ``[E]`` or ``[E, D]``."""
    size: tuple[int | None, int | None]
    """Number of sources and number of receivers; None where ``edge_index`` does not say it."""
    is_bipartite: bool = False
    """Whether sources and receivers are two sets of nodes."""

    @classmethod
    def read(cls, edge_index: Any) -> Edges:
        """The edges that a user passed, in any of the formats of PyG.

        Raises:
            TypeError: for another format.
            ValueError: for a tensor of another shape than ``[2, E]``.
        """
        if not isinstance(edge_index, Tensor) and not hasattr(edge_index, "coo"):
            raise TypeError(
                "edge_index must be a tensor [2, E], an EdgeIndex or a sparse adj_t, got "
                f"{type(edge_index).__name__}; use torch.as_tensor(edge_index)"
            )
        if isinstance(edge_index, EdgeIndex):
            return cls(edge_index.as_tensor().long(), None, edge_index.sparse_size())
        if not isinstance(edge_index, Tensor):  # torch_sparse.SparseTensor, an optional package
            row, col, values = edge_index.coo()
            return cls(torch.stack([col, row]), values, (edge_index.size(1), edge_index.size(0)))
        if edge_index.layout != torch.strided:
            pair, values = to_edge_index(edge_index)
            return cls(pair.flip(0), values, (edge_index.shape[1], edge_index.shape[0]))
        if edge_index.is_floating_point() or edge_index.is_complex():
            raise TypeError(
                f"edge_index must hold integers, got {edge_index.dtype}; call edge_index.long()"
            )
        if edge_index.dtype == torch.bool:
            raise TypeError("edge_index must hold node numbers, got torch.bool")
        if edge_index.dim() != 2 or edge_index.shape[0] != 2:
            shape = list(edge_index.shape)
            hint = "; call edge_index.t()" if len(shape) == 2 and shape[1] == 2 else ""
            raise ValueError(f"edge_index must have shape [2, E], got {shape}{hint}")
        return cls(edge_index.long(), None, (None, None))

    def check_range(self) -> None:
        """Refuses edges between nodes that do not exist. Reads the values.

        Raises:
            ValueError: for a negative or too large node number.
        """
        if not self.edge_index.shape[1]:
            return
        sources, receivers = self.size
        groups = [
            ("source", self.edge_index[0], sources),
            ("receiver", self.edge_index[1], receivers),
        ]
        if sources == receivers:
            groups = [("source or receiver", self.edge_index, sources)]
        for name, ends, number in groups:
            low, high = (int(bound) for bound in ends.aminmax())
            if low < 0 or (number is not None and high >= number):
                raise ValueError(
                    f"edge_index holds {name} numbers from {low} to {high}, but there are "
                    f"{number} such nodes, numbered from 0"
                )

    def degrees(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """1 + number of edges of each source and of each receiver.

        Within one set of nodes both are counted at the receivers. In a bipartite graph the sources'
        edges are counted at the sources.
        """
        sources, receivers = self.size
        of_receivers = degree(self.edge_index[1], receivers, dtype) + 1
        if not self.is_bipartite:
            return of_receivers, of_receivers
        return degree(self.edge_index[0], sources, dtype) + 1, of_receivers
