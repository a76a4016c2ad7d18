"""``python -m experiments.molpcba.summary runs/*``: runs of one task side by side."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.molpcba.config import Config
from experiments.molpcba.errors import UserError
from experiments.molpcba.evaluation import TITLES
from experiments.molpcba.presets import default_name
from experiments.molpcba.runs import RunFolder, read_results, write_text
from experiments.molpcba.seeds import mean_and_deviation

Members = list[tuple[RunFolder, dict[str, Any]]]
"""Runs that differ in nothing but the seed: folder and results of each."""


def summarise(paths: Sequence[Path], out: Path) -> pd.DataFrame:
    """A row for each kind of run (seeds pooled); written to ``out`` as CSV, Markdown and picture.

    Runs are pooled when they differ in nothing but the seed and where they are stored.

    Raises:
        UserError: when there is no finished run, or when runs are of different data.
    """
    folders = [RunFolder(path) for path in paths if (path / "results.json").exists()]
    runs = [(f, read_results(f.results)) for f in folders]
    runs = [(f, r) for f, r in runs if r["status"] == "finished"]
    if not runs:
        raise UserError("no finished run among the folders given; expected runs/NAME folders")
    _check_one_task([r for _, r in runs])
    pooled: dict[str, Members] = {}
    for folder, result in runs:
        pooled.setdefault(kind(result), []).append((folder, result))
    kinds = named(list(pooled.values()))
    rows = pd.DataFrame([_row(name, members) for name, members in kinds.items()])
    rows = rows.sort_values("test_mean", ascending=False, ignore_index=True)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "summary.csv", rows.to_csv(index=False))
    write_text(out / "summary.md", markdown(rows, runs[0][1]))
    figure(kinds, runs[0][1]).savefig(out / "summary.png", dpi=130)
    return rows


def kind(result: dict[str, Any]) -> str:
    """What runs to be pooled have in common: all settings but seed and places."""
    return str(sorted(_settings(result).items()))


def _settings(result: dict[str, Any]) -> dict[str, Any]:
    places = {"name", "runs_dir", "root", "csv", "resume"}
    free = places | {"seed", "seeds", "split_seed", "compile", "test_curve"}
    return {k: v for k, v in result["config"].items() if k not in free}


def named(groups: Sequence[Members]) -> dict[str, Members]:
    """Each group by its label and, where several have the same, by the settings that tell them
    apart: ``gin-ea5 (gradient_clip 0.1)``.
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
            told = ", ".join(f"{key} {one.get(key, 'not set')}" for key in differing)
            names[f"{shared} ({told})" if told else shared] = members
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
    name = default_name(Config(**{**result["config"], "resume": False}), "")
    return name.removeprefix("-").rsplit("-seed", 1)[0]


def _row(name: str, members: Members) -> dict[str, Any]:
    results = [r for _, r in members]
    table = pd.DataFrame(results)
    return {
        "run": name,
        "seeds": len(results),
        "test": mean_and_deviation([r["test"] for r in results]),
        "valid": mean_and_deviation([r["valid"] for r in results]),
        "test_mean": table["test"].mean(),
        "valid_mean": table["valid"].mean(),
        "epochs": table["epochs"].mean(),
        "minutes": round(table["seconds"].mean() / 60, 1),
        "parameters": results[0]["parameters"],
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


def figure(kinds: dict[str, Members], result: dict[str, Any]) -> Figure:
    """Valid score over epochs, a line for each kind (mean, and range over seeds); test scores."""
    drawing = Figure(figsize=(10, 4), layout="constrained")
    curves, points = drawing.subplots(1, 2, width_ratios=[3, 2])
    title, column = TITLES[result["metric"]], f"valid_{result['metric']}"
    for i, (name, members) in enumerate(kinds.items()):
        tables = [pd.read_csv(folder.metrics).set_index("epoch")[column] for folder, _ in members]
        scores = pd.concat(tables, axis=1)
        curves.plot(scores.index, scores.mean(axis=1), color=f"C{i}", label=name)
        curves.fill_between(
            scores.index, scores.min(axis=1), scores.max(axis=1), color=f"C{i}", alpha=0.2, lw=0
        )
        tests = [r["test"] for _, r in members]
        points.plot(tests, [i] * len(tests), "o", color=f"C{i}", alpha=0.7)
        points.plot(sum(tests) / len(tests), i, "|", color="k", markersize=18)
    curves.set(xlabel="epoch")
    curves.set_title(f"valid {title} (mean and range over seeds)", fontsize="medium")
    curves.xaxis.set_major_locator(MaxNLocator(integer=True))
    curves.legend(fontsize=8)
    points.set(ylim=(len(kinds), -1))
    points.set_title(f"test {title} at the best-valid epoch (bar: mean)", fontsize="medium")
    points.set_yticks(range(len(kinds)), list(kinds))
    for axes in (curves, points):
        axes.grid(alpha=0.25)
    data = result["data"]
    drawing.suptitle(f"data: {data['name']}, {data['split']} split", fontsize=9)
    return drawing


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m experiments.molpcba.summary")
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--out", type=Path, default=Path("runs/summary"), help="where to write")
    arguments = parser.parse_args(argv)
    try:
        summarise(arguments.runs, arguments.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print((arguments.out / "summary.md").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
