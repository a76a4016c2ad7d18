"""``python -m experiments.counting``: see ``--help``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jsonargparse.typing import ClosedUnitInterval, PositiveInt
from torch import Generator, Tensor
from torch.nn import functional as F

from experiments.common import command, revision, study_settings, write_text
from experiments.counting.data import PIXELS, Images, Sets, load, sample_sets
from experiments.counting.report import report
from experiments.median.aggregators import AGGREGATORS, check_methods
from experiments.median.training import SetModel, count_parameters, model_for_budget, optimise
from experiments.studies.records import check_equal

DESCRIPTION = """Class counting: the number of distinct classes in a set of digits, EA against
other aggregators.

Tunes the learning rate of each on validation images, trains each on several seeds, writes records,
a figure and a table. Interrupted, call it again: it continues with the next run.
"""
TUNING_SEED = 1000  # apart from the seeds that are reported
TEST_SEED = 2**31  # no run is seeded with it
TEST_BATCH = 200  # sets evaluated at once
TESTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "larger": {"sizes": (30, 60)},
    "outliers": {"outliers": 0.25},
}
"""Test sets; sets of training have 6 to 20 images."""
KEY = ("method", "seed", "learning_rate")


@dataclass(frozen=True)
class Config:
    """Settings of the study; the same for every method but for the learning rate.

    Args:
        methods: aggregators to compare, those of the median study.
        seeds: number of seeds; seed k fixes the weights and the sets of run k of every method.
        learning_rates: tried for each method, on one seed that is not among those reported.
        tuning_steps: training steps of each of these trials. Within 500 most methods still predict
            a constant, at any rate.
        steps: training steps of a reported run.
        batch_size: sets in a training step.
        embedding: size of an encoded image and of an aggregator's result.
        parameters: budget of the whole model; the encoder's and decoder's width follows from it.
        auxiliary_weight: weight of EA's auxiliary loss.
        outliers: outliers in training, as a share of a set's images.
        test_sets: sets of each test, the same for every method and seed.
        results: folder of the records.
    """

    methods: list[str] = field(
        default_factory=lambda: [name for name in AGGREGATORS if name != "ea_quantile"]
    )
    seeds: PositiveInt = 3
    learning_rates: list[float] = field(default_factory=lambda: [3e-3, 1e-2, 3e-2])
    tuning_steps: PositiveInt = 2000
    steps: PositiveInt = 6000
    batch_size: PositiveInt = 32
    embedding: PositiveInt = 16
    parameters: PositiveInt = 10_000
    auxiliary_weight: float = 1e-4
    outliers: ClosedUnitInterval = 0.0
    test_sets: PositiveInt = 2000
    results: str = "results/counting"

    def __post_init__(self) -> None:
        check_methods(self.methods, self.learning_rates)


def run(config: Config, method: str, seed: int, learning_rate: float) -> dict[str, Any]:
    """Trains one model and tests it; a run of the tuning seed is validated instead."""
    torch.manual_seed(seed)
    tuning = seed == TUNING_SEED
    model = model_for_budget(method, config.embedding, config.parameters, PIXELS)
    generator, images = Generator().manual_seed(seed), load("train")

    def batch_loss() -> Tensor:
        sets = sample_sets(images, config.batch_size, generator, outliers=config.outliers)
        return F.poisson_nll_loss(_rates(model, sets), sets.labels, log_input=False)

    training = optimise(
        model, batch_loss, learning_rate=learning_rate, auxiliary_weight=config.auxiliary_weight,
        steps=config.tuning_steps if tuning else config.steps,
    )  # fmt: skip
    *_, (_, seconds) = training
    tests = {"valid": {"outliers": config.outliers}} if tuning else TESTS
    scores: dict[str, float] = {}
    for name, settings in tests.items():
        held_out = load("valid" if tuning else "test")
        accuracy, error = _evaluate(model, held_out, config.test_sets, settings)
        scores |= {f"{name}_accuracy": accuracy, f"{name}_error": error}
    return {
        "method": method, "seed": seed, "learning_rate": learning_rate, **scores,
        "parameters": count_parameters(model), "seconds": round(seconds, 1),
        "revision": revision(),
    }  # fmt: skip


def _rates(model: SetModel, sets: Sets) -> Tensor:
    """Rates of the Poisson distributions of the counts: ``[S]``."""
    return F.softplus(model(sets.elements, sets.members, len(sets.labels)))


def _evaluate(
    model: SetModel, images: Images, num_sets: int, settings: dict[str, Any]
) -> tuple[float, float]:
    """Share of sets whose rounded rate is the count, and the rate's mean absolute error."""
    generator, rates, labels = Generator().manual_seed(TEST_SEED), [], []
    model.eval()
    with torch.no_grad():
        for start in range(0, num_sets, TEST_BATCH):
            number = min(TEST_BATCH, num_sets - start)
            sets = sample_sets(images, number, generator, **settings)
            rates.append(_rates(model, sets).detach())  # PyG's EA keeps its graph
            labels.append(sets.labels)
    rate, label = torch.cat(rates).double(), torch.cat(labels)
    return float((rate.round() == label).double().mean()), float((rate - label).abs().mean())


def run_study(config: Config) -> str:
    """Makes every run that has no record yet, then the report; returns the table.

    Methods take turns seed by seed, so that an interrupted study still compares like with like.
    """
    folder = Path(config.results)
    _check_settings(folder / "settings.json", config)
    for rate in config.learning_rates:
        for method in config.methods:
            _record(folder / "tuning.csv", config, method, TUNING_SEED, rate)
    tuning = pd.read_csv(folder / "tuning.csv")
    best = tuning.loc[tuning.groupby("method")["valid_error"].idxmin()]
    rates = dict(zip(best["method"], best["learning_rate"], strict=True))
    for seed in range(config.seeds):
        for method in config.methods:
            _record(folder / "records.csv", config, method, seed, rates[method])
    return report(folder)


def _check_settings(path: Path, config: Config) -> None:
    """Writes the settings that all runs share, or refuses others than those of the records."""
    wanted = {k: v for k, v in asdict(config).items() if k not in ("methods", "seeds", "results")}
    if not path.exists():
        write_text(path, json.dumps(wanted, indent=1) + "\n")
    check_equal(str(path), json.loads(path.read_text()), wanted)


def _record(path: Path, config: Config, method: str, seed: int, rate: float) -> None:
    """Makes a run that has no record yet, and records it."""
    table = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=list(KEY))
    if (table[list(KEY)] == [method, seed, rate]).all(axis=1).any():
        return
    made = run(config, method, seed, rate)
    rows = pd.concat([table, pd.DataFrame([made])]) if len(table) else pd.DataFrame([made])
    write_text(path, rows.to_csv(index=False))
    print(made, flush=True)


@command
def main(argv: Sequence[str]) -> None:
    """Makes the study, or its report alone."""
    config, only_report = study_settings(argv, "counting", DESCRIPTION, Config)
    print(report(Path(config.results)) if only_report else run_study(config))


if __name__ == "__main__":
    sys.exit(main())
