"""The run folder: what a run leaves behind, written so that a kill at any moment loses nothing."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml

from experiments.molpcba.config import Config, flag, to_dict
from experiments.molpcba.errors import UserError


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run, and how its files are written.

    ``config.yaml`` (resolved), ``metrics.csv`` (a row an epoch), ``results.json``,
    ``checkpoints/{best,last,previous}.ckpt``, ``tensorboard/`` and the figures.

    Args:
        path: the folder.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """One row for each epoch."""
        return self.path / "metrics.csv"

    @property
    def results(self) -> Path:
        """The run's outcome."""
        return self.path / "results.json"

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """Checkpoint of the epoch with the best valid score."""
        return self.checkpoints / "best.ckpt"

    @property
    def last(self) -> Path:
        """Checkpoint of the last complete epoch."""
        return self.checkpoints / "last.ckpt"

    @property
    def previous(self) -> Path:
        """Checkpoint of the epoch before, in case ``last`` is damaged."""
        return self.checkpoints / "previous.ckpt"

    @property
    def finished(self) -> bool:
        """Whether the run trained to its end."""
        return self.results.exists() and read_results(self.results)["status"] == "finished"

    def create(self, config: Config) -> None:
        """Makes the folder with its configuration, both or neither.

        Raises:
            UserError: when the folder is there already or cannot be made.
        """
        parent = self.path.parent
        try:
            parent.mkdir(parents=True, exist_ok=True)
            staging = Path(tempfile.mkdtemp(prefix=f".{self.path.name}-", dir=parent))
        except OSError as error:
            raise _unwritable(parent, error) from error
        try:
            staging.chmod(0o755)
            (staging / "checkpoints").mkdir()
            write_text(staging / "config.yaml", yaml.safe_dump(to_dict(config), sort_keys=False))
            staging.rename(self.path)
        except OSError as error:
            shutil.rmtree(staging, ignore_errors=True)
            self.check_free()
            raise _unwritable(parent, error) from error

    def check_free(self) -> None:
        """Raises ``UserError`` when the folder holds a run, or its place cannot be written to."""
        if self.path.exists():
            state = "a finished run" if self.finished else "an unfinished run"
            goal = "see its results" if self.finished else "go on with it"
            raise UserError(
                f"{self.path} already holds {state}: pass --resume to {goal}, "
                "or --name for a new one"
            )
        parent = next(p for p in (self.path.parent, *self.path.parents) if p.exists())
        if not (parent.is_dir() and os.access(parent, os.W_OK)):
            raise _unwritable(parent, "not a folder that can be written to")

    def read_config(self) -> dict[str, Any]:
        """The settings of the run that is to be resumed.

        Raises:
            UserError: when there is no such run.
        """
        try:
            return yaml.safe_load(self.config.read_text())
        except FileNotFoundError as error:
            raise UserError(
                f"{self.path} holds no run to resume: leave out --resume to start one, or check "
                "--name and --runs-dir"
            ) from error

    def check_same(self, config: Config) -> None:
        """Raises ``UserError`` when ``config`` is not the one this run was started with."""
        then, now = to_dict(Config()) | self.read_config(), to_dict(config)
        free = {"runs_dir", "name", "resume", "root", "csv", "patience", "compile"}
        if config.schedule == "constant":
            free.add("epochs")
        for key in sorted((then.keys() | now.keys()) - free):
            if then.get(key) != now.get(key):
                raise UserError(
                    f"{self.path} was started with {flag(key)} {then.get(key)}, not "
                    f"{now.get(key)}: leave the flag out to go on with it, or start a new run "
                    "with --name"
                )

    def write_metrics(self, history: Sequence[dict[str, float]]) -> None:
        """Replaces ``metrics.csv`` by all rows of ``history``."""
        write_text(self.metrics, pd.DataFrame(history).to_csv(index=False))

    def write_results(self, results: dict[str, Any]) -> None:
        """Replaces ``results.json``."""
        write_text(self.results, json.dumps(results, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a whole file or, if interrupted, none of it."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


def read_results(path: Path) -> dict[str, Any]:
    """A ``results.json``.

    Raises:
        UserError: when it is missing or damaged.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: the run has no results yet") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}): delete it and --resume the run") from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint, on the CPU.

    Raises:
        UserError: when it is missing, damaged, or not one of this program.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load does not look at check sums
            damaged = archive.testzip()
    except FileNotFoundError as error:
        raise UserError(f"there is no checkpoint {path}") from error
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise UserError(f"the checkpoint {path} is damaged ({error})") from error
    if damaged is not None:
        raise UserError(f"the checkpoint {path} is damaged (in its part {damaged})")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError):
        checkpoint = None  # a sound archive of something else
    if not isinstance(checkpoint, dict) or "pyg_ea" not in checkpoint:
        raise UserError(f"{path} is no checkpoint of python -m experiments.molpcba")
    return checkpoint


def _unwritable(path: Path, reason: object) -> UserError:
    return UserError(f"cannot write to {path} ({reason}): choose another --runs-dir")
