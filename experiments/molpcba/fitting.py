"""Lightning's trainer as this project uses it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins import TorchCheckpointIO

from experiments import common
from experiments.molpcba.config import Config
from experiments.molpcba.history import History

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "64": "64-true"}


class AtomicIO(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Replaces the file when all of it is on disk."""
        common.save(Path(path), checkpoint)


def build_trainer(config: Config, history: History) -> L.Trainer:
    """Lightning's trainer for a resolved configuration."""
    averages = [EMAWeightAveraging(decay=config.ema)] if config.ema is not None else []
    return L.Trainer(
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.nodes,
        strategy="ddp" if config.devices * config.nodes > 1 else "auto",
        precision=PRECISIONS[config.precision],  # type: ignore[arg-type]
        max_epochs=config.epochs,
        callbacks=[*averages, history],
        plugins=[AtomicIO()],
        logger=TensorBoardLogger(str(history.folder.path), name="", version="tensorboard"),
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=sys.stderr.isatty(),
        inference_mode=False,  # PyG's EA differentiates in evaluation, too
        use_distributed_sampler=False,
        reload_dataloaders_every_n_epochs=1,  # a loader is made for an epoch
    )
