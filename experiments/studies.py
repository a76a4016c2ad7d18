"""Studies of the molecule trainer: grids of runs, read from ``configs/ablations/NAME.yaml``.

``python -m experiments.studies``: see ``--help``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch

from experiments.common import UserError, command, read_yaml
from experiments.engine import Grid, Tuning, run_study
from experiments.flags import as_words, flag
from experiments.metrics import LOWER_IS_BETTER
from experiments.molpcba.__main__ import run as train
from experiments.molpcba.config import PLACES, Config, parse, resolve, to_dict
from experiments.molpcba.data import GraphLoader, MoleculeData, load
from experiments.molpcba.fitting import explained
from experiments.molpcba.folder import RunFolder
from experiments.molpcba.model import MoleculeNetwork
from experiments.molpcba.training import MoleculeTraining
from experiments.records import Outcome, Run, check_equal

FOLDER = Path(__file__).resolve().parents[1] / "configs" / "ablations"
OWN = PLACES - {"root", "csv"} | {"config", "seeds", "split_seed", "devices", "nodes", "test_curve"}
"""Settings that a study decides itself, or that make no sense in one."""
SHARED = {"ea_lr": "lr", "ea_width": "width"}
"""EA's own settings, left out where they equal the rest of the network's."""
EVALUATION = 1.3
"""Time of an epoch with its evaluation over the time of its training steps, roughly."""
DESCRIPTION = """
A study is a grid of runs, configs/ablations/STUDY.yaml. A seed decides split, weights and order, so
that differences between rows are paired. Interrupted, the same command continues.
Besides the flags below, any of python -m experiments.molpcba is taken and wins over the study's
base: --csv, --data-name, --split, --root, --epochs, ... (default: --data embedded --split random).
"""


class Row(NamedTuple):
    """One row of a study: its settings of the trainer, over the shared ones, and the row that
    paired differences are taken to.

    ``match`` gives the head a hidden layer so wide that the network has as many parameters as that
    row's.
    """

    settings: dict[str, Any]
    reference: str
    match: str | None = None


class _File(NamedTuple):
    """The keys of a study's file."""

    rows: dict[str, Any]
    reference: str
    base: dict[str, Any] | None = None
    shared: str | None = None
    tune: dict[str, Any] | None = None


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
            file = _File(**read_yaml(path))
            base = read_yaml(FOLDER / "shared" / f"{file.shared}.yaml") if file.shared else {}
            rows = {}
            for row, entry in file.rows.items():
                settings = {"reference": file.reference} | (entry or {})
                own = {key: settings.pop(key) for key in Row._fields if key in settings}
                rows[str(row)] = Row(settings, **own)
            tuning = Tuning(**{"others": {}} | file.tune) if file.tune else None
            if tuning is not None and not tuning.combinations():
                raise ValueError("no value to try")
        except (TypeError, ValueError, AttributeError, OSError) as error:
            raise UserError(
                f"{path} must have rows and reference; it may have base, shared (a file's name in "
                f"{FOLDER / 'shared'}) and tune (values, seed, others, extend): {error!r}"
            ) from error
        for row, one in rows.items():
            for other in {one.reference, one.match} - {None, *rows}:
                raise UserError(f"{path}: row {row} names {other}, which is no row")
        return cls(name, base | (file.base or {}), rows, tuning)

    def configurations(self, flags: Sequence[str], data_name: str, tasks: int) -> dict[str, Config]:
        """The resolved settings of each row; a run adds its seed.

        The trainer's ``flags`` win over the study's base. The size of a matched head depends on the
        number of tasks.
        """
        self._check(flags)
        plain = {}
        for name, row in self.rows.items():
            words = [*as_words(self.base), *flags, *as_words(row.settings), "--test-curve"]
            unset: dict[str, Any] = {k: None for k, v in row.settings.items() if v is None}
            plain[name] = replace(resolve(parse([*words, "--name", name]), data_name), **unset)
        configs = dict(plain)
        for name, row in self.rows.items():
            if row.match is not None:
                one, two, wanted = (
                    MoleculeNetwork(config, tasks).num_parameters
                    for config in (
                        replace(plain[name], head_width=1),
                        replace(plain[name], head_width=2),
                        plain[row.match],
                    )
                )
                width = max(1, 1 + round((wanted - one) / (two - one)))
                configs[name] = replace(plain[name], head_width=width)
        return configs

    def grid(self, flags: Sequence[str], data: MoleculeData) -> Grid:
        """The runs that the engine makes on that data; a seed fixes the split, too."""
        configs, given = self.configurations(flags, data.name, len(data.task_names)), parse(flags)

        def settings(row: str, seed: int, changes: dict[str, Any]) -> dict[str, Any]:
            return deciding(replace(configs[row], **changes, seed=seed, split_seed=seed))

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
                parse(as_words(values | self.tuning.others))
            tuned = f"is what {self.name} tunes for each row: {change}"
            taken |= dict.fromkeys(self.tuning.values, tuned)
        for name in sorted(given & taken.keys()):
            raise UserError(f"{flag(name)} {taken[name]}")


