"""``python -m experiments.molpcba.ablations STUDY``: a grid of runs paired by seed, and its table.

A study is a file ``configs/ablations/STUDY.yaml``: settings that all rows share (``base``), those
of each row (``rows``), and the row that the others are compared with (``reference``). A seed
decides the split too, so rows are compared on the same molecules. Interrupted, the same command
goes on.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from matplotlib.figure import Figure
from tqdm import tqdm

from experiments.molpcba.config import Config
from experiments.molpcba.data import DataError
from experiments.molpcba.errors import Interrupted, UserError
from experiments.molpcba.evaluation import TITLES
from experiments.molpcba.presets import resolve
from experiments.molpcba.run import run
from experiments.molpcba.runs import RunFolder, read_results, write_text
from experiments.molpcba.seeds import mean_and_deviation

STUDIES = Path(__file__).resolve().parents[2] / "configs" / "ablations"
PLACES = {"root", "csv", "runs_dir", "name", "resume", "seed", "seeds", "split_seed"}


@dataclass(frozen=True)
class Study:
    """A grid of settings.

    Args:
        name: of its file.
        title: what it asks.
        rows: settings of each row, the shared ones included.
        reference: the row that the others are compared with.
        axis: the setting that varies, for a study over a number; None: rows are kinds.
    """

    name: str
    title: str
    rows: dict[str, dict[str, Any]]
    reference: str
    axis: str | None = None

    @classmethod
    def read(cls, name: str) -> Study:
        """The study of that name."""
        content = yaml.safe_load((STUDIES / f"{name}.yaml").read_text())
        rows = {key: content["base"] | (row or {}) for key, row in content["rows"].items()}
        return cls(name, content["title"], rows, content["reference"], content.get("axis"))


def configurations(
    study: Study, common: dict[str, Any], seeds: int
) -> Iterator[tuple[str, Config]]:
    """Row and configuration of every run, seed by seed, so that what is finished is paired."""
    for seed in range(seeds):
        for row, settings in study.rows.items():
            name = f"{study.name}-{row}-seed{seed}"
            yield row, Config(**settings | common, seed=seed, split_seed=seed, name=name)


def train(config: Config) -> str | None:
    """One run, or the rest of it, its output in ``NAME.log``; what went wrong, if anything."""
    folder = RunFolder(Path(config.runs_dir) / str(config.name))
    settings = {f.name: getattr(config, f.name) for f in fields(config)}
    folder.path.parent.mkdir(parents=True, exist_ok=True)
    path = folder.path.with_name(f"{config.name}.log")
    with path.open("a") as log, redirect_stdout(log), redirect_stderr(log):
        try:
            run(Config(**settings | {"resume": folder.path.exists()}))
        except (UserError, DataError, Interrupted) as error:
            return f"{config.name}: {error}"
    return None


def finished(config: Config) -> bool:
    """Whether the run is there; raises ``UserError`` when it is one of other settings."""
    folder = RunFolder(Path(config.runs_dir) / str(config.name))
    if not folder.finished:
        return False
    folder.check_same(resolve(config, read_results(folder.results)["data"]["name"]))
    return True


def carry_out(configs: Sequence[Config], jobs: int) -> list[str]:
    """Makes all runs that are not there, ``jobs`` at a time; what went wrong."""
    missing = [config for config in configs if not finished(config)]
    failures = []
    pool = ProcessPoolExecutor(
        jobs, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,)
    )
    try:
        futures = {pool.submit(train, config): config for config in missing}
        bar = tqdm(as_completed(futures), "runs", len(configs), initial=len(configs) - len(missing))
        for future in bar:
            failure = future.result()
            if failure is not None:
                failures.append(failure)
                bar.write(f"failed: {failure}", file=sys.stderr)
                continue
            config = futures[future]
            results = read_results(RunFolder(Path(config.runs_dir) / str(config.name)).results)
            line = f"{config.name}: test {results['test']:.4f}, {results['seconds']:.0f} s"
            bar.write(line, file=sys.stderr)
    finally:
        pool.shutdown(cancel_futures=True)
    return failures


def collect(study: Study, runs: Sequence[tuple[str, Config]], out: Path) -> None:
    """Writes ``records.csv`` (a row a run), ``curves.csv`` and ``study.json`` of finished runs."""
    records, curves = [], []
    for row, config in runs:
        folder = RunFolder(Path(config.runs_dir) / str(config.name))
        if not folder.finished:
            continue
        results, metrics = read_results(folder.results), pd.read_csv(folder.metrics)
        settings = {k: v for k, v in results["config"].items() if k not in PLACES}
        records.append(
            {
                "row": row,
                "seed": config.seed,
                **{k: results[k] for k in ("valid", "test", "best_epoch", "epochs", "parameters")},
                "seconds_per_epoch": metrics["seconds"].median(),
                "metric": results["metric"],
                "data": results["data"]["name"],
                "split": results["data"]["split"],
                "fingerprint": results["data"]["fingerprint"],
                "revision": results["revision"],
                "settings": json.dumps(settings, sort_keys=True),
            }
        )
        valid = metrics[["epoch", f"valid_{results['metric']}"]].set_axis(
            ["epoch", "valid"], axis=1
        )
        curves.append(valid.assign(row=row, seed=config.seed))
    if not records:
        raise UserError("no run has finished yet")
    out.mkdir(parents=True, exist_ok=True)
    about = {"name": study.name, "title": study.title, "axis": study.axis}
    about["reference"] = study.reference
    write_text(out / "study.json", json.dumps(about, indent=2) + "\n")
    write_text(out / "records.csv", pd.DataFrame(records).to_csv(index=False))
    write_text(out / "curves.csv", pd.concat(curves).to_csv(index=False))


def report(folder: Path) -> str:
    """The table, as Markdown, of a study's records; also draws ``study.png`` from them."""
    try:
        about = json.loads((folder / "study.json").read_text())
        records = pd.read_csv(folder / "records.csv")
        curves = pd.read_csv(folder / "curves.csv")
    except FileNotFoundError as error:
        raise UserError(
            f"{error.filename} is missing: {folder} holds no records of a study"
        ) from error
    check_paired(records)
    picture(records, curves, about).savefig(folder / "study.png", dpi=130)
    text = table(records, about)
    write_text(folder / "table.md", text)
    return text


