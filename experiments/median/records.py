"""Records of the study on disk, one JSON file a run, each written at once or not at all."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.median.config import Config, UserError
from experiments.median.training import Outcome, Trial

PACKAGES = ("torch", "torch_geometric")


def run_path(config: Config, trial: Trial, tuning: bool) -> Path:
    """Where the record of a run lies."""
    if tuning:
        return Path(config.results) / "tuning" / f"{trial.method}-lr{trial.learning_rate:g}.json"
    return Path(config.results) / "runs" / f"{trial.method}-seed{trial.seed}.json"


def load_run(path: Path, config: Config, trial: Trial) -> dict[str, Any] | None:
    """The record at ``path``, or None if that run is still to be made.

    Raises:
        UserError: if the record belongs to other settings, or is not a record.
    """
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text())
        saved = {**record["config"], **{key: record[key] for key in asdict(trial)}}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: got no record of a run, delete it to run it again") from error
    expected = {**config.shared(), **asdict(trial)}
    differing = [key for key in expected if saved.get(key) != expected[key]]
    if differing:
        key = differing[0]
        raise UserError(
            f"{path}: got a run with {key} {saved.get(key)}, expected {expected[key]}; "
            "choose another --results folder or delete that one"
        )
    return record


def save_run(path: Path, config: Config, trial: Trial, outcome: Outcome) -> dict[str, Any]:
    """Writes the record of a finished run and returns it."""
    record = {
        **asdict(trial),
        "final_mse": outcome.curve[-1][1],
        "best_mse": min(error for _, error in outcome.curve),
        "curve": [list(point) for point in outcome.curve],
        "parameters": outcome.parameters,
        "seconds": round(outcome.seconds, 1),
        "config": config.shared(),
        "environment": environment(),
    }
    write(path, json.dumps(record, indent=1) + "\n")
    return record


def write(path: Path, text: str) -> None:
    """Writes a file under another name first, so that no reader sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text)
    draft.replace(path)


def read_runs(folder: Path) -> list[dict[str, Any]]:
    """All records of reported runs in ``folder``.

    Raises:
        UserError: if there are none.
    """
    runs = [json.loads(path.read_text()) for path in sorted((folder / "runs").glob("*.json"))]
    if not runs:
        raise UserError(f"{folder}: got no runs, expected runs/*.json; run the study first")
    return runs


def curves(runs: list[dict[str, Any]]) -> pd.DataFrame:
    """One row for each evaluation: method, seed, step, mse."""
    rows = [(r["method"], r["seed"], step, mse) for r in runs for step, mse in r["curve"]]
    return pd.DataFrame(rows, columns=["method", "seed", "step", "mse"])


def environment() -> dict[str, str]:
    """Versions, processor and revision, for the record."""
    found = {name: version(name) for name in PACKAGES}
    return {**found, "python": platform.python_version(), "revision": _revision()}


def _revision() -> str:
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
        here = Path(__file__).parent
        return subprocess.run(
            command, cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown (not a git checkout)"
