"""The run folder: its files, and the rules for starting, resuming and refusing."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from experiments import common
from experiments.common import UserError
from experiments.molpcba.config import Config, flag, resolve, saved_settings, to_dict

FREE = {"runs_dir", "name", "resume", "root", "csv", "patience", "compile", "accelerator"}
"""Settings that may change when a run is resumed."""


class RunFolder:
    """Files of one run.

    ``config.yaml`` (resolved; without it there is no run), ``metrics.csv`` (a row an epoch),
    ``results.json``, ``checkpoints/last.ckpt`` (last complete epoch), ``checkpoints/best.ckpt``
    (best valid score), ``tensorboard/`` and the figures.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.metrics = path / "metrics.csv"
        self.results = path / "results.json"
        self.checkpoints = path / "checkpoints"
        self.best = self.checkpoints / "best.ckpt"
        self.last = self.checkpoints / "last.ckpt"

    @classmethod
    def of(cls, config: Config) -> RunFolder:
        """The folder of a named configuration."""
        return cls(Path(config.runs_dir) / str(config.name))

    def exists(self) -> bool:
        """Whether there is a run."""
        return self.config.exists()

    def is_finished(self) -> bool:
        """Whether the run trained to its end and was tested."""
        return self.results.exists() and self.read_results()["status"] == "finished"

    def read_results(self) -> dict[str, Any]:
        """The content of ``results.json``."""
        try:
            return json.loads(self.results.read_text())
        except FileNotFoundError as error:
            raise UserError(f"{self.results} is missing: the run has no results yet") from error
        except ValueError as error:
            raise UserError(
                f"{self.results} is damaged ({error}): delete it and --resume the run"
            ) from error

    def write_results(self, results: dict[str, Any]) -> None:
        """Replaces ``results.json``."""
        common.write_text(self.results, json.dumps(results, indent=2) + "\n")

    def read_config(self) -> dict[str, Any]:
        """The settings of the run that is to be resumed."""
        try:
            return saved_settings(yaml.safe_load(self.config.read_text()), str(self.config))
        except FileNotFoundError as error:
            raise UserError(
                f"{self.path} has no run to resume: leave out --resume to start one, or check "
                "--name and --runs-dir"
            ) from error
        except (yaml.YAMLError, ValueError, AttributeError) as error:
            raise UserError(f"{self.config} is damaged: start a new run with --name") from error

    def check_free(self) -> None:
        """Raises ``UserError`` when there is a run already."""
        if self.exists():
            finished = self.is_finished()
            state = "a finished run" if finished else "an unfinished run"
            goal = "see its results" if finished else "continue it"
            raise UserError(
                f"{self.path} already has {state}: pass --resume to {goal}, or --name for a new one"
            )

    def create(self, config: Config) -> None:
        """Makes the folder; its configuration decides the run, no preset fills in anything."""
        self.check_free()
        text = yaml.safe_dump({**asdict(config), "preset": "none"}, sort_keys=False)
        try:
            common.write_text(self.config, text)
        except OSError as error:
            raise UserError(
                f"cannot write to {self.path} ({error}): choose another --runs-dir"
            ) from error

    def check_same(self, config: Config) -> None:
        """Raises ``UserError`` when ``config`` is not the one this run was started with."""
        then = to_dict(resolve(Config(**self.read_config()), ""))
        now = to_dict(config) | {"preset": "none"}
        free = FREE | (set() if config.schedule == "cosine" else {"epochs"})
        for key in sorted((then.keys() | now.keys()) - free):
            if then.get(key) != now.get(key):
                raise UserError(
                    f"{self.path} was started with {flag(key)} {then.get(key)}, not "
                    f"{now.get(key)}: leave the flag out to continue it, or start a new run with "
                    "--name"
                )

    def newest_checkpoint(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest undamaged checkpoint and its content; None: there is none yet."""
        found = [path for path in (self.last, self.best) if path.exists()]
        for path in found:
            try:
                return path, read_checkpoint(path)
            except UserError as error:
                print(f"note: {error}; trying an older one", flush=True)
        if found:
            raise UserError(
                f"no checkpoint in {self.checkpoints} can be read: start a new run with --name, or "
                "delete them to repeat this one from its first epoch with --resume"
            )
        return None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of the trainer, on the CPU."""
    checkpoint = common.load(path)
    if "pyg_ea" not in checkpoint:
        raise UserError(f"{path} is not a checkpoint of python -m experiments.molpcba")
    return checkpoint
