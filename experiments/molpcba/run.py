"""One run from beginning to end: data, training, test, records."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger

from experiments.molpcba.callbacks import (
    Recorder,
    StopSignals,
    best_row,
    exhausted,
    progress_callbacks,
)
from experiments.molpcba.config import Config, known
from experiments.molpcba.data import MoleculeData, load
from experiments.molpcba.datamodule import Molecules
from experiments.molpcba.errors import Interrupted, UserError
from experiments.molpcba.evaluation import check_scorable
from experiments.molpcba.figures import plot_run
from experiments.molpcba.inner import ea_layers
from experiments.molpcba.presets import resolve
from experiments.molpcba.results import collect, describe_config, table
from experiments.molpcba.runs import RunFolder, read_checkpoint
from experiments.molpcba.training import MoleculeTraining
from pyg_ea import DivergenceWarning

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "64": "64-true"}


def run(config: Config) -> dict[str, Any]:
    """Trains, or goes on training, as configured; see :class:`RunFolder` for what is left behind.

    Returns:
        The content of ``results.json``.

    Raises:
        UserError: for what the user can mend.
        Interrupted: after Ctrl-C or SIGTERM, with everything written.
    """
    if config.name is not None and not config.resume and is_first_process():
        RunFolder(Path(config.runs_dir) / config.name).check_free()
    data = load_data(config)
    config = resolve(config, data.name)
    assert config.name is not None
    folder = RunFolder(Path(config.runs_dir) / config.name)
    if config.resume:
        folder.check_same(config)
    elif is_first_process():
        folder.check_free()
    for part, index in data.splits.items():
        check_scorable(data.graphs.labels(index), part)
    say(f"data: {data.source}")
    say(describe_config(config))
    with quiet_libraries(), explained(config):
        return Session(config, data, folder).run()


class Session:
    """What belongs to a run while it is going on.

    Args:
        config: resolved.
        data: all molecules.
        folder: where to write.
    """

    def __init__(self, config: Config, data: MoleculeData, folder: RunFolder) -> None:
        torch.manual_seed(config.seed)
        self.config, self.data, self.folder = config, data, folder
        self.module = MoleculeTraining(config, data)
        self.score = f"valid_{data.metric}"
        if config.compile:
            for layer in ea_layers(self.module.network).values():
                layer.compile()
        self.recorder = Recorder(folder, self.score, config.patience, say)

    def run(self) -> dict[str, Any]:
        """Trains to the end or interruption, tests the best epoch, writes results and pictures."""
        config, folder = self.config, self.folder
        checkpoint = self._checkpoint() if config.resume else None
        trainer = self._trainer()
        if not config.resume and trainer.is_global_zero:
            folder.create(config)
        interrupted = None
        if checkpoint is None or not self._complete():
            try:
                trainer.fit(
                    self.module,
                    datamodule=Molecules(self.data, config),
                    ckpt_path=None if checkpoint is None else str(checkpoint),
                    weights_only=True,
                )
            except Interrupted as error:
                interrupted = error
        results = self._conclude(trainer, interrupted is not None)
        if interrupted is not None:
            raise interrupted
        return results

    def _checkpoint(self) -> Path | None:
        """The newest sound checkpoint, whose history the recorder takes over; None: start anew."""
        for path in (self.folder.last, self.folder.previous):
            if not path.exists():
                continue
            try:
                checkpoint = read_checkpoint(path)
            except UserError as error:
                say(f"  note: {error}; trying the one before")
                continue
            check_data(checkpoint, self.data, path)
            self.recorder.load_state_dict(checkpoint["callbacks"]["Recorder"])
            return path
        if self.folder.last.exists() or self.folder.previous.exists():
            raise UserError(
                f"no checkpoint in {self.folder.checkpoints} can be read: start a new run with "
                "--name, or delete them to repeat this one from its first epoch with --resume"
            )
        return None

    def _complete(self) -> bool:
        history = self.recorder.history
        enough = bool(history) and history[-1]["epoch"] + 1 >= known(self.config.epochs)
        return enough or exhausted(history, self.score, self.config.patience)

    def _trainer(self, logged: bool = True) -> L.Trainer:
        config = self.config
        logger = TensorBoardLogger(str(self.folder.path), name="", version="tensorboard")
        callbacks: list[L.Callback] = [self.recorder, StopSignals(), *progress_callbacks()]
        if config.ema is not None:
            callbacks.insert(0, EMAWeightAveraging(decay=config.ema))
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
            logger=logger if logged else False,
            log_every_n_steps=1,
            num_sanity_val_steps=0,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=len(progress_callbacks()) > 0,
            use_distributed_sampler=False,
        )

    def _conclude(self, trainer: L.Trainer, interrupted: bool) -> dict[str, Any]:
        """Test score of the best epoch, ``results.json``, figures, and the table."""
        history = self.recorder.history
        results = collect(self.config, self.data, self.module, history, "interrupted")
        if trainer.is_global_zero:
            if history:
                self.folder.write_metrics(history)  # may have been killed before its last row
            self.folder.write_results(results)  # at once: testing takes a while
        if history:
            results["test"] = self._test(trainer)
            results["status"] = "interrupted" if interrupted else "finished"
            if trainer.is_global_zero:
                self.folder.write_results(results)
                plot_run(self.folder.path)
        say(table(results, self.folder.path))
        return results

    def _test(self, trainer: L.Trainer) -> float | None:
        """Test score of the best epoch's weights.

        None when ``best.ckpt`` is of an epoch whose record a kill or damage has cost: that epoch
        has to be repeated first.
        """
        best = best_row(self.recorder.history, self.score)
        try:
            checkpoint = read_checkpoint(self.folder.best)
        except UserError as error:
            raise UserError(
                f"{error}, and with it the best epoch's weights: delete the files in "
                f"{self.folder.checkpoints} to repeat the run from its first epoch with --resume"
            ) from error
        if checkpoint["epoch"] != best["epoch"]:
            return None
        self.module.load_state_dict(checkpoint["state_dict"])
        tester = trainer if trainer.world_size > 1 else self._trainer(logged=False)
        tester.test(self.module, datamodule=Molecules(self.data, self.config), verbose=False)
        return self.module.scores[f"test_{self.data.metric}"]


def load_data(config: Config) -> MoleculeData:
    """The data that the configuration asks for."""
    return load(
        config.data,
        root=Path(config.root),
        csv=None if config.csv is None else Path(config.csv),
        name=config.data_name,
        split=config.split,
        split_seed=config.split_seed,
    )


def check_data(checkpoint: dict[str, Any], data: MoleculeData, path: Path) -> None:
    """Raises ``UserError`` when a checkpoint was trained on other data."""
    identity = checkpoint["pyg_ea"]
    if identity["fingerprint"] != data.fingerprint:
        raise UserError(
            f"{path} was trained on {identity['data']} (fingerprint {identity['fingerprint']}), "
            f"not on this {data.name} (fingerprint {data.fingerprint}): give the same data and "
            "split, or start a new run with --name"
        )


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
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DivergenceWarning)  # the recorder reports it
            warnings.filterwarnings("ignore", ".*treespec, LeafSpec.* is deprecated")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def explained(config: Config) -> Iterator[None]:
    """Turns failures that have a known way out into a ``UserError`` that names it."""
    try:
        yield
    except (MemoryError, RuntimeError, ValueError, OSError) as error:
        text = str(error)
        lowered = text.lower()
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in lowered:
            raise UserError(
                f"out of memory with --batch-size {config.batch_size}: lower it, or take "
                "--adjoint checkpointed, fewer --steps or a smaller --width; with --resume the "
                "run goes on from its last epoch"
            ) from error
        if "NaN or infinite" in text:
            raise UserError(
                "the network's activations are not finite: lower --lr or --inner-lr, or set "
                "--gradient-clip 1; checkpoints of the epochs before are kept"
            ) from error
        if isinstance(error, OSError):
            raise UserError(
                f"writing failed ({error}): free the disk or the folder, then go on with --resume"
            ) from error
        raise
