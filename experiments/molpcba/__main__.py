"""``python -m experiments.molpcba``: a run from settings to summary; see ``--help``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from experiments.common import Interrupted, UserError, command, write_text
from experiments.molpcba.config import Config, parse, resolve, to_dict
from experiments.molpcba.data import MoleculeData, load
from experiments.molpcba.evaluation import check_scorable
from experiments.molpcba.figures import plot_run
from experiments.molpcba.fitting import (
    History,
    build_trainer,
    explained,
    fit,
    is_first_process,
    quiet_libraries,
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
    """Trains, or resumes, as configured; see :class:`RunFolder` for the files.

    Returns:
        The content of ``results.json``.

    Raises:
        UserError: for what the user can change.
        Interrupted: after Ctrl-C or SIGTERM, with everything written.
    """
    if config.name is not None and not config.resume and is_first_process():
        RunFolder.of(config).check_free()
    data = load_data(config)
    config = resolve(config, data.name)
    folder = RunFolder.of(config)
    say(f"data: {data.source}")
    say("settings: " + yaml.safe_dump(to_dict(config), default_flow_style=True, width=98).strip())
    with quiet_libraries(), explained(config):
        torch.manual_seed(config.seed)
        module = MoleculeTraining(config, data)
        history = History(folder, data.metric, config.patience)
        checkpoint = start_or_resume(config, data, folder, history)
        trainer = build_trainer(config, history, folder)
        done = history.is_complete(config.epochs)
        signal = None if done else fit(trainer, module, checkpoint)
        if is_first_process() and history.rows:
            history.write()  # may have been killed before its last row
        results = collect(config, module, history, "interrupted")
        write_results(folder, results)  # at once: testing takes a while
        if history.rows:
            if trainer.world_size == 1:
                trainer = build_trainer(config, None, folder)
            results["test"] = test_best(trainer, module, history)
            results["status"] = "interrupted" if signal else "finished"
            write_results(folder, results)
            if is_first_process():
                plot_run(folder)
    say(run_table(results, folder))
    if signal is not None:
        raise Interrupted(signal)
    return results


def load_data(config: Config) -> MoleculeData:
    """The data that the configuration names; every part of it can be scored."""
    names = {
        key: None if text is None else tuple(word.strip() for word in text.split(","))
        for key, text in (("tasks", config.tasks), ("ignore", config.ignore))
    }
    data = load(
        config.data,
        root=config.root,
        csv=config.csv,
        name=config.data_name,
        split=config.split,
        split_seed=config.split_seed,
        smiles_column=config.smiles_column,
        tasks=names["tasks"],
        ignore=names["ignore"] or (),
        task_type=config.task_type,
    )
    for part, index in data.splits.items():
        check_scorable(data.graphs.labels(index), part, data.metric)
    return data


def start_or_resume(
    config: Config, data: MoleculeData, folder: RunFolder, history: History
) -> Path | None:
    """Makes the run folder or finds the checkpoint to continue from, and fills the history."""
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
    return path


def test_best(trainer: Any, module: MoleculeTraining, history: History) -> float | None:
    """Test score of the best epoch's weights.

    None when ``best.ckpt`` is of an epoch whose record was lost to a kill or damage: that epoch has
    to be repeated first.
    """
    folder = history.folder
    try:
        checkpoint = read_checkpoint(folder.best)
    except UserError as error:
        raise UserError(
            f"{error}, and with it the best epoch's weights: delete the files in "
            f"{folder.checkpoints} to repeat the run from its first epoch with --resume"
        ) from error
    if checkpoint["epoch"] != history.best()["epoch"]:
        return None
    module.load_state_dict(checkpoint["state_dict"])
    trainer.test(module, verbose=False)
    return module.scores[f"test_{history.metric}"]


def write_results(folder: RunFolder, results: dict[str, Any]) -> None:
    """Replaces ``results.json``."""
    if is_first_process():
        write_text(folder.results, json.dumps(results, indent=2) + "\n")


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
            outcomes.append(run(replace(one, resume=config.resume and folder.path.exists())))
    say("\n" + spread(outcomes))
    if config.name is not None:
        path = Path(config.runs_dir) / f"{config.name}.json"
        write_text(path, json.dumps({"runs": outcomes}, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
