"""A study of aggregators on sets: the task, the settings, a run, the command."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd
import torch
from jsonargparse import ArgumentError, ArgumentParser
from jsonargparse.typing import PositiveFloat, PositiveInt
from torch import Generator, Tensor

from experiments.common import UserError, command, revision
from experiments.sets.aggregators import AGGREGATORS
from experiments.sets.training import SetModel, Sets, count_parameters, model_for_budget, optimise
from experiments.studies.engine import Grid, Tuning, run_study
from experiments.studies.records import FRESH, Outcome, Run
from experiments.studies.report import report

DESCRIPTION = """Tunes the learning rate of each, trains each on several seeds, and writes records,
table and figures. Interrupted, call it again: it continues with the next run."""
TUNING_SEED = 1000  # apart from the seeds that are reported
TEST_SEED = 2**31  # no run is seeded with it, so no run trains on the test sets
TEST_BATCH = 200  # sets evaluated at once: small enough for the processor's cache
NOT_OF_A_RUN = ("methods", "seeds", "norms", "learning_rates", "tuning_steps", "jobs", "results")
"""Settings of the study as a whole."""


class Task(NamedTuple):
    """What a model of sets has to learn."""

    name: str
    """That of its module, too, ``experiments.NAME``, which has it as ``TASK``."""
    description: str
    data: str
    """The data in a few words, for the records."""
    inputs: int
    """Size of an element."""
    sample: Callable[[int, Generator], Sets]
    """Draws a batch of so many sets."""
    loss: Callable[[Tensor, Tensor], Tensor]
    """Of outputs and labels of a batch."""
    evaluate: Callable[[SetModel, int, bool], dict[str, float]]
    """Scores on so many sets of each test, or of the validation that a rate is chosen by."""
    metric: str
    """The score that tables and pictures show first."""
    error: str
    """The score by which a rate is chosen, lower is better."""
    defaults: dict[str, Any]
    """Settings whose default is not that of :class:`Config`."""


@dataclass(frozen=True)
class Config:
    """Settings of a study; the same for every method but for the learning rate.

    Args:
        methods: aggregators to compare.
        seeds: number of seeds; seed k fixes the weights and the sets of run k of every method.
        norms: where a LayerNorm is: nowhere (null), output of the aggregator, or both, its output
            and its input. Each is tried for each method, with each learning rate.
        learning_rates: tried for each method, on one seed that is not among those reported. More
            are tried while the best is the largest or the smallest, if there are several norms.
        ea_rate: learning rate of EA's parameters, PyG's included, over that of the rest.
        tuning_steps: training steps of each of these trials.
        steps: training steps of a reported run.
        batch_size: sets in a training step.
        embedding: size of an encoded element and of an aggregator's result.
        parameters: budget of the whole model; the encoder's and decoder's width follows from it.
        auxiliary_weight: weight of EA's auxiliary loss, 1e-4 in the paper (appendix D.2).
        test_sets: fresh sets of a test, the same for every method and seed.
        evaluations: evaluations along a run, evenly spaced, the last one at its end.
        jobs: runs at a time.
        results: folder of the records, results/ and the study's name by default.
    """

    methods: list[str] = field(default_factory=lambda: list(AGGREGATORS))
    seeds: PositiveInt = 3
    norms: list[Literal["output", "both"] | None] = field(default_factory=lambda: [None])
    learning_rates: list[float] = field(default_factory=lambda: [1e-3, 3e-3, 1e-2, 3e-2])
    ea_rate: PositiveFloat | None = None
    tuning_steps: PositiveInt = 500
    steps: PositiveInt = 4000
    batch_size: PositiveInt = 16
    embedding: PositiveInt = 16
    parameters: PositiveInt = 5000
    auxiliary_weight: float = 1e-4
    test_sets: PositiveInt = 2000
    evaluations: PositiveInt = 10
    jobs: PositiveInt = 1
    results: str = ""


def perform(name: str, run: Run, path: Path) -> Outcome:
    """Trains and evaluates a model of the task ``TASK`` in ``experiments.NAME``.

    Leaves nothing but its record.
    """
    task, settings = import_module(f"experiments.{name}").TASK, run.settings
    torch.manual_seed(run.seed)
    sizes = settings["embedding"], settings["parameters"], task.inputs
    model = model_for_budget(run.row, *sizes, settings.get("norm"))
    generator = Generator().manual_seed(run.seed)

    def batch_loss() -> Tensor:
        sets = task.sample(settings["batch_size"], generator)
        return task.loss(model(sets), sets.labels)

    steps, number = settings["steps"], settings["evaluations"]
    stops = {round(steps * (k + 1) / number) for k in range(number)}
    points = []
    training = optimise(
        model, batch_loss, learning_rate=settings["learning_rate"], steps=steps,
        auxiliary_weight=settings["auxiliary_weight"], ea_rate=settings.get("ea_rate", 1.0),
    )  # fmt: skip
    for step, seconds in training:
        if step in stops:
            scores = task.evaluate(model, settings["test_sets"], run.tries is not None)
            points.append((step, scores[task.metric], scores[task.error], seconds))
    error, final = scores[task.error], scores.pop(task.metric)
    curve = pd.DataFrame(points, columns=["epoch", "test", "error", "seconds"])
    record: dict[str, Any] = {
        "metric": task.metric, "valid": final, "test": final, "test_last": final,
        "best_epoch": int(curve["epoch"][curve["error"].idxmin()]), "epochs": steps,
        "train_seconds": round(seconds, 1), "threads": torch.get_num_threads(),
        "parameters": count_parameters(model), "data": task.data, "split": FRESH, "graphs": "",
        "fingerprint": "", "revision": revision(), **scores,
    }  # fmt: skip
    return Outcome(record, curve[["epoch", "test"]].assign(valid=curve["test"]), error)


def _given(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if value is not None}


def study_command(task: Task) -> Callable[..., int]:
    """The ``main`` of a study."""

    @command
    def main(argv: Sequence[str]) -> int:
        """Makes the study, or its report alone; exit code 1 when a run failed."""
        config, only_report = parse(argv, task)
        out = Path(config.results)
        if only_report:
            print(report(out))
            return 0
        tries = {"steps": config.tuning_steps}
        shared = {k: v for k, v in asdict(config).items() if k not in NOT_OF_A_RUN}
        tuned: dict[str, Sequence[Any]] = {"learning_rate": config.learning_rates}
        several = len(config.norms) > 1
        if several:
            tuned = {"norm": config.norms} | tuned
        grid = Grid(
            task.name,
            {method: method for method in AGGREGATORS},
            lambda row, seed, changes: _given(shared | changes),
            partial(perform, task.name),
            Tuning(tuned, TUNING_SEED, tries, "learning_rate" if several else None),
            is_lower_better=True,
            identity={"data": task.data},
        )
        seeds, runs_dir = range(config.seeds), Path("runs", task.name)
        return run_study(grid, config.methods, seeds, out, runs_dir, config.jobs)

    return main


def parse(argv: Sequence[str], task: Task) -> tuple[Config, bool]:
    """The settings of a study from the command line, and whether only its report is wanted."""
    parser = ArgumentParser(
        prog=f"python -m experiments.{task.name}",
        description=f"{task.description}, EA against other aggregators. {DESCRIPTION}",
        exit_on_error=False,
    )
    parser.add_argument("--config", action="config", help="YAML file with settings")
    parser.add_argument(
        "--report", action="store_true", help="remake table and figures from the records, no runs"
    )
    parser.add_class_arguments(Config)
    parser.set_defaults({"results": f"results/{task.name}", **task.defaults})
    try:
        values = parser.parse_args(list(argv)).as_dict()
    except (ArgumentError, TypeError, ValueError) as error:
        raise UserError(" ".join(str(error).split())) from error
    only_report = values.pop("report")
    del values["config"]
    return Config(**values), only_report
