"""The loaders that Lightning asks for."""

from __future__ import annotations

import lightning as L

from experiments.molpcba.config import Config, known
from experiments.molpcba.data import GraphLoader, MoleculeData
from experiments.molpcba.training import scored_parts


class Molecules(L.LightningDataModule):
    """Packed batches of each part, shared out over the processes, resident on the device.

    Args:
        data: all molecules.
        config: resolved.
    """

    def __init__(self, data: MoleculeData, config: Config) -> None:
        super().__init__()
        self.data, self.config = data, config
        self.graphs = data.graphs

    def setup(self, stage: str) -> None:
        """Moves the packed graphs to the device, once."""
        assert self.trainer is not None
        device = self.trainer.strategy.root_device
        if self.graphs.device != device:
            self.graphs = self.data.graphs.to(device)

    def _loader(self, part: str, shuffle: bool) -> GraphLoader:
        assert self.trainer is not None
        return GraphLoader(
            self.graphs,
            self.data.splits[part],
            known(self.config.batch_size),
            shuffle=shuffle,
            seed=self.config.seed,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )

    def train_dataloader(self) -> GraphLoader:
        """Batches in an order that seed and epoch fix."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> list[GraphLoader]:
        """Every molecule of each part that is scored after an epoch once."""
        return [self._loader(part, shuffle=False) for part in scored_parts(self.config)]

    def test_dataloader(self) -> GraphLoader:
        """Every molecule of the test part once."""
        return self._loader("test", shuffle=False)
