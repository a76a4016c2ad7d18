"""The epochs of a run: metrics, a line on the terminal, checkpoints."""

from __future__ import annotations

import shutil
import time
from typing import Any

import lightning as L
import pandas as pd

from experiments import common
from experiments.metrics import LOWER_IS_BETTER, TITLES
from experiments.molpcba.folder import RunFolder
from experiments.molpcba.parallel import say
from experiments.molpcba.training import MoleculeTraining

Row = dict[str, float]


class History(L.Callback):
    """The epochs of a run: a row of metrics each, a line on the terminal, the checkpoints.

    The rows live in ``last.ckpt``; ``metrics.csv`` is written from them, and ``best.ckpt`` is a
    copy of it: whatever a kill leaves undone, :meth:`publish` does when the run goes on.
    (Lightning's ``CSVLogger`` deletes its file then.)
    """

    def __init__(self, folder: RunFolder, metric: str) -> None:
        self.folder, self.metric = folder, metric
        self.rows: list[Row] = []
        self.start = self.trained = self.processor = 0.0

    def state_dict(self) -> dict[str, Any]:
        """The rows so far."""
        return {"history": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the rows from a checkpoint."""
        self.rows = list(state_dict["history"])

    def best(self) -> Row:
        """The row with the best valid score, the first of equals."""
        pick = min if self.metric in LOWER_IS_BETTER else max
        return pick(self.rows, key=lambda row: row[f"valid_{self.metric}"])

    def publish(self, trainer: L.Trainer) -> None:
        """Brings ``metrics.csv`` and ``best.ckpt`` up to ``last.ckpt``."""
        if trainer.is_global_zero:
            common.write_text(self.folder.metrics, pd.DataFrame(self.rows).to_csv(index=False))
            if self.rows[-1] is self.best():
                with common.atomic(self.folder.best) as temporary:
                    shutil.copyfile(self.folder.last, temporary)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Completes what a resumed run was killed in."""
        if self.rows:
            self.publish(trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock."""
        self.start, self.processor = time.perf_counter(), -time.process_time()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Takes the time of training alone."""
        self.trained = time.perf_counter()
        self.processor += time.process_time()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Records the epoch."""
        assert isinstance(pl_module, MoleculeTraining)
        row: Row = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        row |= pl_module.epoch_row()
        row["seconds"] = round(time.perf_counter() - self.start, 3)
        row["train_seconds"] = round(self.trained - self.start, 3)
        row["processor_seconds"] = round(self.processor, 3)
        self.rows = [*self.rows, row]
        trainer.save_checkpoint(self.folder.last)
        self.publish(trainer)
        if trainer.logger is not None:
            trainer.logger.log_metrics(row, step=trainer.current_epoch)
        self._say(row)

    def _say(self, row: Row) -> None:
        """One epoch on the terminal, and the first time that a layer's inner loop diverges."""
        mark = " *" if row is self.best() else "  "
        say(
            f"epoch {row['epoch']:4.0f}   train loss {row['train_loss']:.4f}   valid loss "
            f"{row['valid_loss']:.4f}   valid {TITLES[self.metric]} "
            f"{row[f'valid_{self.metric}']:.4f}{mark}  {row['seconds']:6.1f} s"
        )
        for key, share in row.items():
            before = any(row.get(key) for row in self.rows[:-1])
            if key.endswith("_diverged") and share > 0 and not before:
                say(
                    f"  note: the inner loop of {key.removesuffix('_diverged')} diverged for "
                    f"{100 * share:.2g} % of its sets (column {key} of metrics.csv). If it "
                    "persists, lower --inner-lr or set --inner-clip."
                )
