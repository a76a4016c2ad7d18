"""A study of aggregators: the task, the settings, a run, the command."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd
import torch
from jsonargparse.typing import PositiveFloat, PositiveInt

from experiments.common import UserError, command, revision
from experiments.engine import Grid, Tuning, run_study
from experiments.flags import Parser, flag, opt
from experiments.metrics import LOWER_IS_BETTER
from experiments.records import FRESH, Outcome, Run
from experiments.sets.training import Problem, train

DESCRIPTION = """EA against other aggregators. Each chooses the place of a LayerNorm and its
learning rate on the valid part. Interrupted, call it again: it continues with the next run."""
TUNING_SEED = 1000  # apart from the seeds that are reported
NOT_OF_A_RUN = ("methods", "seeds", "norms", "learning_rates", "tuning_steps", "jobs", "out")


# ruff: noqa: RUF009 (opt is dataclasses.field)
@dataclass(frozen=True)
class Config:
    """Settings of a study; the same for every method but for norm and learning rate."""

    # study
    methods: list[str] = opt([], "aggregators to compare")
    seeds: PositiveInt = opt(3, "number of seeds; a seed fixes weights and data of a run")
    norms: list[Literal["output", "both"] | None] = opt(
        [None, "output", "both"],
        "LayerNorms to try: null, none; output, behind the aggregator; both, also before it",
    )
    learning_rates: list[PositiveFloat] = opt(
        [3e-3, 1e-2, 3e-2],
        "to try, with a seed of their own; if several, more while the best is at the edge",
    )
    tuning_steps: PositiveInt = opt(1000, "training steps of each of these tries")
    jobs: PositiveInt = opt(1, "runs at a time")
    out: str = opt("", "folder of records, table and pictures")
    # run
    ea_rate: PositiveFloat = opt(
        0.2, "learning rate of EA's parameters, PyG's included, over the rest's"
    )
    steps: PositiveInt = opt(4000, "training steps of a reported run")
    evaluations: PositiveInt = opt(10, "evenly spaced along a run; the last one counts")


class Task(NamedTuple):
    """What the models of a study have to learn: ``TASK`` of the module ``experiments.NAME``."""

    name: str
    description: str
    data: str  # in a few words, for the records
    methods: Sequence[str]  # aggregators, in the order of the tables
    problem: Callable[[Run], Problem]
    metric: str  # the score that norm and rate are chosen by, and that tables show first
    defaults: Mapping[str, Any]  # where not those of config
    config: type[Config] = Config
    tests: Sequence[str] = ()  # further parts of the data that a trained model is scored on
    reference: str | None = None  # the method that differences are taken to


def perform(name: str, run: Run, path: Path) -> Outcome:
    """Trains and evaluates a model on the task of ``experiments.NAME``. Leaves no files."""
    task, steps = import_module(f"experiments.{name}").TASK, run.settings["steps"]
    problem = task.problem(run)
    number = 1 if run.tries else run.settings["evaluations"]  # a try is evaluated at its end alone
    stops, points = [steps * (k + 1) // number for k in range(number)], []
    for point in train(problem, run.settings, stops):
        is_last = point["epoch"] == steps
        valid, test = (_scores(problem, part, is_last) for part in ("valid", "test"))
        points.append(point | {"valid": valid[task.metric], "test": test[task.metric]})
    for part in task.tests if run.tries is None else ():
        test |= {f"{part}_{key}": own for key, own in _scores(problem, part, True).items()}
    curve, final = pd.DataFrame(points), test.pop(task.metric)
    record: dict[str, Any] = {
        "metric": task.metric, "valid": valid[task.metric], "test": final, "test_last": final,
        "best_epoch": steps, "epochs": steps,
        "train_seconds": round(curve["processor_seconds"].sum(), 2),
        "threads": torch.get_num_threads(),
        "parameters": sum(parameter.numel() for parameter in problem.model.parameters()),
        "data": task.data, "split": f"{FRESH}data", "graphs": "", "fingerprint": "",
        "revision": revision(), **test,
    }  # fmt: skip
    return Outcome(record, curve, valid[task.metric])


def estimate(name: str, run: Run) -> float:
    """Estimated seconds of a run, from the second of two training steps."""
    task = import_module(f"experiments.{name}").TASK
    _, second = train(task.problem(run), run.settings | {"steps": 2}, [1, 2])
    return second["processor_seconds"] * run.settings["steps"]


def _scores(problem: Problem, part: str, is_last: bool) -> dict[str, float]:
    """Scores on a part of the data, without dropout or gradients."""
    problem.model.eval()
    with torch.no_grad():
        scores = problem.scores(part, is_last)
    problem.model.train()
    return scores


def study_command(task: Task) -> Callable[..., int]:
    """The ``main`` of a study."""
    parser = Parser(
        task.config,
        f"python -m experiments.{task.name}",
        f"{task.description}, {DESCRIPTION}",
        {"methods": "study", "ea_rate": "run"},
        {"methods": list(task.methods), "out": f"runs/{task.name}", **task.defaults},
    )

    @command
    def main(argv: Sequence[str]) -> int:
        """Makes the study; exit code 1 when a run failed."""
        config = task.config(**parser.values(argv))
        for name in ("methods", "norms", "learning_rates"):
            if not getattr(config, name):
                raise UserError(f"{flag(name)} is an empty list")
        shared = {k: v for k, v in asdict(config).items() if k not in NOT_OF_A_RUN}
        shared["learning_rate"] = config.learning_rates[0]
        tried: dict[str, Sequence] = {"norm": config.norms, "learning_rate": config.learning_rates}
        extended = "learning_rate" if len(config.learning_rates) > 1 else None
        grid = Grid(
            task.name,
            {method: task.reference or method for method in task.methods},
            lambda row, seed, changes: shared | changes,
            partial(perform, task.name),
            Tuning(tried, TUNING_SEED, {"steps": config.tuning_steps}, extended),
            is_lower_better=task.metric in LOWER_IS_BETTER,
            identity={"data": task.data},
            seconds=partial(estimate, task.name),
        )
        return run_study(grid, config.methods, range(config.seeds), Path(config.out), config.jobs)

    return main
