"""Results of a run: ``results.json``, and the end of a run on the terminal."""

from __future__ import annotations

import shlex
from typing import Any

import pandas as pd
import torch

from experiments.common import duration, revision, versions
from experiments.metrics import TITLES
from experiments.molpcba.config import Config, kind_of, to_dict
from experiments.molpcba.folder import RunFolder
from experiments.molpcba.history import History
from experiments.molpcba.training import MoleculeTraining
from experiments.records import LAST, Outcome

Results = dict[str, Any]
"""The content of a run's ``results.json``."""
FIT = "_loss$|^gradient_norm$|^readout_(?!aux)|^processor_seconds$"
"""Metrics that tell apart lack of fit, overfitting, and an inner loop that fails."""


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
        "parameters": sum(p.numel() for p in module.parameters() if p.requires_grad),
        "data": data.describe(),
        "config": to_dict(config),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "revision": revision(),
    }


def run_table(results: Results, folder: RunFolder) -> str:
    """The end of a run on the terminal."""
    data = results["data"]
    sizes = " / ".join(f"{data['molecules'][part]:,}" for part in ("train", "valid", "test"))
    return f"""
run      {folder.path}
data     {data["name"]}, split {data["split"]}: {sizes}
model    {kind_of(results["config"])}, {results["parameters"]:,} parameters
time     {duration(results["seconds"])} for {results["epochs"]} epochs
{TITLES[results["metric"]]:8s} valid {results["valid"]:.4f}   test {results["test"]:.4f}   \
(best-valid epoch {results["best_epoch"]}; chance {results["chance"]:.4f})

picture  {folder.picture}
predict  python -m experiments.molpcba.predict --checkpoint {shlex.quote(str(folder.path))} \
--smiles FILE
compare  python -m experiments.molpcba.summary {shlex.quote(str(folder.path.parent))}
continue {folder.command("--epochs", str(2 * results["epochs"]))}"""


def outcome(folder: RunFolder) -> Outcome:
    """What records keep of a finished run. One without ``--test-curve`` has no test curve; one made
    before training was timed by itself has the time of a whole epoch.
    """
    results, metrics = folder.read_results(), pd.read_csv(folder.metrics)
    metric, data = results["metric"], results["data"]
    curve = metrics.reindex(columns=["epoch", f"valid_{metric}", f"test_{metric}"])
    curve = curve.set_axis(["epoch", "valid", "test"], axis=1)
    fit = metrics.filter(regex=FIT).map(lambda value: float(f"{value:.5g}"))
    same = ("metric", "valid", "test", "best_epoch", "epochs", "threads", "parameters", "revision")
    record = {
        **{key: results[key] for key in same},
        "test_last": curve["test"].tail(LAST).mean(),
        "train_seconds": metrics.get("train_seconds", metrics["seconds"]).median(),
        "data": data["name"],
        **{key: data[key] for key in ("split", "graphs", "fingerprint")},
    }
    return Outcome(record, curve.join(fit), curve["valid"].tail(LAST).mean())