def names() -> list[str]:
    """All studies there are."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def deciding(config: Config) -> dict[str, Any]:
    """The settings that decide a run, without those that follow from its data."""
    values = to_dict(config)
    shared = {own for own, common in SHARED.items() if values.get(own) == values.get(common)}
    return {k: v for k, v in values.items() if k not in PLACES | shared | {"seeds", "task_type"}}


def perform(csv: str | None, root: str, run: Run, path: Path) -> Outcome:
    """Trains, or resumes, in the run folder ``path``; ``csv`` is the table of molecules, if any."""
    wanted = {**run.settings, "preset": "none"}
    config = Config(**wanted, csv=csv, root=root, runs_dir=str(path.parent), name=path.name)
    folder = RunFolder(path)
    if is_begun := folder.config.exists():
        check_equal(str(path), deciding(folder.read_config()), wanted)
    if not folder.results.exists():
        train(replace(config, resume=is_begun))
    return folder.outcome()


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


@command
@explained("the same command continues")
def main(argv: Sequence[str]) -> int:
    """Makes the runs of a study; exit code 1 when a run failed."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.studies",
        description=DESCRIPTION,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("study", help=f"one of {', '.join(names())}")
    add("--seeds", type=int, default=3, help="runs of each row (default: 3)")
    add("--rows", nargs="+", metavar="ROW", help="only these")
    add("--jobs", type=int, default=1, help="runs at a time (default: 1)")
    add("--tuning-epochs", type=int, metavar="N", help="of tries (default: the study's)")
    add("--out", type=Path, help="folder of all files (default: runs/studies/STUDY-on-DATA)")
    arguments, flags = parser.parse_known_args(argv)
    if arguments.study not in names():
        raise UserError(f"the first word must be a study, one of {', '.join(names())}")
    if min(arguments.seeds, arguments.jobs) < 1:
        raise UserError("--seeds and --jobs must be 1 or more")
    if not {word.partition("=")[0] for word in flags} & {"--csv", "--data"}:
        flags = ["--data", "embedded", "--split", "random", *flags]
    study, shared = Study.read(arguments.study), parse(flags)
    if arguments.tuning_epochs is not None:
        if study.tuning is None:
            raise UserError(f"--tuning-epochs: {study.name} tunes no setting: leave it out")
        others = study.tuning.others | {"epochs": arguments.tuning_epochs}
        study = replace(study, tuning=study.tuning._replace(others=others))
    data = load(replace(shared, split_seed=shared.seed))
    rows = arguments.rows or list(study.rows)
    seeds = range(shared.seed, shared.seed + arguments.seeds)
    out = arguments.out or Path("runs", "studies", f"{study.name}-on-{data.name}")
    return run_study(study.grid(flags, data), rows, seeds, out, arguments.jobs)


if __name__ == "__main__":
    sys.exit(main())
