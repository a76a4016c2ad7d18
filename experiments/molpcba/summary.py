"""Summary of a run, and ``python -m experiments.molpcba.summary runs/*``: runs side by side."""

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
from experiments.molpcba.config import Config, default_name, to_dict
from experiments.molpcba.evaluation import TITLES, Metric, is_higher_better
from experiments.molpcba.figures import plot_summary
from experiments.molpcba.fitting import History
from experiments.molpcba.folder import RunFolder
from experiments.molpcba.readouts import ITERATIVE, parts_of
from experiments.molpcba.training import MoleculeTraining

Members = list[tuple[RunFolder, dict[str, Any]]]
"""Runs that differ in nothing but the seed: folder and results of each."""

NO_SETTING = {
    "name", "runs_dir", "root", "csv", "resume", "seed", "seeds", "split_seed", "compile",
    "test_curve", "preset",
}  # fmt: skip
"""Runs that differ in these alone are pooled."""


def collect(
    config: Config, module: MoleculeTraining, history: History, status: str
) -> dict[str, Any]:
    """The content of ``results.json``; the test score is filled in later.

    Args:
        config: resolved.
        module: what was trained.
        history: its epochs.
        status: ``"finished"`` or ``"interrupted"``.
    """
    data, rows = module.data, history.rows
    best = history.best() if rows else None
    test_labels = data.graphs.labels(data.splits["test"])
    return {
        "name": config.name,
        "status": status,
        "metric": data.metric,
        "valid": None if best is None else best[f"valid_{data.metric}"],
        "test": None,
        "chance": Metric(data.metric, data.num_tasks).chance(test_labels),
        "best_epoch": None if best is None else int(best["epoch"]),
        "epochs": len(rows),
        "seconds": round(sum(row["seconds"] for row in rows), 1),
        "parameters": sum(p.numel() for p in module.parameters() if p.requires_grad),
        **{key: getattr(config, key) for key in ("model", "readout", "local", "steps", "seed")},
        "data": data.describe(),
        "config": to_dict(config),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "revision": revision(),
    }


def run_table(results: dict[str, Any], folder: RunFolder) -> str:
    """The end of a run on the terminal."""
    data, config = results["data"], results["config"]
    virtual = " with virtual node" if config["virtual_node"] else ""
    local = f", local {results['local']}" if results["local"] != "sum" else ""
    has_steps = results["local"] == "ea" or set(ITERATIVE) & set(parts_of(results["readout"]))
    steps = f", {results['steps']} inner steps" if has_steps else ""
    architecture = f"{results['model']}{virtual}, readout {results['readout']}{local}{steps}"
    sizes = " / ".join(f"{data['molecules'][part]:,}" for part in ("train", "valid", "test"))
    minutes, seconds = divmod(round(results["seconds"]), 60)
    rows = [
        ("run", f"{folder.path} ({results['status']})"),
        ("data", f"{data['name']}, split {data['split']}: {sizes}"),
        ("model", f"{architecture}, {results['parameters']:,} parameters"),
        ("time", f"{minutes} min {seconds} s for {results['epochs']} epochs"),
    ]
    if results["valid"] is None:
        rows.append(("score", "stopped before the end of the first epoch; --resume starts again"))
    else:
        test = "not known" if results["test"] is None else f"{results['test']:.4f}"
        score = (
            f"valid {results['valid']:.4f}   test {test}   (best-valid epoch "
            f"{results['best_epoch']}; chance {results['chance']:.4f})"
        )
        rows.append((TITLES[results["metric"]], score))
    return "\n" + "\n".join(f"{name:8s} {text}" for name, text in rows)


def spread(outcomes: Sequence[dict[str, Any]]) -> str:
    """Scores of runs on one task, in OGB's form: mean ± unbiased standard deviation."""
    title = TITLES[outcomes[0]["metric"]]
    words = [
        f"{part} {title} {mean_and_deviation([run[part] for run in outcomes])}"
        for part in ("test", "valid")
    ]
    return f"{len(outcomes)} seeds: " + ", ".join(words)


# ---- several runs


def summarise(paths: Sequence[Path], out: Path) -> pd.DataFrame:
    """A row for each kind of run (seeds pooled); written to ``out`` as CSV, Markdown and picture.

    Raises:
        UserError: when there is no finished run, or when runs are of different data.
    """
    folders = [RunFolder(path) for path in paths if (path / "results.json").exists()]
    runs = [(f, r) for f in folders if (r := f.read_results())["status"] == "finished"]
    if not runs:
        raise UserError("no finished run among the folders given; expected runs/NAME folders")
    _check_one_task([r for _, r in runs])
    pooled: dict[str, Members] = {}
    for folder, result in runs:
        key = str(sorted(_settings(result).items()))
        pooled.setdefault(key, []).append((folder, result))
    kinds = _named(list(pooled.values()))
    rows = pd.DataFrame([_row(name, members) for name, members in kinds.items()])
    ascending = not is_higher_better(runs[0][1]["metric"])
    rows = rows.sort_values("test_mean", ascending=ascending, ignore_index=True)
    write_text(out / "summary.csv", rows.to_csv(index=False))
    write_text(out / "summary.md", markdown(rows, runs[0][1]))
    plot_summary(kinds, runs[0][1]).savefig(out / "summary.png", dpi=130)
    return rows


def _settings(result: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in result["config"].items() if k not in NO_SETTING}


def _named(groups: Sequence[Members]) -> dict[str, Members]:
    """Each group by its label and, where several have the same, by the settings in which they
    differ: ``gin-ea5 (gradient_clip 0.1)``.
    """
    alike: dict[str, list[Members]] = {}
    for members in groups:
        alike.setdefault(label(members[0][1]), []).append(members)
    names = {}
    for shared, several in alike.items():
        settings = [_settings(members[0][1]) for members in several]
        keys = sorted({key for one in settings for key in one})
        differing = [k for k in keys if len({str(one.get(k)) for one in settings}) > 1]
        for members, one in zip(several, settings, strict=True):
            text = ", ".join(f"{key} {one.get(key, 'not set')}" for key in differing)
            names[f"{shared} ({text})" if text else shared] = members
    return names


def _check_one_task(results: Sequence[dict[str, Any]]) -> None:
    prints = {r["data"]["fingerprint"]: r for r in results}
    if len(prints) > 1:
        listed = "; ".join(
            f"{r['name']} is of {r['data']['name']} ({r['data']['split']} split, {key})"
            for key, r in prints.items()
        )
        raise UserError(f"these runs are of different data and cannot be compared: {listed}")


def label(result: dict[str, Any]) -> str:
    """Model, readout and local aggregation in a few words."""
    fields = ("model", "readout", "local", "steps", "virtual_node", "seed")
    config = Config(**{key: result["config"][key] for key in fields})
    return default_name(config, "").removeprefix("-").rsplit("-seed", 1)[0]


def _row(name: str, members: Members) -> dict[str, Any]:
    table = pd.DataFrame([r for _, r in members])
    return {
        "run": name,
        "seeds": len(table),
        "test": mean_and_deviation(list(table["test"])),
        "valid": mean_and_deviation(list(table["valid"])),
        "test_mean": table["test"].mean(),
        "valid_mean": table["valid"].mean(),
        "epochs": table["epochs"].mean(),
        "minutes": round(table["seconds"].mean() / 60, 1),
        "parameters": members[0][1]["parameters"],
    }


def markdown(rows: pd.DataFrame, result: dict[str, Any]) -> str:
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
    summarise(arguments.runs, arguments.out)
    print((arguments.out / "summary.md").read_text())


if __name__ == "__main__":
    sys.exit(main())
