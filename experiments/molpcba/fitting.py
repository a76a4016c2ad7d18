"""Training under Lightning: epochs recorded, checkpoints whole or absent, failures in words."""

from __future__ import annotations

import logging
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
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins import TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import SIGTERMException

from experiments import common
from experiments.common import Interrupted, UserError
from experiments.metrics import LOWER_IS_BETTER, TITLES
from experiments.molpcba.config import Config
from experiments.molpcba.folder import RunFolder
from experiments.molpcba.parallel import say
from experiments.molpcba.training import NOT_FINITE, MoleculeTraining
from pyg_ea.diagnostics import DivergenceWarning

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "64": "64-true"}
WAYS_OUT = {
    "TerminatedWorker": "a worker process died, most often for lack of memory: free some memory, "
    "and run the same command again",
    "MemoryError": "out of memory: lower --batch-size, or train with --adjoint checkpointed, fewer "
    "--steps or a smaller --width",
    "NaN or infinite": f"the network's activations are not finite: {NOT_FINITE}",
    "loading state_dict": "the checkpoint is of another version, whose network differs: use that "
    "version, or start a new run with --name",
    "OSError": "writing failed ({error}): free the disk or choose another folder (--runs-dir, "
    "--out); --resume continues a run",
    "Misconfiguration": "{error}",
}
"""Words in the type or message of a failure, and the message to the user for it."""
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


class AtomicIO(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all."""

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
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


@contextmanager
def explained(way_on: str = "the same command starts it again") -> Iterator[None]:
    """Turns failures that the user can act on into a ``UserError``, signals into ``Interrupted``.

    Remarks of libraries that do not concern the user of a run are left out. ``way_on`` is what the
    user can do after an interruption.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DivergenceWarning)  # the history reports it
            warnings.filterwarnings("ignore", ".*treespec, LeafSpec.* is deprecated")
            yield
    except SIGTERMException as error:
        raise Interrupted("SIGTERM", way_on) from error
    except SystemExit as error:  # Lightning's answer to Ctrl-C
        if isinstance(error.__context__, KeyboardInterrupt):
            raise Interrupted("SIGINT", way_on) from error
        raise
    except (UserError, BrokenPipeError):
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        kind = f"{[own.__name__ for own in type(error).mro()]} {text}"
        kind = kind.replace("allocate memory", "MemoryError")  # torch on a CPU
        for sign, way_out in WAYS_OUT.items():
            if sign in kind:
                raise UserError(way_out.format(error=text)) from error
        raise
