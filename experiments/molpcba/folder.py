"""The run folder: its files, and the rules for starting, resuming and refusing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from experiments import common
from experiments.common import UserError
from experiments.molpcba.config import Config, flag, recorded, to_dict

FREE = {"runs_dir", "name", "resume", "root", "csv", "compile", "accelerator"}
"""Settings that may change when a run is resumed."""


class RunFolder:
    """Files of one run.

    ``config.yaml`` (resolved; without it there is no run), ``metrics.csv`` (a row an epoch),
    ``results.json`` (when it has finished), ``checkpoints/last.ckpt`` (last complete epoch),
    ``checkpoints/best.ckpt`` (best valid score), ``tensorboard/`` and ``learning.png``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.metrics = path / "metrics.csv"
        self.results = path / "results.json"
        self.best = path / "checkpoints" / "best.ckpt"
        self.last = path / "checkpoints" / "last.ckpt"

    @classmethod
    def of(cls, config: Config) -> RunFolder:
        """The folder of a named configuration."""
        return cls(Path(config.runs_dir) / str(config.name))

    def read_results(self) -> dict[str, Any]:
        """The content of ``results.json``."""
        return json.loads(self.results.read_text())

    def read_config(self) -> dict[str, Any]:
        """The resolved settings of the run that is to be resumed."""
        try:
            return to_dict(recorded(yaml.safe_load(self.config.read_text()), self.config))
        except FileNotFoundError as error:
            raise UserError(
                f"{self.path} has no run to resume: leave out --resume to start one, or check "
                "--name and --runs-dir"
            ) from error
        except (yaml.YAMLError, ValueError) as error:
            raise UserError(f"{self.config} is damaged: start a new run with --name") from error

    def create(self, config: Config) -> None:
        """Makes the folder; its configuration decides the run, no preset fills in anything."""
        if self.config.exists():
            raise UserError(
                f"{self.path} already has a run: --resume continues it or shows its results, "
                "--name starts a new one"
            )
        settings = {**to_dict(config), "preset": "none"}
        del settings["name"], settings["runs_dir"]  # of this run, not of one that repeats it
        common.write_text(self.config, yaml.safe_dump(settings, sort_keys=False))

    def resume(self, config: Config, fingerprint: str) -> Path | None:
        """The checkpoint from which the run goes on; None: there is none yet.

        Raises ``UserError`` when settings or data are not those that the run was started with.
        """
        then, now = self.read_config(), to_dict(config) | {"preset": "none"}
        free = FREE | (set() if config.schedule == "cosine" else {"epochs"})
        for key in sorted((then.keys() | now.keys()) - free):
            if then.get(key) != now.get(key):
                raise UserError(
                    f"{self.path} was started with {flag(key)} {then.get(key)}, not "
                    f"{now.get(key)}: leave the flag out to continue it, or start a new run with "
                    "--name"
                )
        if not self.last.exists():
            return None
        if read_checkpoint(self.last)["pyg_ea"]["fingerprint"] != fingerprint:
            raise UserError(
                f"{self.path} was trained on other data or another split (its fingerprint is not "
                f"{fingerprint}): give the same, or start a new run with --name"
            )
        return self.last


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of the trainer, on the CPU."""
    try:
        checkpoint = common.load(path)
    except UserError as error:
        if not path.exists():
            raise
        raise UserError(
            f"{error}: delete the files in {path.parent} to repeat the run with --resume, or copy "
            "best.ckpt over a damaged last.ckpt to go on from the best epoch"
        ) from error
    if "pyg_ea" not in checkpoint:
        raise UserError(f"{path} is not a checkpoint of python -m experiments.molpcba")
    return checkpoint
