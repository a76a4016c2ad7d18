"""The run folder: its files, and the rules for starting, resuming and refusing."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from experiments import common
from experiments.common import UserError, duration
from experiments.flags import flag
from experiments.metrics import TITLES
from experiments.molpcba.config import PLACES, Config, kind_of, parse, recorded, to_dict
from experiments.molpcba.parallel import say
from experiments.records import LAST, Outcome

FREE = PLACES | {"accelerator"}
"""Settings that may change when a run is resumed."""
FIT = "_loss$|^gradient_norm$|^readout_(?!aux)|^processor_seconds$"
"""Metrics that tell apart lack of fit, overfitting, and an inner loop that fails."""
SAME = ("metric", "valid", "test", "best_epoch", "epochs", "threads", "parameters", "revision")
"""Results that records keep as they are."""
Results = dict[str, Any]
"""The content of a run's ``results.json``."""


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

    # ---- what is there

    def read_results(self) -> Results:
        """The content of ``results.json``."""
        try:
            return json.loads(self.results.read_text())
        except ValueError as error:
            raise UserError(f"{self.results} is damaged: delete it and --resume the run") from error

    def read_config(self) -> Config:
        """The resolved settings of the run that is to be resumed."""
        if not self.config.exists():
            raise UserError(
                f"{self.path} has no run to resume: check --name, or leave out --resume"
            )
        try:
            return recorded(common.read_yaml(self.config), self.config)
        except UserError as error:
            raise UserError(f"{error}: start a new run with --name") from error

    def outcome(self) -> Outcome:
        """What records keep of a finished run. One without ``--test-curve`` has no test curve; one
        made before training was timed by itself has the time of a whole epoch.
        """
        results, metrics = self.read_results(), pd.read_csv(self.metrics)
        metric, data = results["metric"], results["data"]
        curve = metrics.reindex(columns=["epoch", f"valid_{metric}", f"test_{metric}"])
        curve = curve.set_axis(["epoch", "valid", "test"], axis=1)
        last = curve.tail(LAST).mean()
        record = {
            **{key: results[key] for key in SAME},
            **{key: data[key] for key in ("split", "graphs", "fingerprint")},
            "data": data["name"],
            "test_last": last["test"],
            "train_seconds": metrics.get("train_seconds", metrics["seconds"]).median(),
        }
        fit = metrics.filter(regex=FIT).map(lambda value: float(f"{value:.5g}"))
        return Outcome(record, curve.join(fit), last["valid"])

    # ---- messages

    def command(self, *flags: str) -> str:
        """The command that continues the run, or with ``--seeds`` the runs of all seeds."""
        place = [] if self.path.parent == Path("runs") else ["--runs-dir", str(self.path.parent)]
        name = re.sub(r"-seed\d+$", "", self.path.name) if "--seeds" in flags else self.path.name
        words = ["--resume", "--name", name, *place, *flags]
        return "python -m experiments.molpcba " + shlex.join(words)

    def table(self, results: Results) -> str:
        """The end of a run on the terminal."""
        data = results["data"]
        sizes = " / ".join(f"{data['molecules'][part]:,}" for part in ("train", "valid", "test"))
        return f"""
run      {self.path}
data     {data["name"]}, split {data["split"]}: {sizes}
model    {kind_of(results["config"])}, {results["parameters"]:,} parameters
time     {duration(results["seconds"])} for {results["epochs"]} epochs
{TITLES[results["metric"]]:8s} valid {results["valid"]:.4f}   test {results["test"]:.4f}   \
(best-valid epoch {results["best_epoch"]}; chance {results["chance"]:.4f})

picture  {self.picture}
predict  python -m experiments.molpcba.predict --checkpoint {shlex.quote(str(self.path))} \
--smiles FILE
compare  python -m experiments.molpcba.summary {shlex.quote(str(self.path.parent))}
continue {self.command("--epochs", str(2 * results["epochs"]))}"""

    # ---- start and resume

    def start(self, config: Config, fingerprint: str, is_owner: bool) -> Path | None:
        """Starts the run, or resumes it from the checkpoint that is returned, if any.

        The owner of the folder writes the configuration; no preset fills in anything. One with
        other ``epochs`` makes a finished run unfinished.

        Raises:
            UserError: when there is a run that is not to be resumed, or one of other settings or
                other data.
        """
        is_changed, done = True, 0
        if config.resume:
            is_changed, done = self._check(config, fingerprint)
        elif is_owner and any(own.name[0] != "." for own in self.path.iterdir()):
            raise UserError(
                f"{self.path} already has a run or other files: --resume continues a run, --name "
                "starts a new one"
            )
        if is_owner and is_changed:
            settings = to_dict(replace(config, preset="none", resume=False))
            del settings["name"], settings["runs_dir"]  # of this run, not of one that repeats it
            common.write_text(self.config, yaml.safe_dump(settings, sort_keys=False))
            self.results.unlink(missing_ok=True)
        return self.last if done else None

    def _check(self, config: Config, fingerprint: str) -> tuple[bool, int]:
        """Whether the run is extended by ``config``, and the epochs that are done."""
        then, done = self.read_config(), 0
        faults = [
            f"was started with {flag(key)} {old}, not {new}: leave the flag out to continue it"
            for key, (old, new) in differences(then, config).items()
        ]
        if self.last.exists():
            checkpoint = read_checkpoint(self.last)
            done = checkpoint["epoch"] + 1
            if checkpoint["pyg_ea"]["fingerprint"] != fingerprint:
                faults.append("was trained on other data or another split: give the same")
        if config.epochs < done and config.epochs != then.epochs:
            faults.append(f"has {done} epochs already: give more than --epochs {config.epochs}")
        for fault in faults:
            raise UserError(f"{self.path} {fault}, or start a new run with --name")
        if config.epochs != then.epochs:
            note = f"note: {config.epochs} epochs instead of {then.epochs}, {done} are done"
            if config.schedule == "cosine":
                note += "; from here on the learning rate is that of a cosine schedule over all"
            say(note)
        return config.epochs != then.epochs, done


