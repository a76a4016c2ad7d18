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

NO_SETTING = {
    "name", "runs_dir", "root", "csv", "resume", "seed", "seeds", "split_seed", "compile",
    "test_curve", "preset",
}  # fmt: skip
"""Runs that differ in these alone are pooled."""


def collect(config: Config, module: MoleculeTraining, history: History, chance: float) -> Results:
    """The content of ``results.json`` of a run whose test score is not known yet."""
    data, rows = module.data, history.rows
    best = history.best() if rows else None
    return {
        "name": config.name,
        "status": "interrupted",
        "metric": data.metric,
        "valid": None if best is None else best[f"valid_{data.metric}"],
        "test": None,
        "chance": chance,
        "best_epoch": None if best is None else int(best["epoch"]),
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
    score = "stopped before the end of the first epoch; --resume starts again"
    if results["valid"] is not None:
        score = (
            f"valid {results['valid']:.4f}   test {results['test']:.4f}   (best-valid epoch "
            f"{results['best_epoch']}; chance {results['chance']:.4f})"
        )
    rows = {
        "run": f"{folder.path} ({results['status']})",
        "data": f"{data['name']}, split {data['split']}: {sizes}",
        "model": f"{kind_of(results['config'])}, {results['parameters']:,} parameters",
        "time": f"{minutes} min {seconds} s for {results['epochs']} epochs",
        TITLES[results["metric"]]: score,
    }
    return "\n" + "\n".join(f"{name:8s} {text}" for name, text in rows.items())


def spread(outcomes: Sequence[Results]) -> str:
    """Scores of runs on one task, in OGB's form: mean ± unbiased standard deviation."""
    title = TITLES[outcomes[0]["metric"]]
    test, valid = ([run[part] for run in outcomes] for part in ("test", "valid"))
    return (
        f"{len(outcomes)} seeds: test {title} {mean_and_deviation(test)}, "
        f"valid {title} {mean_and_deviation(valid)}"
    )


# ---- several runs


def summarise(paths: Sequence[Path], out: Path) -> str:
    """The table, a row for each kind of run (seeds pooled); also to ``out``, with a picture."""
    folders = [folder for folder in map(RunFolder, paths) if folder.is_finished()]
    if not folders:
        raise UserError("no finished run among the folders given; expected runs/NAME folders")
    runs = pd.DataFrame([folder.read_results() for folder in folders])
    first, data = runs.iloc[0], pd.DataFrame(runs["data"].tolist())
    other = data["fingerprint"] != data["fingerprint"][0]
    if other.any():
        shown = ", ".join(runs["name"] + " of " + data["name"] + ", split " + data["split"])
        raise UserError(f"runs of different data cannot be compared: {shown}")
    runs["curve"] = [
        pd.read_csv(folder.metrics, index_col="epoch")[f"valid_{first.metric}"]
        for folder in folders
    ]
    settings = [{k: v for k, v in c.items() if k not in NO_SETTING} for c in runs["config"]]
    runs["kind"] = [json.dumps(own, sort_keys=True) for own in settings]
    rows = pd.DataFrame([_row(own) for _, own in runs.groupby("kind", sort=False)])
    rows["run"] = _names(rows["kind"])
    rows = rows.sort_values(
        "test_mean", ascending=not is_higher_better(first["metric"]), ignore_index=True
    )
    text = markdown(rows, first)
    curves = pd.DataFrame({row.run: row.curve for row in rows.itertuples()})
    write_text(out / "summary.md", text)
    write_text(out / "summary.csv", rows.drop(columns=["kind", "curve"]).to_csv(index=False))
    title = f"valid {TITLES[first['metric']]}, mean over seeds"
    draw(out / "summary.png", "runs", first["data"], {title: curves})
    return text


def _row(runs: pd.DataFrame) -> dict[str, Any]:
    """A row of the table, of runs that differ in the seed alone."""
    return {
        "run": "",
        "kind": runs["kind"].iloc[0],
        "seeds": len(runs),
        "test": mean_and_deviation(list(runs["test"])),
        "valid": mean_and_deviation(list(runs["valid"])),
        "test_mean": runs["test"].mean(),
        "valid_mean": runs["valid"].mean(),
        "epochs": runs["epochs"].mean(),
        "minutes": round(runs["seconds"].mean() / 60, 1),
        "parameters": runs["parameters"].iloc[0],
        "curve": pd.concat(list(runs["curve"]), axis=1).mean(axis=1),
    }


def _names(kinds: pd.Series) -> list[str]:
    """A name for each kind of run; where several have the same, with the settings in which they
    differ: ``gin-ea5 (gradient_clip 0.1)``.
    """
    settings = pd.DataFrame(kinds.map(json.loads).tolist(), dtype=object)
    settings = settings.where(settings.notna(), "not set").astype(str)
    short = [kind_of(json.loads(kind)) for kind in kinds]
    names = []
    for row, name in enumerate(short):
        alike = settings[[other == name for other in short]]
        differing = alike.columns[alike.nunique() > 1]
        text = ", ".join(f"{key} {settings[key][row]}" for key in differing)
        names.append(f"{name} ({text})" if text else name)
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
        f"| {row.run} | {row.seeds} | {row.test} | {row.valid} | {row.epochs:.0f} "
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
