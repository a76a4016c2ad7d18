"""Kill -9 at random moments of a run's life, and go on: the end is that of an undisturbed run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd

DRIVER = Path(__file__).with_name("kill_runs.py")
ROOT = DRIVER.parents[2]
SEED, KILLS = 0, 20
SCORES = ("valid", "test", "best_epoch", "epochs")


def outcome(life: Path) -> tuple[dict[str, object], pd.DataFrame]:
    """Scores and the history of epochs, without times."""
    folder = life / "runs" / "run"
    results = json.loads((folder / "results.json").read_text())
    history = pd.read_csv(folder / "metrics.csv").filter(regex="^(?!.*seconds$)")
    return {key: results[key] for key in SCORES}, history


def test_twenty_kills_change_nothing(tiny_csv, tmp_path):
    base = tmp_path / "kills"
    command = [sys.executable, str(DRIVER), str(tiny_csv), str(base), str(SEED), str(KILLS)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout.splitlines()[-1])
    kills = [phase for life in report["lives"] for phase, _ in life]
    assert len(kills) == KILLS
    assert set(kills) == {"preparation", "training", "evaluation", "checkpointing", "results"}
    assert set(report["ends"]) == {0}  # calls that were not killed ended well
    scores, history = outcome(base / "whole")
    lives = sorted(base.glob("life-*"))
    assert len(lives) == len(report["lives"])
    for life in lives:
        own, epochs = outcome(life)
        assert own == scores, life.name
        pd.testing.assert_frame_equal(epochs, history, check_exact=True)
