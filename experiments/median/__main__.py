"""``python -m experiments.median``: see ``--help``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jsonargparse.typing import PositiveInt

from experiments.common import UserError, command, revision, study_settings
from experiments.median.aggregators import AGGREGATORS, check_methods
from experiments.median.report import report
from experiments.median.training import train
from experiments.studies.engine import make
from experiments.studies.records import Outcome, Records, Run

DESCRIPTION = """Median estimation (appendix D.1): EA against other aggregators.

Tunes the learning rate of each, trains each on several seeds, writes records, a figure and a
table. Interrupted, call it again: it continues with the next run.
"""
TUNING_SEED = 1000  # apart from the seeds that are reported


@dataclass(frozen=True)
class Config:
    """Settings of the study; the same for every method but for the learning rate.

    Args:
        methods: aggregators to compare.
        seeds: number of seeds; seed k fixes the weights and the sets of run k of every method.
        learning_rates: tried for each method, on one seed that is not among those reported.
        tuning_steps: training steps of each of these trials.
        steps: training steps of a reported run.
        batch_size: sets in a training step.
        embedding: size of an encoded element and of an aggregator's result.
        parameters: budget of the whole model; the encoder's and decoder's width follows from it.
        auxiliary_weight: weight of EA's auxiliary loss, 1e-4 in the paper (appendix D.2).
        test_sets: fresh sets of an evaluation, the same for every method and seed.
        evaluations: evaluations along a run, evenly spaced, the last one at its end.
        jobs: runs at a time.
        results: folder of the records.
    """

    methods: list[str] = field(default_factory=lambda: list(AGGREGATORS))
    seeds: PositiveInt = 3
    learning_rates: list[float] = field(default_factory=lambda: [1e-3, 3e-3, 1e-2, 3e-2])
    tuning_steps: PositiveInt = 500
    steps: PositiveInt = 4000
    batch_size: PositiveInt = 16
    embedding: PositiveInt = 16
    parameters: PositiveInt = 5000
    auxiliary_weight: float = 1e-4
    test_sets: PositiveInt = 2000
    evaluations: PositiveInt = 10
    jobs: PositiveInt = 1
    results: str = "results/median"

    def __post_init__(self) -> None:
        check_methods(self.methods, self.learning_rates)
        most = min(self.steps, self.tuning_steps)
        if self.evaluations > most:
            raise UserError(
                f"evaluations: got {self.evaluations}, expected 1 to {most}, the fewest steps"
            )

    def run(self, method: str, seed: int, learning_rate: float, tuning: bool = False) -> Run:
        """One run of the study."""
        shared = ("batch_size", "embedding", "parameters", "auxiliary_weight", "test_sets")
        settings = {name: getattr(self, name) for name in (*shared, "evaluations")}
        settings["steps"] = self.tuning_steps if tuning else self.steps
        settings["learning_rate"] = learning_rate
        return Run(method, seed, settings, method, "learning_rate" if tuning else None)


def perform(run: Run, path: Path) -> Outcome:
    """Trains and evaluates; leaves nothing but its record."""
    points, parameters, seconds = train(run.row, run.seed, **run.settings)
    curve = pd.DataFrame(points, columns=["epoch", "test"])
    curve["valid"] = curve["test"]
    final = float(curve["test"].iloc[-1])
    record: dict[str, Any] = {
        "metric": "mse", "valid": final, "test": final, "test_last": final,
        "best_epoch": int(curve["epoch"][curve["test"].idxmin()]),
        "epochs": run.settings["steps"], "train_seconds": round(seconds, 1),
        "threads": torch.get_num_threads(), "parameters": parameters,
        "data": "sets of 100 values", "split": "fresh sets", "graphs": "", "fingerprint": "",
        "revision": revision(),
    }  # fmt: skip
    return Outcome(record, curve, final)


def run_study(config: Config) -> str:
    """Makes every run that has no record yet, then the report; returns the table.

    Methods take turns seed by seed, so that an interrupted study still compares like with like.
    """
    folder = Path(config.results)
    records = Records(folder, lower=True)
    tries = [
        config.run(method, TUNING_SEED, rate, tuning=True)
        for method in config.methods
        for rate in config.learning_rates
    ]
    _make(tries, records, config.jobs)
    rates = {row: value for row, (_, value) in records.best_values().items()}
    runs = [
        config.run(method, seed, rates[method])
        for seed in range(config.seeds)
        for method in config.methods
        if method in rates
    ]
    _make(runs, records, config.jobs)
    for failure in records.failures.itertuples():
        print(f"failed: {failure.row}: {failure.message}", file=sys.stderr)
    return report(folder)


def _make(runs: list[Run], records: Records, jobs: int) -> None:
    for run in runs:
        records.check(run, {})
    logs = Path("runs") / "median"
    make("median", runs, perform, records, logs, list(AGGREGATORS), jobs)


@command
def main(argv: Sequence[str]) -> None:
    """Makes the study, or its report alone."""
    config, only_report = study_settings(argv, "median", DESCRIPTION, Config)
    print(report(Path(config.results)) if only_report else run_study(config))


if __name__ == "__main__":
    sys.exit(main())
