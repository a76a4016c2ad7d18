"""Studies of the molecule trainer: rows of settings, read from ``configs/ablations/NAME.yaml``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch

from experiments.common import UserError, read_yaml
from experiments.engine import Grid, Tuning
from experiments.flags import flag
from experiments.metrics import LOWER_IS_BETTER
from experiments.molpcba.__main__ import run as train
from experiments.molpcba.config import Config, parse, resolve, to_dict
from experiments.molpcba.data import GraphLoader, MoleculeData
from experiments.molpcba.folder import RunFolder
from experiments.molpcba.model import MoleculeNetwork
from experiments.molpcba.results import outcome
from experiments.molpcba.training import MoleculeTraining
from experiments.records import Outcome, Run, check_equal

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "ablations"
OWN = (
    "config", "runs_dir", "name", "resume", "seeds", "split_seed", "devices", "nodes", "test_curve",
)  # fmt: skip
"""Settings that a study decides itself, or that make no sense in one."""
PLACES = ("root", "csv", "runs_dir", "name", "resume", "seeds", "task_type")
"""Settings that do not decide a run, or follow from its data."""
EVALUATION = 1.3
"""Time of an epoch with its evaluation over the time of its training steps, roughly."""
SHARED = {"ea_lr": "lr", "ea_width": "width"}
"""EA's own settings, left out where they equal the rest of the network's."""


class Row(NamedTuple):
    """One row of a study: its settings of the trainer, over the shared ones, and the row that
    paired differences are taken to.

    ``match`` gives the head a hidden layer so wide that the network has as many parameters as that
    row's; ``head_of`` gives it the hidden layer of a row with ``match``.
    """

    settings: dict[str, Any]
    reference: str
    match: str | None = None
    head_of: str | None = None


@dataclass(frozen=True)
class Study:
    """A grid: the settings that all rows share, the rows in the order of the table, and tuning."""

    name: str
    base: dict[str, Any]
    rows: dict[str, Row]
    tuning: Tuning | None = None

    @classmethod
    def read(cls, name: str) -> Study:
        """The study of that name."""
        path = FOLDER / f"{name}.yaml"
        try:
            content = read_yaml(path)
            file = content.get("shared")
            base = read_yaml(FOLDER / "shared" / f"{file}.yaml") if file else {}
            rows = {}
            for row, entry in content["rows"].items():
                settings = {"reference": content["reference"]} | (entry or {})
                own = {key: settings.pop(key) for key in Row._fields if key in settings}
                rows[row] = Row(settings, **own)
            tune = content.get("tune")
            tuning = tune and Tuning(**{"others": {}} | tune)
        except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
            raise UserError(
                f"{path} must have rows and reference; it may have base, shared (a file's name in "
                f"{FOLDER / 'shared'}) and tune (values, seed, others, extend): {error!r}"
            ) from error
        for row, entry in rows.items():
            for other in {entry.reference, entry.match, entry.head_of} - {None, *rows}:
                raise UserError(f"{path}: row {row} names {other}, which is no row")
        return cls(name, base | content.get("base", {}), rows, tuning)

    def configurations(self, flags: Sequence[str], data_name: str, tasks: int) -> dict[str, Config]:
        """The resolved settings of each row; a run adds its seed.

        The trainer's ``flags`` win over the study's base. The size of a matched head depends on the
        number of tasks.
        """
        self._check(flags)
        common = [*as_flags(self.base), *flags, "--test-curve"]
        configs = {}
        for name, row in self.rows.items():
            config = parse([*common, *as_flags(row.settings), "--name", name])
            unset: dict[str, Any] = {
                key: None for key, value in row.settings.items() if value is None
            }
            configs[name] = replace(resolve(config, data_name), **unset)
        plain = dict(configs)
        for name, row in self.rows.items():
            matched = row.head_of or name
            target = self.rows[matched].match
            if target is not None:
                width = _matching(plain[matched], plain[target], tasks)
                configs[name] = replace(plain[name], head_width=width)
        return configs

    def grid(self, flags: Sequence[str], data: MoleculeData) -> Grid:
        """The runs that the engine makes on that data; a seed fixes the split, too."""
        configs = self.configurations(flags, data.name, len(data.task_names))
        given = parse(flags)

        def settings(row: str, seed: int, changes: dict[str, Any]) -> dict[str, Any]:
            config = replace(configs[row], **changes, seed=seed, split_seed=seed)
            return without_places(to_dict(config))

        return Grid(
            self.name,
            {name: row.reference for name, row in self.rows.items()},
            settings,
            partial(perform, given.csv, given.root),
            self.tuning,
            is_lower_better=data.metric in LOWER_IS_BETTER,
            identity={"data": data.name, "split": data.split, "graphs": data.graphs_sha256[:16]},
            seconds=partial(estimate, data),
        )

    def _check(self, flags: Sequence[str]) -> None:
        """Refuses flags that would be overruled."""
        given = {word.partition("=")[0][2:].replace("-", "_") for word in flags if word[:2] == "--"}
        given |= {name.removeprefix("no_") for name in given}
        taken = dict.fromkeys(OWN, "is not for studies: leave it out")
        change = f"leave it out, or change {FOLDER / self.name}.yaml"
        for name, row in self.rows.items():
            for key in row.settings:
                taken.setdefault(key, f"is what row {name} of {self.name} sets: {change}")
        if self.tuning is not None:
            for values in self.tuning.combinations():
                parse(as_flags(values | self.tuning.others))
            for key in self.tuning.values:
                taken[key] = f"is what {self.name} tunes for each row: {change}"
        for name in sorted(given & taken.keys()):
            raise UserError(f"{flag(name)} {taken[name]}")


def names() -> list[str]:
    """All studies there are."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def without_places(values: dict[str, Any]) -> dict[str, Any]:
    """The settings that decide a run."""
    shared = {own for own, common in SHARED.items() if values.get(own) == values.get(common)}
    return {key: value for key, value in values.items() if key not in {*PLACES, *shared}}


