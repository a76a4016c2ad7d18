"""Several runs that differ in their seed, and their mean and standard deviation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from experiments.molpcba.config import Config
from experiments.molpcba.errors import UserError
from experiments.molpcba.evaluation import TITLES
from experiments.molpcba.run import run, say
from experiments.molpcba.runs import RunFolder, read_results, write_text


def run_seeds(config: Config) -> list[dict[str, Any]]:
    """Runs ``config.seeds`` seeds from ``config.seed`` upwards and prints mean and deviation.

    Each has its own run folder, ``NAME-seedK`` with ``--name NAME``. With ``--resume`` finished
    runs are taken as they are, and the others go on or are started.

    Raises:
        UserError: also for several devices, whose processes cannot be started twice.
    """
    if config.devices * config.nodes > 1:
        raise UserError(
            "--seeds runs one after another on one device: with --devices, start each with --seed"
        )
    if config.resume and config.name is None:
        raise UserError("--seeds with --resume needs the --name of the runs")
    outcomes = []
    for seed in range(config.seed, config.seed + config.seeds):
        name = None if config.name is None else f"{config.name}-seed{seed}"
        say(f"\n--- seed {seed} ({seed - config.seed + 1} of {config.seeds})")
        outcomes.append(_one(replace(config, seed=seed, seeds=1, name=name)))
    say("\n" + spread(outcomes))
    if config.name is not None:
        path = Path(config.runs_dir) / f"{config.name}.json"
        write_text(path, json.dumps({"runs": outcomes}, indent=2) + "\n")
    return outcomes


def _one(config: Config) -> dict[str, Any]:
    if not config.resume:
        return run(config)
    assert config.name is not None
    folder = RunFolder(Path(config.runs_dir) / config.name)
    if folder.finished:
        return read_results(folder.results)
    return run(replace(config, resume=folder.path.exists()))


def spread(outcomes: Sequence[dict[str, Any]]) -> str:
    """Scores of runs on one task, in OGB's form: mean ± unbiased standard deviation."""
    title = TITLES[outcomes[0]["metric"]]
    words = [
        f"{part} {title} {mean_and_deviation([run[part] for run in outcomes])}"
        for part in ("test", "valid")
    ]
    return f"{len(outcomes)} seeds: " + ", ".join(words)


def mean_and_deviation(values: Sequence[float]) -> str:
    """``0.2266 ± 0.0028``; a single value has no deviation."""
    deviation = f" ± {stdev(values):.4f}" if len(values) > 1 else ""
    return f"{mean(values):.4f}{deviation}"
