"""Lightning's trainer as this project uses it: history, checkpoints, signals, failures in words."""

from __future__ import annotations

import logging
import os
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
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
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
    """At the end of each epoch: a row of metrics, a line on the terminal, the patience rule.

    The rows live in the checkpoint, and ``metrics.csv`` is written from them. Lightning's
    ``CSVLogger`` deletes its file when a run is resumed.

    Args:
        folder: where to write.
        metric: name of the score.
        patience: stop after this many epochs without a better score; None: never.
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

    def is_exhausted(self) -> bool:
        """Whether the last ``patience`` epochs brought no better score."""
        if self.patience is None or not self.rows:
            return False
        return self.rows[-1]["epoch"] - self.best()["epoch"] >= self.patience

    def is_complete(self, epochs: int | None) -> bool:
        """Whether training is over."""
        enough = bool(self.rows) and self.rows[-1]["epoch"] + 1 >= (epochs or 0)
        return enough or self.is_exhausted()

    def write(self) -> None:
        """Replaces ``metrics.csv`` by all rows."""
        common.write_text(self.folder.metrics, pd.DataFrame(self.rows).to_csv(index=False))

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock."""
        self.start = time.perf_counter()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Takes the time of training alone."""
        self.trained = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Records the epoch; Lightning's checkpoints come after this."""
        assert isinstance(pl_module, MoleculeTraining)
        row: Row = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        row |= pl_module.epoch_row()
        row["seconds"] = round(time.perf_counter() - self.start, 3)
        if pl_module.config.test_curve:
            row["train_seconds"] = round(self.trained - self.start, 3)
        self.rows = [*self.rows, row]
        trainer.should_stop = trainer.should_stop or self.is_exhausted()
        if trainer.is_global_zero:
            self.write()
            if trainer.logger is not None:
                trainer.logger.log_metrics(row, step=trainer.current_epoch)
            say(self._line(row))
            self._warn_of_divergence(row)

    def _line(self, row: Row) -> str:
        """One epoch for the terminal."""
        mark = " *" if row is self.best() else "  "
        return (
            f"epoch {row['epoch']:4.0f}   train loss {row['train_loss']:.4f}   valid loss "
            f"{row['valid_loss']:.4f}   valid {TITLES[self.metric]} "
            f"{row[f'valid_{self.metric}']:.4f}{mark}  {row['seconds']:6.1f} s"
        )

    def _warn_of_divergence(self, row: Row) -> None:
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
    """Writes a checkpoint whole or not at all, in the folder it belongs to."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Replaces the file when all of it is on disk."""
        common.save(Path(path), checkpoint)


class Checkpoint(ModelCheckpoint):
    """Lightning's, for one file in a run folder that may be moved between two runs.

    Args:
        path: the file.
        monitor: the score whose best epoch is kept; None: the last epoch.
        mode: ``"max"`` or ``"min"``.
    """

    def __init__(self, path: Path, monitor: str | None = None, mode: str = "max") -> None:
        super().__init__(
            path.parent,
            path.stem,
            monitor=monitor,
            mode=mode,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the best score, whatever the folder was called."""
        path = str(Path(str(self.dirpath)) / f"{self.filename}.ckpt")
        scores = state_dict["best_k_models"].values()
        own = {
            "dirpath": self.dirpath,
            "best_model_path": path,
            "kth_best_model_path": path if scores else "",
            "best_k_models": dict.fromkeys([path], *scores) if scores else {},
        }
        super().load_state_dict({**state_dict, **own})


def build_trainer(config: Config, history: History | None, folder: RunFolder) -> L.Trainer:
    """Lightning's trainer for a resolved configuration; without a history, one that only tests."""
    callbacks: list[L.Callback] = []
    if history is not None:
        mode = "max" if is_higher_better(history.metric) else "min"
        best = Checkpoint(folder.best, f"valid_{history.metric}", mode)
        callbacks += [history, best, Checkpoint(folder.last)]
        if config.ema is not None:
            callbacks.insert(0, EMAWeightAveraging(decay=config.ema))
    watched = sys.stderr.isatty()
    logger = TensorBoardLogger(str(folder.path), name="", version="tensorboard")
    several = config.devices * config.nodes > 1
    return L.Trainer(
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.nodes,
        strategy="ddp" if several else "auto",
        precision=PRECISIONS[config.precision],  # type: ignore[arg-type]
        max_epochs=config.epochs,
        gradient_clip_val=config.gradient_clip,
        callbacks=callbacks,
        plugins=[AtomicIO()],
        logger=logger if history is not None else False,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_checkpointing=history is not None,
        enable_model_summary=False,
        enable_progress_bar=watched,
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
def quiet_libraries() -> Iterator[None]:
    """Without the remarks of libraries that do not concern the user of a run."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DivergenceWarning)  # the history reports it
        warnings.filterwarnings("ignore", ".*treespec, LeafSpec.* is deprecated")
        warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
        yield


@contextmanager
def explained(config: Config) -> Iterator[None]:
    """Turns failures that the user can act on into a ``UserError`` that names a way out."""
    try:
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
