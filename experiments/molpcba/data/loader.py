"""GraphLoader: batches of packed graphs, the same on every machine, shared out over ranks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch

from .packed import PackedGraphs


class GraphLoader:
    """Iterate over some graphs in batches; each batch is an ordinary PyG `Batch`.

    The order is a pure function of `seed` and the epoch. With `world_size` ranks the batches of
    one step, side by side, are the batch that one process with `world_size * batch_size` would
    make.

    - Training (`shuffle=True`): every rank gets the same number of batches. A last, smaller step
      is shared out evenly; when it has fewer graphs than there are ranks it is left out (at most
      `world_size - 1` graphs, other ones each epoch).
    - Evaluation (`shuffle=False`): rank r gets the r-th contiguous share of `indices`, so every
      graph comes exactly once, nothing is padded, and the ranks' outputs put one after another
      are in the order of `indices`.

    Args:
        graphs: the packed graphs.
        indices: numbers of the graphs to go through, `[n]`, int64.
        batch_size: graphs in a batch on this rank.
        shuffle: a new order each epoch.
        seed: with the epoch, fixes the order.
        drop_last: leave out batches smaller than `batch_size`.
        rank: this process's number among `world_size`.
        world_size: number of processes that share the work.
        device: copy all graphs there once and make the batches there; None leaves them.

    Raises:
        ValueError: on an empty or out-of-range argument.
    """

    def __init__(
        self,
        graphs: PackedGraphs,
        indices: Tensor,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it has to be at least 1")
        if not 0 <= rank < world_size:
            raise ValueError(
                f"rank is {rank}; it has to be from 0 to world_size - 1 = {world_size - 1}"
            )
        if seed < 0:
            raise ValueError(f"seed is {seed}; it has to be 0 or more")
        indices = torch.as_tensor(indices, dtype=torch.long).cpu()
        if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < len(graphs):
            raise ValueError(f"indices have to lie between 0 and {len(graphs) - 1}")
        self.graphs = graphs if device is None else graphs.to(device)
        self.indices = indices
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration follows."""
        self.epoch = epoch

    def order(self) -> Tensor:
        """The graphs of all ranks in this epoch's order, `[n]`."""
        if not self.shuffle:
            return self.indices
        generator = np.random.default_rng([self.seed, self.epoch])
        return self.indices[torch.from_numpy(generator.permutation(self.indices.numel()))]

    def batches(self) -> list[Tensor]:
        """The graph numbers of each of this rank's batches in this epoch."""
        order = self.order()
        if self.shuffle:
            step = self.batch_size * self.world_size
            smallest = step if self.drop_last else self.world_size
            steps = [part for part in order.split(step) if part.numel() >= smallest]
            return [_share(part, self.rank, self.world_size) for part in steps]
        smallest = self.batch_size if self.drop_last else 1
        own = _share(order, self.rank, self.world_size)
        return [part for part in own.split(self.batch_size) if part.numel() >= smallest]

    def __len__(self) -> int:
        total = self.indices.numel()
        if self.shuffle:
            full, rest = divmod(total, self.batch_size * self.world_size)
            return full + (not self.drop_last and rest >= self.world_size)
        bounds = [total * r // self.world_size for r in (self.rank, self.rank + 1)]
        own = bounds[1] - bounds[0]
        return own // self.batch_size if self.drop_last else -(-own // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for index in self.batches():
            yield self.graphs.batch(index)


def _share(rows: Tensor, rank: int, world_size: int) -> Tensor:
    """The contiguous share of `rows` that falls to `rank`; sizes differ by one at most."""
    total = rows.numel()
    return rows[total * rank // world_size : total * (rank + 1) // world_size]
