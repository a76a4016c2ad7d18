"""The run folder: its files, its owner, and the rules for starting, resuming and refusing."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from experiments import common
from experiments.common import UserError
from experiments.flags import flag
from experiments.molpcba.config import Config, parse, recorded, to_dict
from experiments.molpcba.parallel import say

FREE = {"runs_dir", "name", "resume", "root", "csv", "accelerator"}
"""Settings that may change when a run is resumed."""


class RunFolder:
    """Files of one run.

    ``config.yaml`` (resolved; without it there is no run), ``metrics.csv`` (a row an epoch),
    ``results.json`` (when it has finished), ``checkpoints/last.ckpt`` (last complete epoch),
    ``checkpoints/best.ckpt`` (best valid score), ``tensorboard/``, ``learning.png`` and ``.lock``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.metrics = path / "metrics.csv"
        self.results = path / "results.json"
        self.picture = path / "learning.png"
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
        if not self.config.exists():
            raise UserError(
                f"{self.path} has no run to resume: leave out --resume to start one, or check "
                "--name and --runs-dir"
            )
        try:
            content = common.read_yaml(self.config)
        except UserError as error:
            raise UserError(f"{error}: start a new run with --name") from error
        return to_dict(recorded(content, self.config))

    def command(self, *flags: str) -> str:
        """The command that continues the run, or with ``--seeds`` the runs of all seeds."""
        place = [] if self.path.parent == Path("runs") else ["--runs-dir", str(self.path.parent)]
        name = re.sub(r"-seed\d+$", "", self.path.name) if "--seeds" in flags else self.path.name
        words = ["--resume", "--name", name, *place, *flags]
        return "python -m experiments.molpcba " + shlex.join(words)

    def owned(self, resume: bool) -> AbstractContextManager[None]:
        """Holds the folder against other processes; one that is to be resumed must exist."""
        if resume:
            self.read_config()
        return common.owned(self.path, "--name")

    def create(self, config: Config) -> None:
        """Starts the run; its configuration decides it, no preset fills in anything."""
        if self.config.exists():
            raise UserError(
                f"{self.path} already has a run: --resume continues it or shows its results, "
                "--name starts a new one"
            )
        self._write(config)

    def _write(self, config: Config) -> None:
        settings = to_dict(replace(config, preset="none", resume=False))
        del settings["name"], settings["runs_dir"]  # of this run, not of one that repeats it
        common.write_text(self.config, yaml.safe_dump(settings, sort_keys=False))

    def resume(self, config: Config, fingerprint: str, is_owner: bool) -> Path | None:
        """The checkpoint from which the run goes on; None: there is none yet.

        With other ``epochs`` the owner of the folder changes its configuration, and the run counts
        as unfinished.

        Raises:
            UserError: when settings or data are not those that the run was started with.
        """
        then = self.read_config()
        for key, now in differences(then, config).items():
            raise UserError(
                f"{self.path} was started with {flag(key)} {then.get(key)}, not {now}: leave the "
                "flag out to continue it, or start a new run with --name"
            )
        checkpoint = read_checkpoint(self.last) if self.last.exists() else None
        if checkpoint and checkpoint["pyg_ea"]["fingerprint"] != fingerprint:
            raise UserError(
                f"{self.path} was trained on other data or another split (its fingerprint is not "
                f"{fingerprint}): give the same, or start a new run with --name"
            )
        if config.epochs != then["epochs"]:
            done = checkpoint["epoch"] + 1 if checkpoint else 0
            if config.epochs < done:
                raise UserError(
                    f"{self.path} has {done} epochs already, which is more than --epochs "
                    f"{config.epochs}: give more, or start a new run with --name"
                )
            note = f"note: {config.epochs} epochs instead of {then['epochs']}, {done} are done"
            if config.schedule == "cosine":
                note += "; from here on the learning rate is that of a cosine schedule over all"
            say(note)
            if is_owner:
                self._write(config)
                self.results.unlink(missing_ok=True)
        return self.last if checkpoint else None


def differences(then: dict[str, Any], config: Config) -> dict[str, Any]:
    """Settings of ``config``, by name, that a run with the settings ``then`` cannot change to."""
    now = to_dict(config) | {"preset": "none"}
    keys = sorted((then.keys() | now.keys()) - FREE - {"epochs"})
    return {key: now.get(key) for key in keys if then.get(key) != now.get(key)}


def find_run(argv: Sequence[str]) -> Config:
    """The settings of the run that ``--resume`` means, with those given in ``argv``.

    It is the run of ``--name``, otherwise the one last written to that has the settings given.
    """
    given = parse(argv)

    def config_of(run: RunFolder) -> Config:
        place = ["--runs-dir", given.runs_dir, "--name", run.path.name]
        return parse(["--config", str(run.config), *argv, *place])

    if given.name is not None:
        RunFolder.of(given).read_config()
        return config_of(RunFolder.of(given))
    runs = [RunFolder(path.parent) for path in Path(given.runs_dir).glob("*/config.yaml")]
    for run in sorted(runs, key=lambda run: run.path.stat().st_mtime, reverse=True):
        with suppress(UserError):  # a run of another version
            config = config_of(run)
            if not differences(run.read_config(), config):
                say(f"resuming {run.path}")
                return config
    raise UserError(
        f"no run in {given.runs_dir} has these settings: leave out --resume to start one, or "
        "check the flags, --name and --runs-dir"
    )


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of the trainer, on the CPU."""
    try:
        checkpoint = common.load(path)
    except UserError as error:
        if not path.exists():
            raise
        ways_out = {
            "last.ckpt": "delete it to repeat the run with --resume, or copy best.ckpt over it to "
            "go on from the best epoch",
            "best.ckpt": "repeat the run under another --name; last.ckpt beside it has the last "
            "epoch",
        }
        way_out = ways_out.get(path.name, "get it again")
        raise UserError(f"{error}: {way_out}") from error
    if "pyg_ea" not in checkpoint:
        raise UserError(f"{path} is not a checkpoint of python -m experiments.molpcba")
    return checkpoint