def differences(then: Config, config: Config) -> dict[str, tuple[Any, Any]]:
    """Settings of a run, by name, that cannot change to those of ``config``, and both values."""
    old, new = to_dict(then), to_dict(replace(config, preset=then.preset))
    keys = sorted((old.keys() | new.keys()) - FREE - {"epochs"})
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}


def find_run(argv: Sequence[str]) -> Config:
    """The settings of the run that ``--resume`` means, with those given in ``argv``.

    It is the run of ``--name``, otherwise the one last written to that has the settings given.
    """
    given = parse(argv)

    def settings(run: RunFolder) -> tuple[Config, Config]:
        """As recorded, and with those given."""
        place = ["--runs-dir", given.runs_dir, "--name", run.path.name]
        words = ["--config", str(run.config), *argv, "--preset=none", *place]
        return run.read_config(), parse(words)

    if given.name is not None:
        return settings(RunFolder.of(given))[1]
    runs = [RunFolder(path.parent) for path in Path(given.runs_dir).glob("*/config.yaml")]
    for run in sorted(runs, key=lambda run: run.path.stat().st_mtime, reverse=True):
        with suppress(UserError):  # a run of another version
            then, config = settings(run)
            if not differences(then, config):
                say(f"resuming {run.path}")
                return config
    raise UserError(
        f"no run in {given.runs_dir} has these settings: check them, or leave out --resume"
    )


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of the trainer, on the CPU."""
    ways_out = {
        "last.ckpt": "delete it to repeat the run with --resume, or copy best.ckpt over it to go "
        "on from the best epoch",
        "best.ckpt": "repeat the run under another --name; last.ckpt beside it has the last epoch",
    }
    try:
        checkpoint = common.load(path)
    except UserError as error:
        way_out = f": {ways_out.get(path.name, 'get it again')}" if path.exists() else ""
        raise UserError(f"{error}{way_out}") from error
    if "pyg_ea" not in checkpoint:
        raise UserError(f"{path} is not a checkpoint of python -m experiments.molpcba")
    return checkpoint
