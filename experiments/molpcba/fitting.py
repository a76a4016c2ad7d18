"""Lightning's trainer as this project uses it: history, checkpoints, signals, failures in words."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import pandas as pd
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins import TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import SIGTERMException

from experiments import common
from experiments.common import UserError
from experiments.molpcba.config import Config
from experiments.molpcba.evaluation import TITLES, is_higher_better
from experiments.molpcba.folder import RunFolder
from experiments.molpcba.training import NOT_FINITE, MoleculeTraining
from pyg_ea import DivergenceWarning

Row = dict[str, float]
PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "64": "64-true"}


class History(L.Callback):
    """The epochs of a run: a row of metrics each, a line on the terminal, the checkpoints.

    The rows live in ``last.ckpt``; ``metrics.csv`` is written from them, and ``best.ckpt`` is a
    copy of it: whatever a kill leaves undone, :meth:`publish` does when the run goes on.
    (Lightning's ``CSVLogger`` deletes its file then.)
    """

    def __init__(self, folder: RunFolder, metric: str, patience: int | None) -> None:
        self.folder, self.metric, self.patience = folder, metric, patience
        self.rows: list[Row] = []
        self.start = self.trained = 0.0
        self.warned: set[str] = set()

    def state_dict(self) -> dict[str, Any]:
        """The rows so far."""
        return {"history": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the rows from a checkpoint."""
        self.rows = list(state_dict["history"])

    def best(self) -> Row:
        """The row with the best valid score, the first of equals."""
        pick = max if is_higher_better(self.metric) else min
        return pick(self.rows, key=lambda row: row[f"valid_{self.metric}"])

    def is_complete(self, epochs: int | None) -> bool:
        """Whether training is over: enough epochs, or the last ``patience`` brought no better."""
        if not self.rows:
            return False
        since = self.rows[-1]["epoch"] - self.best()["epoch"]
        exhausted = self.patience is not None and since >= self.patience
        return exhausted or self.rows[-1]["epoch"] + 1 >= (epochs or 0)

    def publish(self) -> None:
        """Brings ``metrics.csv`` and ``best.ckpt`` up to ``last.ckpt``."""
        common.write_text(self.folder.metrics, pd.DataFrame(self.rows).to_csv(index=False))
        if self.rows[-1] is self.best():
            with common.atomic(self.folder.best) as temporary:
                shutil.copyfile(self.folder.last, temporary)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock."""
        self.start = time.perf_counter()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Takes the time of training alone."""
        self.trained = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Records the epoch."""
        assert isinstance(pl_module, MoleculeTraining)
        row: Row = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        row |= pl_module.epoch_row()
        row["seconds"] = round(time.perf_counter() - self.start, 3)
        if pl_module.config.test_curve:
            row["train_seconds"] = round(self.trained - self.start, 3)
        self.rows = [*self.rows, row]
        trainer.should_stop = trainer.should_stop or self.is_complete(pl_module.config.epochs)
        trainer.save_checkpoint(self.folder.last)
        if trainer.is_global_zero:
            self.publish()
            if trainer.logger is not None:
                trainer.logger.log_metrics(row, step=trainer.current_epoch)
            self._say(row)

    def _say(self, row: Row) -> None:
        """One epoch on the terminal, and once for each layer that its inner loop diverges."""
        mark = " *" if row is self.best() else "  "
        say(
            f"epoch {row['epoch']:4.0f}   train loss {row['train_loss']:.4f}   valid loss "
            f"{row['valid_loss']:.4f}   valid {TITLES[self.metric]} "
            f"{row[f'valid_{self.metric}']:.4f}{mark}  {row['seconds']:6.1f} s"
        )
        for key, share in row.items():
            layer = key.removesuffix("_diverged")
            if layer != key and share > 0 and layer not in self.warned:
                self.warned.add(layer)
                say(
                    f"  note: the inner loop of {layer} diverged for {100 * share:.2g} % of its "
                    f"sets (step size {row[f'{layer}_step_size']:.3g}); the column {key} of "
                    "metrics.csv records it. If it persists, lower --inner-lr or set --inner-clip."
                )


class AtomicIO(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Replaces the file when all of it is on disk."""
        common.save(Path(path), checkpoint)


def build_trainer(config: Config, history: History | None, folder: RunFolder) -> L.Trainer:
    """Lightning's trainer for a resolved configuration; without a history, one that only tests."""
    averages = [EMAWeightAveraging(decay=config.ema)] if config.ema is not None else []
    logger = TensorBoardLogger(str(folder.path), name="", version="tensorboard")
    several = config.devices * config.nodes > 1
    return L.Trainer(
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.nodes,
        strategy="ddp" if several else "auto",
        precision=PRECISIONS[config.precision],  # type: ignore[arg-type]
        max_epochs=config.epochs,
        callbacks=[] if history is None else [*averages, history],
        plugins=[AtomicIO()],
        logger=False if history is None else logger,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=sys.stderr.isatty(),
        inference_mode=False,  # PyG's EA differentiates in evaluation, too
        use_distributed_sampler=False,
    )


def fit(trainer: L.Trainer, module: MoleculeTraining, checkpoint: Path | None) -> str | None:
    """Trains to the end; returns the name of the signal that stopped it before, or None."""
    try:
        trainer.fit(module, ckpt_path=checkpoint, weights_only=True)
    except SIGTERMException:
        return "SIGTERM"
    except SystemExit as error:  # Lightning's answer to Ctrl-C
        if isinstance(error.__context__, KeyboardInterrupt):
            return "SIGINT"
        raise
    return None


def is_first_process() -> bool:
    """Whether this is the process that writes and prints; true where there is only one."""
    return os.environ.get("LOCAL_RANK", "0") == "0" and os.environ.get("NODE_RANK", "0") == "0"


def say(text: str) -> None:
    """Prints to the terminal, once however many processes there are."""
    if is_first_process():
        print(text, flush=True)


@contextmanager
def explained(config: Config) -> Iterator[None]:
    """Turns failures that the user can act on into a ``UserError`` that names a way out.

    Remarks of libraries that do not concern the user of a run are left out.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DivergenceWarning)  # the history reports it
            warnings.filterwarnings("ignore", ".*treespec, LeafSpec.* is deprecated")
            yield
    except (MemoryError, RuntimeError, ValueError, OSError) as error:
        text = str(error)
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or (
            "allocate memory" in text.lower()
        ):
            raise UserError(
                f"out of memory with --batch-size {config.batch_size}: lower it, or use --adjoint "
                "checkpointed, fewer --steps or a smaller --width; --resume continues from the "
                "last epoch"
            ) from error
        if "NaN or infinite" in text:
            raise UserError(f"the network's activations are not finite: {NOT_FINITE}") from error
        if "loading state_dict" in text:
            raise UserError(
                "the checkpoint is of another version, whose network differs: use that version, or "
                "start a new run with --name"
            ) from error
        if isinstance(error, OSError):
            raise UserError(
                f"writing failed ({error}): free the disk or the folder, then continue with "
                "--resume"
            ) from error
        raise