def check_paired(records: pd.DataFrame) -> None:
    """Raises ``UserError`` when runs of one seed saw different molecules, or seeds of a row differ
    in settings."""
    for seed, prints in records.groupby("seed")["fingerprint"].unique().items():
        if len(prints) > 1:
            raise UserError(f"runs of seed {seed} are of different data: {', '.join(prints)}")
    for row, settings in records.groupby("row")["settings"].nunique().items():
        if settings > 1:
            raise UserError(f"runs of {row} differ in more than the seed: delete some of them")


def table(records: pd.DataFrame, about: dict[str, Any]) -> str:
    """Scores, paired differences to the reference row and time of an epoch, for each row."""
    first = records.iloc[0]
    title, reference = TITLES[first.metric], about["reference"]
    base = records[records["row"] == reference].set_index("seed")
    lines = [
        f"{about['title']} {title} on {first.data} ({first.split} split by the seed); mean ± "
        "standard deviation over seeds",
        "",
        f"| row | seeds | test {title} | valid {title} | test minus {reference}'s, paired "
        f"| epoch / {reference}'s | parameters |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in records["row"].unique():
        own = records[records["row"] == row].set_index("seed")
        common = own.index.intersection(base.index)
        difference, time = "", ""
        if len(common):
            times = own["seconds_per_epoch"][common] / base["seconds_per_epoch"][common]
            time = f"{times.median():.2f}"
        if len(common) and row != reference:
            difference = mean_and_deviation(list(own["test"][common] - base["test"][common]))
        lines.append(
            f"| {row} | {len(own)} | {mean_and_deviation(list(own['test']))} "
            f"| {mean_and_deviation(list(own['valid']))} | {difference} | {time} "
            f"| {own['parameters'].iloc[0]:,} |"
        )
    return "\n".join(lines) + "\n"


def picture(records: pd.DataFrame, curves: pd.DataFrame, about: dict[str, Any]) -> Figure:
    """Valid score over epochs (mean over seeds), and test scores, a point a run."""
    drawing = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = drawing.subplots(1, 2)
    title, rows = TITLES[records["metric"].iloc[0]], list(records["row"].unique())
    for i, row in enumerate(rows):
        mean = curves[curves["row"] == row].groupby("epoch")["valid"].mean()
        left.plot(mean.index, mean, color=f"C{i}", ls="-" if i < 10 else "--", label=row)
    left.set(xlabel="epoch", title=f"valid {title}, mean over seeds")
    left.legend(fontsize=7)
    tests = records.groupby("row", sort=False)["test"]
    if about["axis"] is not None:
        settings = records.groupby("row", sort=False)["settings"].first().map(json.loads)
        x = settings.map(lambda s: s[about["axis"]])
        for row, values in tests:
            right.plot([x[row]] * len(values), values, "o", color="C0", alpha=0.5)
        right.plot(x, tests.mean(), "-", color="C0")
        right.set(xlabel=about["axis"].replace("_", " "), title=f"test {title}")
    else:
        for i, (_, values) in enumerate(tests):
            right.plot(values, [i] * len(values), "o", color=f"C{i}", alpha=0.6)
            right.plot(values.mean(), i, "|", color="k", markersize=16)
        right.set_yticks(range(len(rows)), rows)
        right.set(ylim=(len(rows) - 0.5, -0.5), title=f"test {title} (bar: mean)")
    for axes in (left, right):
        axes.grid(alpha=0.25)
    drawing.suptitle(f"{about['title']} Data: {records['data'].iloc[0]}", fontsize=9)
    return drawing


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    names = sorted(path.stem for path in STUDIES.glob("*.yaml"))
    parser = argparse.ArgumentParser(prog="python -m experiments.molpcba.ablations")
    parser.add_argument("study", choices=names, help="one of configs/ablations")
    parser.add_argument("--csv", help="molecules (default: the embedded set)")
    parser.add_argument("--data-name", help="name of the data; default: the file's")
    parser.add_argument("--split", choices=("random", "scaffold"), help="default: the data's own")
    parser.add_argument("--root", default="dataset", help="folder of prepared data")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each row (default: 3)")
    parser.add_argument("--epochs", type=int, help="in place of the study's own")
    parser.add_argument("--rows", nargs="+", help="only these rows")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, a thread each")
    parser.add_argument("--runs-dir", default="runs/ablations", help="folder of run folders")
    parser.add_argument("--out", type=Path, help="records (default: RUNS_DIR/STUDY)")
    parser.add_argument("--report", action="store_true", help="only remake the table of --out")
    return parser


def carry_out_study(arguments: argparse.Namespace) -> str:
    """Runs what is missing, collects the records, and reports; returns the table."""
    study = Study.read(arguments.study)
    unknown = set(arguments.rows or ()) - study.rows.keys()
    if unknown:
        raise UserError(f"--rows {' '.join(sorted(unknown))}: expected {' '.join(study.rows)}")
    common: dict[str, Any] = {"root": arguments.root, "runs_dir": arguments.runs_dir}
    common["data"] = "embedded" if arguments.csv is None else "auto"
    for key in ("csv", "data_name", "split", "epochs"):
        if getattr(arguments, key) is not None:
            common[key] = getattr(arguments, key)
    runs = [
        (row, config)
        for row, config in configurations(study, common, arguments.seeds)
        if arguments.rows is None or row in arguments.rows
    ]
    out = arguments.out or Path(arguments.runs_dir) / study.name
    if arguments.report:
        return report(out)
    failures = carry_out([config for _, config in runs], arguments.jobs)
    collect(study, runs, out)
    text = report(out)
    return text + "".join(f"\nfailed: {failure}" for failure in failures)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    try:
        print(carry_out_study(build_parser().parse_args(argv)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped: the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
