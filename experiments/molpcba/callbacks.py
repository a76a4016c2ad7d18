"""What happens around an epoch: records, checkpoints, and stopping."""

from __future__ import annotations

import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from experiments.molpcba.distributed import sum_over_processes, world_size
from experiments.molpcba.errors import Interrupted
from experiments.molpcba.evaluation import TITLES
from experiments.molpcba.runs import RunFolder
from experiments.molpcba.training import MoleculeTraining

Row = dict[str, float]


class Recorder(L.Callback):
    """At the end of each epoch: a row of metrics, the checkpoints, a line on the terminal.

    The rows live in the checkpoint, and ``metrics.csv`` is written from them, so the two agree
    whenever a run is killed. Checkpoints replace one another atomically, the best one first.

    Args:
        folder: where to write.
        score: column that says which epoch is best, for example ``"valid_ap"``.
        patience: stop after this many epochs without a better score; None: never.
        say: prints a line.
    """

    def __init__(
        self, folder: RunFolder, score: str, patience: int | None, say: Callable[[str], None]
    ) -> None:
        self.folder, self.score, self.patience, self.say = folder, score, patience, say
        self.history: list[Row] = []
        self.start = self.trained = 0.0
        self.warned: set[str] = set()

    def state_dict(self) -> dict[str, Any]:
        """The rows so far."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over the rows of a checkpoint."""
        self.history = list(state_dict["history"])

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
        self.history = [*self.history, row]
        is_best = best_row(self.history, self.score) is row
        self._save(trainer, is_best)
        if trainer.is_global_zero:
            self.folder.write_metrics(self.history)
            if trainer.logger is not None:
                trainer.logger.log_metrics(row, step=trainer.current_epoch)
            self.say(epoch_line(row, self.score, is_best))
            self._warn_of_divergence(row)
        if exhausted(self.history, self.score, self.patience):
            trainer.should_stop = True

    def _save(self, trainer: L.Trainer, is_best: bool) -> None:
        folder = self.folder
        new = folder.checkpoints / "new.ckpt"
        trainer.save_checkpoint(new)  # all processes take part
        if not trainer.is_global_zero:
            return
        if is_best:
            copy = folder.checkpoints / "new-best.ckpt"
            shutil.copyfile(new, copy)
            copy.replace(folder.best)
        if folder.last.exists():
            folder.last.replace(folder.previous)
        new.replace(folder.last)

    def _warn_of_divergence(self, row: Row) -> None:
        for key, share in row.items():
            layer = key.removesuffix("_diverged")
            if layer != key and share > 0 and layer not in self.warned:
                self.warned.add(layer)
                self.say(
                    f"  note: the inner loop of {layer} diverged for {100 * share:.2g} % of its "
                    f"sets (step size {row[f'{layer}_step_size']:.3g}); the column {key} of "
                    "metrics.csv follows it. If it lasts, lower --inner-lr or set --inner-clip."
                )


def best_row(history: list[Row], score: str) -> Row:
    """The row with the highest score, the first of equals."""
    return max(history, key=lambda row: row[score])


def exhausted(history: list[Row], score: str, patience: int | None) -> bool:
    """Whether the last ``patience`` epochs brought no better score."""
    if patience is None or not history:
        return False
    best = best_row(history, score)
    return history[-1]["epoch"] - best["epoch"] >= patience


def epoch_line(row: Row, score: str, is_best: bool) -> str:
    """One epoch for the terminal."""
    return (
        f"epoch {int(row['epoch']):4d}   train loss {row['train_loss']:.4f}   "
        f"valid loss {row['valid_loss']:.4f}   valid {TITLES[score.removeprefix('valid_')]} "
        f"{row[score]:.4f}"
        f"{' *' if is_best else '  '}  {row['seconds']:6.1f} s"
    )


class StopSignals(L.Callback):
    """Turns the first Ctrl-C or SIGTERM into :class:`Interrupted` after the current batch.

    The second one acts as always. All processes stop at the same step.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.original: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Takes over the signals; Lightning's own handlers would end the process."""
        if threading.current_thread() is not threading.main_thread():
            return

        def handle(number: int, frame: FrameType | None) -> None:
            self.received = number
            launcher = trainer.strategy.launcher
            if number == signal.SIGTERM and isinstance(launcher, _SubprocessScriptLauncher):
                launcher.kill(signal.SIGTERM)
            self._restore()

        for number in (signal.SIGINT, signal.SIGTERM):
            self.original[number] = signal.signal(number, handle)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
    ) -> None:
        """Stops here if asked to."""
        wanted = torch.tensor(float(self.received is not None), device=pl_module.device)
        if sum_over_processes(wanted) > 0:
            raise Interrupted(signal.Signals(self.received or signal.SIGTERM).name)

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
    ) -> None:
        """Stops here if asked to; several processes wait for the next training step."""
        if self.received is not None and world_size() == 1:
            raise Interrupted(signal.Signals(self.received).name)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gives the signals back."""
        self._restore()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Gives the signals back."""
        self._restore()

    def _restore(self) -> None:
        for number, handler in self.original.items():
            signal.signal(number, handler)
        self.original = {}


class ProgressBar(TQDMProgressBar):
    """Lightning's progress bar, which makes room for the lines of :class:`Recorder`."""

    def get_metrics(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Nothing: the numbers are in the epoch's line."""
        return {}


def progress_callbacks() -> list[L.Callback]:
    """A progress bar when somebody watches."""
    return [ProgressBar(leave=False)] if sys.stderr.isatty() else []
