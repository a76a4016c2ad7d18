"""The study: which runs it consists of, which are still to be made, and its report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from experiments.median import figures, records, tables
from experiments.median.config import Config
from experiments.median.training import Trial, train

TUNING_SEED = 1000  # apart from the seeds that are reported


def run_study(config: Config) -> str:
    """Makes every run that has no record yet, then the report; returns the table.

    Methods take turns seed by seed, so that an interrupted study still compares like with like.
    """
    rates = {name: _best_rate(config, name) for name in config.methods}
    for seed in range(config.seeds):
        for name in config.methods:
            _make_run(config, Trial(name, seed, rates[name], config.steps))
    return report(Path(config.results))


def report(folder: Path) -> str:
    """Makes curves.csv, summary.json and the figure from the runs' records; returns the table."""
    runs = records.read_runs(folder)
    curves = records.curves(runs)
    table = tables.summarise(runs)
    records.write(folder / "curves.csv", curves.to_csv(index=False))
    summary = tables.as_json(table, runs)
    records.write(folder / "summary.json", json.dumps(summary, indent=1) + "\n")
    figures.learning_curves(curves).savefig(folder / "curves.png", dpi=150)
    return tables.render(table)


def _best_rate(config: Config, name: str) -> float:
    """The learning rate with the smallest error at the end of a short run."""
    errors: dict[float, float] = {}
    for rate in config.learning_rates:
        trial = Trial(name, TUNING_SEED, rate, config.tuning_steps)
        errors[rate] = _make_run(config, trial, tuning=True)["final_mse"]
    return min(errors, key=errors.__getitem__)


def _make_run(config: Config, trial: Trial, tuning: bool = False) -> dict[str, Any]:
    path = records.run_path(config, trial, tuning)
    record = records.load_run(path, config, trial)
    if record is None:
        with _bar(trial, tuning) as bar:
            outcome = train(config, trial, lambda step, error: _advance(bar, error))
        record = records.save_run(path, config, trial, outcome)
    return record


def _bar(trial: Trial, tuning: bool) -> tqdm[Iterator[int]]:
    what = f"tuning, lr {trial.learning_rate:g}" if tuning else f"seed {trial.seed}"
    return tqdm(total=trial.steps, desc=f"{trial.method} ({what})", mininterval=0.5)


def _advance(bar: tqdm[Iterator[int]], error: float) -> None:
    bar.update()
    bar.set_postfix_str(f"mse {error:.2e}", refresh=False)
