"""Runs started at once in one folder: one of them runs, the others are refused in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).with_name("race_runs.py")
ROOT = DRIVER.parents[2]


@pytest.mark.parametrize("processes", [2, 4])
def test_one_of_several_runs_gets_the_folder(tiny_csv, tmp_path, processes):
    command = [sys.executable, str(DRIVER), str(tiny_csv), str(tmp_path / "races"), "4"]
    done = subprocess.run(
        [*command, str(processes)], cwd=ROOT, capture_output=True, text=True, timeout=600,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    rounds = json.loads(done.stdout.splitlines()[-1])
    assert len(rounds) == 4
    assert not [wrong for own in rounds for wrong in own["wrong"]], rounds
    assert any(2 in own["codes"] for own in rounds)
