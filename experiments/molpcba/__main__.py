"""``python -m experiments.molpcba``: a run from settings to summary; see ``--help``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

import pandas as pd
import torch
import yaml

from experiments import common
from experiments.common import UserError, mean_and_deviation
from experiments.metrics import TITLES
from experiments.molpcba.config import Config, parse, resolve, to_dict
from experiments.molpcba.data import load
from experiments.molpcba.fitting import History, build_trainer, explained
from experiments.molpcba.folder import Results, RunFolder, find_run, read_checkpoint
from experiments.molpcba.parallel import say
from experiments.molpcba.training import MoleculeTraining, chance
from experiments.report import draw_run, save_picture


@common.command
def main(argv: Sequence[str]) -> None:
    """Trains one network, or one for each of ``--seeds``."""
    config = parse(argv)
    if config.seeds > 1:
        run_seeds(config, argv)
    else:
        run(find_run(argv) if config.resume else config)


def run(config: Config, seeds: Sequence[str] = ()) -> Results:
    """Trains, or resumes, as configured; returns the content of ``results.json``.

    :class:`RunFolder` lists the files. Ctrl-C and SIGTERM raise ``Interrupted``, which names the
    command to continue with. ``seeds`` are its flags where the run is one of several.
    """
    with explained():
        data = load(config)
        baseline = chance(data)
    config = resolve(config, data.name)
    folder = RunFolder.of(config)
    with explained(f"continue with: {folder.command(*seeds)}"):
        history = History(folder, data.metric)
        trainer = build_trainer(config, history)
        is_first = trainer.is_global_zero
        with common.owned(folder.path, "--name") if is_first else nullcontext():
            checkpoint = folder.start(config, data.fingerprint, is_first)
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
                common.write_text(folder.results, json.dumps(results, indent=2) + "\n")
                plot_run(folder)
    say(folder.table(results))
    return results


def plot_run(folder: RunFolder) -> None:
    """Draws ``learning.png`` from the records of a run."""
    metrics = pd.read_csv(folder.metrics, index_col="epoch")
    save_picture(folder.picture, draw_run, metrics, folder.read_results(), folder.path.name)


def collect(config: Config, module: MoleculeTraining, history: History, chance: float) -> Results:
    """The content of ``results.json`` of a run that was trained and tested."""
    data, rows, best = module.data, history.rows, history.best()
    return {
        "metric": data.metric,
        "valid": best[f"valid_{data.metric}"],
        "test": module.scores[f"test_{data.metric}"],
        "chance": chance,
        "best_epoch": int(best["epoch"]),
        "epochs": len(rows),
        "seconds": round(sum(row["seconds"] for row in rows), 1),
        "parameters": module.network.num_parameters,
        "data": data.describe(),
        "config": to_dict(config),
        "threads": torch.get_num_threads(),
        "versions": common.versions(),
        "revision": common.revision(),
    }


def run_seeds(config: Config, argv: Sequence[str]) -> None:
    """Runs ``config.seeds`` seeds from ``config.seed`` upwards and prints mean and deviation.

    Each has its own run folder, ``NAME-seedK`` with ``--name NAME``. With ``--resume`` finished
    runs are kept, and the others continue or start, with the settings of the first one.
    """
    if config.devices * config.nodes > 1:
        raise UserError("--seeds trains on one device: with --devices, start each with --seed")
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
    test, valid = ([own[part] for own in outcomes] for part in ("test", "valid"))
    scores = f"test {title} {mean_and_deviation(test)}, valid {title} {mean_and_deviation(valid)}"
    say(f"\n{len(outcomes)} seeds: {scores}")


if __name__ == "__main__":
    sys.exit(main())