def perform(csv: str | None, root: str, run: Run, path: Path) -> Outcome:
    """Trains, or resumes, in the run folder ``path``; ``csv`` is the table of molecules, if any."""
    wanted = {**run.settings, "preset": "none"}
    config = Config(**wanted, csv=csv, root=root, runs_dir=str(path.parent), name=path.name)
    folder = RunFolder(path)
    if folder.config.exists():
        check_equal(str(path), without_places(folder.read_config()), wanted)
    if not folder.results.exists():
        train(replace(config, resume=folder.config.exists()))
    return outcome(folder)


def estimate(data: MoleculeData, run: Run) -> float:
    """Estimated seconds of a run, from the second of two training steps."""
    config = Config(**run.settings)
    is_on_gpu = config.accelerator != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda" if is_on_gpu else "cpu")
    module = MoleculeTraining(config, data).to(device)
    loader = GraphLoader(data.graphs.to(device), data.splits["train"], config.batch_size)
    seconds = 0.0
    for batch in islice(loader, 2):
        start = time.perf_counter()
        module.training_step(batch, 0).backward()
        seconds = time.perf_counter() - start
    return EVALUATION * seconds * len(loader) * config.epochs


def as_flags(settings: dict[str, Any]) -> list[str]:
    """``{"lr": 0.1} -> ["--lr=0.1"]``: the command line checks names and values."""
    return [f"{flag(name)}={str(value).lower() if isinstance(value, bool) else value}"
            for name, value in settings.items() if value is not None]  # fmt: skip


def _matching(config: Config, target: Config, tasks: int) -> int:
    """The ``head_width`` with which ``config`` comes closest to the parameters of ``target``."""

    def count(config: Config) -> int:
        network = MoleculeNetwork(config, tasks)
        return sum(p.numel() for p in network.parameters() if p.requires_grad)

    one, two = (count(replace(config, head_width=width)) for width in (1, 2))
    return max(1, 1 + round((count(target) - one) / (two - one)))
