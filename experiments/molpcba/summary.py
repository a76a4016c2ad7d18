"""Results of a run, and ``python -m experiments.molpcba.summary runs/*``: runs side by side."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from experiments.common import (
    UserError,
    command,
    mean_and_deviation,
    revision,
    versions,
    write_text,
)
from experiments.molpcba.config import Config, kind_of, to_dict
from experiments.molpcba.evaluation import TITLES, is_higher_better
from experiments.molpcba.figures import draw
from experiments.molpcba.fitting import History
from experiments.molpcba.folder import RunFolder
from experiments.molpcba.training import MoleculeTraining

Results = dict[str, Any]
"""The content of a run's ``results.json``."""

NO_SETTING = [
    "name", "runs_dir", "root", "csv", "resume", "seed", "seeds", "split_seed", "compile",
    "test_curve", "preset",
]  # fmt: skip
"""Runs that differ in these alone are pooled."""


def collect(config: Config, module: MoleculeTraining, history: History, chance: float) -> Results:
    """The content of ``results.json`` of a run that was trained and tested."""
    data, rows, best = module.data, history.rows, history.best()
    return {
        "name": config.name,
        "status": "finished",
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


def spread(outcomes: Sequence[Results]) -> str:
    """Scores of runs on one task, in OGB's form: mean ± unbiased standard deviation."""
    title = TITLES[outcomes[0]["metric"]]
    test, valid = (
        mean_and_deviation([run[part] for run in outcomes]) for part in ("test", "valid")
    )
    return f"{len(outcomes)} seeds: test {title} {test}, valid {title} {valid}"


# ---- several runs


def summarise(paths: Sequence[Path], out: Path) -> str:
    """The table, a row for each kind of run (seeds pooled); also to ``out``, with a picture."""
    folders = [folder for folder in map(RunFolder, paths) if folder.is_finished()]
    if not folders:
        raise UserError("no finished run among the folders given; expected runs/NAME folders")
    runs = pd.DataFrame([folder.read_results() for folder in folders])
    first, data = runs.iloc[0], pd.DataFrame(runs["data"].tolist())
    if data["fingerprint"].nunique() > 1:
        shown = ", ".join(runs["name"] + " of " + data["name"] + ", split " + data["split"])
        raise UserError(f"runs of different data cannot be compared: {shown}")
    runs["run"] = _names(runs["config"])
    groups = runs.groupby("run", sort=False)
    rows = groups.agg(
        seeds=("test", "size"),
        test=("test", lambda scores: mean_and_deviation(list(scores))),
        valid=("valid", lambda scores: mean_and_deviation(list(scores))),
        test_mean=("test", "mean"),
        valid_mean=("valid", "mean"),
        epochs=("epochs", "mean"),
        minutes=("seconds", lambda seconds: round(seconds.mean() / 60, 1)),
        parameters=("parameters", "first"),
    )
    rows = rows.sort_values("test_mean", ascending=not is_higher_better(first["metric"]))
    text = markdown(rows, first)
    valid = f"valid_{first['metric']}"
    curves = [pd.read_csv(folder.metrics, index_col="epoch")[valid] for folder in folders]
    means = {
        run: pd.concat([curves[i] for i in groups.groups[run]], axis=1).mean(axis=1)
        for run in rows.index
    }
    write_text(out / "summary.md", text)
    write_text(out / "summary.csv", rows.to_csv())
    title = f"valid {TITLES[first['metric']]}, mean over seeds"
    draw(out / "summary.png", "runs", first["data"], {title: pd.DataFrame(means)})
    return text


def _names(configs: pd.Series) -> pd.Series:
    """The kind of each run; where others of the kind differ, with the settings in which they do:
    ``gin-ea5 (gradient_clip 0.1)``.
    """
    settings = pd.DataFrame(configs.tolist(), dtype=object)
    settings = settings.drop(columns=NO_SETTING, errors="ignore").fillna("not set").astype(str)
    names = configs.map(kind_of)
    for kind, alike in settings.groupby(names):
        differing = alike.loc[:, alike.nunique() > 1]
        for row, own in differing.iterrows():
            text = ", ".join(f"{key} {value}" for key, value in own.items())
            names[row] = f"{kind} ({text})" if text else kind
    return names


def markdown(rows: pd.DataFrame, result: pd.Series) -> str:
    """The table with its data set named above it."""
    data, title = result["data"], TITLES[result["metric"]]
    lines = [
        f"{title} on {data['name']} ({data['split']} split, {data['molecules']['test']:,} test "
        f"molecules, {data['tasks']} tasks; chance {result['chance']:.4f})",
        "",
        f"| run | seeds | test {title} | valid {title} | epochs | minutes | parameters |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.Index} | {row.seeds} | {row.test} | {row.valid} | {row.epochs:.0f} "
        f"| {row.minutes:.1f} | {row.parameters:,} |"
        for row in rows.itertuples()
    ]
    return "\n".join(lines) + "\n"


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
