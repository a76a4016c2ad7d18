"""Results of a run, and ``python -m experiments.molpcba.summary runs/*``: runs side by side."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure

from experiments.common import UserError, command, revision, versions
from experiments.molpcba.config import Config, kind_of, to_dict
from experiments.molpcba.evaluation import LOWER_IS_BETTER, TITLES
from experiments.molpcba.fitting import History
from experiments.molpcba.folder import FREE, RunFolder
from experiments.molpcba.training import MoleculeTraining
from experiments.studies.records import LAST, Outcome, Records, Run, check_equal
from experiments.studies.report import report

Results = dict[str, Any]
"""The content of a run's ``results.json``."""
FIT = "_loss$|^gradient_norm$|^readout_(?!aux)|^processor_seconds$"
"""Metrics that tell apart lack of fit, overfitting, and an inner loop that fails."""
NO_SETTING = FREE | {"seed", "preset"}
"""What runs of a row may differ in."""


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
    minutes, seconds = divmod(round(results["seconds"]), 60)
    return f"""
run      {folder.path}
data     {data["name"]}, split {data["split"]}: {sizes}
model    {kind_of(results["config"])}, {results["parameters"]:,} parameters
time     {minutes} min {seconds} s for {results["epochs"]} epochs
{TITLES[results["metric"]]:8s} valid {results["valid"]:.4f}   test {results["test"]:.4f}   \
(best-valid epoch {results["best_epoch"]}; chance {results["chance"]:.4f})"""


def plot_run(folder: RunFolder) -> None:
    """Draws ``learning.png`` from ``metrics.csv``: loss and score over training.

    With EA also step size, momentum and regulariser weight, a line for each EA layer (Figure C.1 of
    the paper).
    """
    metrics, results = pd.read_csv(folder.metrics, index_col="epoch"), folder.read_results()
    metric, data = results["metric"], results["data"]
    columns = {"loss": "_loss$", TITLES[metric]: f"_{metric}$"}
    columns |= {f"inner {key}": f"_{key}$" for key in ("step_size", "momentum", "regulariser")}
    panels = {title: metrics.filter(regex=own) for title, own in columns.items()}
    panels = {title: table for title, table in panels.items() if len(table.columns)}
    figure = Figure(figsize=(3.2 * len(panels), 3.6), layout="constrained")
    for axes, (title, table) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        axes.plot(table.index, table, "o-" if len(table) < 3 else "-", label=list(table))
        axes.set(xlabel="epoch", title=title.replace("_", " "))
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8)
    name = f"{folder.path.name}   (data: {data['name']}, {data['split']} split)"
    figure.suptitle(name, fontsize=9)
    figure.savefig(folder.path / "learning.png", dpi=130)


# ---- several runs


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


def summarise(paths: Sequence[Path], out: Path) -> str:
    """Records of the finished runs in ``out``, with their table and pictures; the table.

    A row is a run's name without data and seed; the best comes first. Records of an earlier summary
    in ``out`` are replaced.
    """
    records = Records(out)
    records.check_same({"study": "summary"})
    records.runs, records.curves = records.runs[:0], records.curves[:0]
    for folder in (run for run in map(RunFolder, paths) if run.results.exists()):
        config, made = folder.read_results()["config"], outcome(folder)
        same = {key: made.record[key] for key in ("data", "split", "fingerprint")}
        records.check_same(same)
        seed, name = config["seed"], config["name"]
        row = name.removeprefix(f"{same['data']}-").removesuffix(f"-seed{seed}")
        run = Run(row, seed, {k: v for k, v in config.items() if k not in NO_SETTING}, row)
        for other in records.runs.loc[records.runs["row"] == row, "config"]:
            check_equal(f"{folder.path}, row {row}", run.settings, json.loads(other))
        records.add("summary", run, made)
    if records.runs.empty:
        raise UserError("no finished run among the folders given; expected runs/NAME folders")
    means = records.runs.groupby("row")["test"].mean()
    is_lower_better = records.runs["metric"].iloc[0] in LOWER_IS_BETTER
    records.write(list(means.sort_values(ascending=is_lower_better).index))
    return report(out)


@command
def main(argv: Sequence[str]) -> None:
    """Summarises run folders."""
    parser = argparse.ArgumentParser(prog="python -m experiments.molpcba.summary")
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--out", type=Path, default=Path("runs/summary"), help="where to write")
    arguments = parser.parse_args(argv)
    print(summarise(arguments.runs, arguments.out))


if __name__ == "__main__":
    sys.exit(main())
