"""A study of aggregators on sets: the task, the settings, a run, the command."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd
import torch
from jsonargparse.typing import PositiveFloat, PositiveInt
from torch import Generator, Tensor

from experiments.common import command, revision
from experiments.engine import Grid, Tuning, run_study
from experiments.flags import Parser, opt
from experiments.records import FRESH, Outcome, Run
from experiments.sets.aggregators import AGGREGATORS
from experiments.sets.training import SetModel, Sets, count_parameters, model_for_budget, optimise

GROUPS = {"methods": "study", "steps": "run"}
DESCRIPTION = """Tunes the learning rate of each, trains each on several seeds, and writes records,
table and figures. Interrupted, call it again: it continues with the next run."""
TUNING_SEED = 1000  # apart from the seeds that are reported
TEST_SEED = 2**31  # no run is seeded with it, so no run trains on the test sets
TEST_BATCH = 200  # sets evaluated at once: small enough for the processor's cache
NOT_OF_A_RUN = ("methods", "seeds", "norms", "learning_rates", "tuning_steps", "jobs", "out")
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


# ruff: noqa: RUF009 (opt is dataclasses.field)
@dataclass(frozen=True)
class Config:
    """Settings of a study; the same for every method but for the learning rate."""

    # study
    methods: list[str] = opt(list(AGGREGATORS), "aggregators to compare")
    seeds: PositiveInt = opt(
        3, "number of seeds; seed k fixes the weights and the sets of run k of every method"
    )
    norms: list[Literal["output", "both"] | None] = opt(
        [None],
        "places of a LayerNorm, each tried for each method: null, none; output, behind the "
        "aggregator; both, also before it",
    )
    learning_rates: list[float] = opt(
        [1e-3, 3e-3, 1e-2, 3e-2],
        "tried for each method, on one seed that is not among those reported; with several norms "
        "more are tried while the best is the largest or the smallest",
    )
    tuning_steps: PositiveInt = opt(500, "training steps of each of these tries")
    jobs: PositiveInt = opt(1, "runs at a time")
    out: str = opt("", "folder of records, table and pictures")
    # run
    ea_rate: PositiveFloat | None = opt(
        None, "learning rate of EA's parameters, PyG's included, over the rest's"
    )
    steps: PositiveInt = opt(4000, "training steps of a reported run")
    batch_size: PositiveInt = opt(16, "sets in a training step")
    embedding: PositiveInt = opt(16, "size of an encoded element and of an aggregator's result")
    parameters: PositiveInt = opt(
        5000, "budget of the whole model; the width of encoder and decoder follows from it"
    )
    auxiliary_weight: float = opt(
        1e-4, "weight of EA's auxiliary loss; the paper's is 1e-4 (appendix D.2)"
    )
    test_sets: PositiveInt = opt(2000, "fresh sets of a test, the same for every method and seed")
    evaluations: PositiveInt = opt(
        10, "evaluations along a run, evenly spaced, the last one at its end"
    )


def estimate(name: str, run: Run) -> float:
    """Estimated seconds of a run, from the second of two training steps."""
    settings = run.settings
    (_, first), (_, second) = _training(_task(name), run, steps=2)[1]
    evaluation = settings["evaluations"] * settings["test_sets"] / settings["batch_size"] / 3
    return (second - first) * (settings["steps"] + evaluation)


def perform(name: str, run: Run, path: Path) -> Outcome:
    """Trains and evaluates a model of the task ``TASK`` in ``experiments.NAME``.

    Leaves nothing but its record.
    """
    task, settings = _task(name), run.settings
    steps, number = settings["steps"], settings["evaluations"]
    stops = {round(steps * (k + 1) / number) for k in range(number)}
    points = []
    model, training = _training(task, run, steps)
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


def _task(name: str) -> Task:
    return import_module(f"experiments.{name}").TASK


def _training(task: Task, run: Run, steps: int) -> tuple[SetModel, Iterator[tuple[int, float]]]:
    """A run's model, and its training: the number of each step and the time of training so far."""
    settings = run.settings
    torch.manual_seed(run.seed)
    sizes = settings["embedding"], settings["parameters"], task.inputs
    model = model_for_budget(run.row, *sizes, settings.get("norm"))
    generator = Generator().manual_seed(run.seed)

    def batch_loss() -> Tensor:
        sets = task.sample(settings["batch_size"], generator)
        return task.loss(model(sets), sets.labels)

    training = optimise(
        model, batch_loss, learning_rate=settings["learning_rate"], steps=steps,
        auxiliary_weight=settings["auxiliary_weight"], ea_rate=settings.get("ea_rate", 1.0),
    )  # fmt: skip
    return model, training


def study_command(task: Task) -> Callable[..., int]:
    """The ``main`` of a study."""
    parser = Parser(
        Config,
        f"python -m experiments.{task.name}",
        f"{task.description}, EA against other aggregators. {DESCRIPTION}",
        GROUPS,
        {"out": f"runs/{task.name}", **task.defaults},
    )

    @command
    def main(argv: Sequence[str]) -> int:
        """Makes the study; exit code 1 when a run failed."""
        config = Config(**parser.values(argv))
        tries = {"steps": config.tuning_steps}
        shared = {k: v for k, v in asdict(config).items() if k not in NOT_OF_A_RUN}
        shared["learning_rate"] = config.learning_rates[0]
        tuned: dict[str, Sequence[Any]] = {"learning_rate": config.learning_rates}
        several = len(config.norms) > 1
        if several:
            tuned = {"norm": config.norms} | tuned
        grid = Grid(
            task.name,
            {method: method for method in AGGREGATORS},
            lambda row, seed, changes: shared | changes,
            partial(perform, task.name),
            Tuning(tuned, TUNING_SEED, tries, "learning_rate" if several else None),
            is_lower_better=True,
            identity={"data": task.data},
            seconds=partial(estimate, task.name),
        )
        seeds, out = range(config.seeds), Path(config.out)
        return run_study(grid, config.methods, seeds, out, config.jobs)

    return main
