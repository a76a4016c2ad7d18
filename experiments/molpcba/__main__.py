"""``python -m experiments.molpcba``: a run from settings to summary; see ``--help``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from experiments.common import Interrupted, UserError, command
from experiments.molpcba.config import Config, parse, resolve, to_dict
from experiments.molpcba.data import MoleculeData, load
from experiments.molpcba.evaluation import chance
from experiments.molpcba.figures import plot_run
from experiments.molpcba.fitting import (
    History,
    build_trainer,
    explained,
    fit,
    is_first_process,
    say,
)
from experiments.molpcba.folder import RunFolder, read_checkpoint
from experiments.molpcba.summary import collect, run_table, spread
from experiments.molpcba.training import MoleculeTraining


@command
def main(argv: Sequence[str]) -> None:
    """Trains one network, or one for each of ``--seeds``."""
    config = parse(argv)
    if config.resume and config.name is not None and config.seeds == 1:
        config = parse(argv, RunFolder.of(config).read_config() | {"runs_dir": config.runs_dir})
    if config.seeds > 1:
        run_seeds(config)
    else:
        run(config)


def run(config: Config) -> dict[str, Any]:
    """Trains, or resumes, as configured; returns the content of ``results.json``.

    :class:`RunFolder` lists the files. ``Interrupted`` is raised after Ctrl-C or SIGTERM, with
    everything written.
    """
    if config.name is not None and not config.resume and is_first_process():
        RunFolder.of(config).check_free()
    data = load(config)
    chances = {part: chance(data.metric, part, data.labels(part)) for part in data.splits}
    config = resolve(config, data.name)
    folder = RunFolder.of(config)
    say(f"data: {data.source}")
    say("settings: " + yaml.safe_dump(to_dict(config), default_flow_style=True, width=98).strip())
    with explained(config):
        torch.manual_seed(config.seed)
        module = MoleculeTraining(config, data)
        history = History(folder, data.metric, config.patience)
        checkpoint = start_or_resume(config, data, history)
        trainer = build_trainer(config, history, folder)
        done = history.is_complete(config.epochs)
        signal = None if done else fit(trainer, module, checkpoint)
        results = collect(config, module, history, chances["test"])
        if is_first_process():
            folder.write_results(results)  # at once: testing takes a while
        if history.rows:
            results["test"] = test_best(config, trainer, module, history)
            results["status"] = "interrupted" if signal else "finished"
            if is_first_process():
                folder.write_results(results)
                plot_run(folder)
    say(run_table(results, folder))
    if signal is not None:
        raise Interrupted(signal)
    return results


def start_or_resume(config: Config, data: MoleculeData, history: History) -> Path | None:
    """Makes the run folder, or finds the checkpoint to continue from and fills the history."""
    folder = history.folder
    if not config.resume:
        if is_first_process():
            folder.create(config)
        return None
    folder.check_same(config)
    newest = folder.newest_checkpoint()
    if newest is None:
        return None
    path, checkpoint = newest
    identity = checkpoint["pyg_ea"]
    if identity["fingerprint"] != data.fingerprint:
        raise UserError(
            f"{path} was trained on {identity['data']} (fingerprint {identity['fingerprint']}), "
            f"not on this {data.name} (fingerprint {data.fingerprint}): give the same data and "
            "split, or start a new run with --name"
        )
    history.load_state_dict(checkpoint["callbacks"]["History"])
    if is_first_process() and path == folder.last:
        history.publish()
    return path


def test_best(
    config: Config, trainer: Any, module: MoleculeTraining, history: History
) -> float | None:
    """Test score of the best epoch's weights."""
    folder = history.folder
    try:
        checkpoint = read_checkpoint(folder.best)
    except UserError as error:
        raise UserError(
            f"{error}, and with it the best epoch's weights: delete the files in "
            f"{folder.checkpoints} to repeat the run from its first epoch with --resume"
        ) from error
    module.load_state_dict(checkpoint["state_dict"])
    if trainer.world_size == 1:  # one that no signal has stopped
        trainer = build_trainer(config, None, folder)
    trainer.test(module, verbose=False)
    return module.scores[f"test_{history.metric}"]


def run_seeds(config: Config) -> None:
    """Runs ``config.seeds`` seeds from ``config.seed`` upwards and prints mean and deviation.

    Each has its own run folder, ``NAME-seedK`` with ``--name NAME``. With ``--resume`` finished
    runs are taken as they are, and the others are continued or started.
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
        one = replace(config, seed=seed, seeds=1, name=name)
        folder = RunFolder.of(one)
        if config.resume and folder.is_finished():
            outcomes.append(folder.read_results())
        else:
            outcomes.append(run(replace(one, resume=config.resume and folder.exists())))
    say("\n" + spread(outcomes))


if __name__ == "__main__":
    sys.exit(main())
