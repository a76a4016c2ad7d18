"""``python -m experiments.molpcba``: a run from settings to summary; see ``--help``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
import yaml

from experiments.common import UserError, command, mean_and_deviation, write_text
from experiments.metrics import TITLES
from experiments.molpcba.config import Config, parse, resolve, to_dict
from experiments.molpcba.data import load
from experiments.molpcba.evaluation import chance
from experiments.molpcba.failures import explained
from experiments.molpcba.fitting import build_trainer
from experiments.molpcba.folder import RunFolder, find_run, read_checkpoint
from experiments.molpcba.history import History
from experiments.molpcba.parallel import say
from experiments.molpcba.pictures import plot_run
from experiments.molpcba.results import collect, run_table
from experiments.molpcba.training import MoleculeTraining


@command
def main(argv: Sequence[str]) -> None:
    """Trains one network, or one for each of ``--seeds``."""
    config = parse(argv)
    if config.seeds > 1:
        run_seeds(config, argv)
    else:
        run(find_run(argv) if config.resume else config)


def run(config: Config, seeds: Sequence[str] = ()) -> dict[str, Any]:
    """Trains, or resumes, as configured; returns the content of ``results.json``.

    :class:`RunFolder` lists the files. Ctrl-C and SIGTERM raise ``Interrupted``, which names the
    command to continue with. ``seeds`` are its flags where the run is one of several.
    """
    with explained():
        data = load(config)
        baseline = chance(data)
    config = resolve(config, data.name)
    folder, checkpoint = RunFolder.of(config), None
    with explained(f"continue with: {folder.command(*seeds)}"):
        history = History(folder, data.metric)
        trainer = build_trainer(config, history)
        is_first = trainer.is_global_zero
        with folder.owned(config.resume) if is_first else nullcontext():
            if config.resume:
                checkpoint = folder.resume(config, data.fingerprint, is_first)
            elif is_first:
                folder.create(config)
            say(f"data: {data.source}")
            settings = yaml.safe_dump(to_dict(config), default_flow_style=True, width=98)
            say(f"settings: {settings}")
            torch.manual_seed(config.seed)
            module = MoleculeTraining(config, data)
            trainer.fit(module, ckpt_path=checkpoint, weights_only=True)
            module.load_state_dict(read_checkpoint(folder.best)["state_dict"])
            trainer.test(module, verbose=False)
            results = collect(config, module, history, baseline)
            if is_first:
                write_text(folder.results, json.dumps(results, indent=2) + "\n")
                plot_run(folder)
    say(run_table(results, folder))
    return results


def run_seeds(config: Config, argv: Sequence[str]) -> None:
    """Runs ``config.seeds`` seeds from ``config.seed`` upwards and prints mean and deviation.

    Each has its own run folder, ``NAME-seedK`` with ``--name NAME``. With ``--resume`` finished
    runs are taken as they are, and the others are continued or started, with the settings of the
    first one.
    """
    if config.devices * config.nodes > 1:
        raise UserError(
            "--seeds runs one after another on one device: with --devices, start each with --seed"
        )
    if config.resume and config.name is None:
        raise UserError("--seeds with --resume needs the --name of the runs, without -seedK")
    if config.resume:
        first = find_run([*argv, "--name", f"{config.name}-seed{config.seed}"])
        config = replace(first, name=config.name)
    seeds = ["--seed", str(config.seed), "--seeds", str(config.seeds)]
    outcomes = []
    for seed in range(config.seed, config.seed + config.seeds):
        name = None if config.name is None else f"{config.name}-seed{seed}"
        say(f"\n--- seed {seed} ({seed - config.seed + 1} of {config.seeds})")
        one = replace(config, seed=seed, seeds=1, name=name)
        folder = RunFolder.of(one)
        if config.resume and folder.results.exists():
            outcomes.append(folder.read_results())
        else:
            one = replace(one, resume=config.resume and folder.config.exists())
            outcomes.append(run(one, seeds))
    title = TITLES[outcomes[0]["metric"]]
    test, valid = (
        mean_and_deviation([own[part] for own in outcomes]) for part in ("test", "valid")
    )
    say(f"\n{len(outcomes)} seeds: test {title} {test}, valid {title} {valid}")


if __name__ == "__main__":
    sys.exit(main())
