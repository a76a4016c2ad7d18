"""What needs processes of its own: the command as a user types it, kill -9, two processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from experiments.molpcba.folder import RunFolder

MODULE = [sys.executable, "-m", "experiments.molpcba"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def call(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MODULE, *flags], capture_output=True, text=True, timeout=300, env=ENVIRONMENT
    )


def metrics(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "metrics.csv").filter(regex="^(?!.*seconds$)")


def wait_for_rows(path: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    """Waits until the run has recorded ``count`` epochs."""
    end = time.monotonic() + 240
    while not path.exists() or len(path.read_text().splitlines()) <= count:
        assert process.poll() is None, "the run ended before it was to be killed"
        assert time.monotonic() < end
        time.sleep(0.02)


def test_killed_and_resumed_equals_uninterrupted(tiny_flags, tiny_data, tmp_path):
    runs = tmp_path / "runs"
    flags = [*tiny_flags, "--epochs", "30", "--dropout", "0.2"]
    whole = call(*flags, "--name", "whole")
    assert whole.returncode == 0, whole.stderr
    assert "Traceback" not in whole.stderr
    assert "Warning" not in whole.stderr
    process = subprocess.Popen(
        [*MODULE, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT
    )
    wait_for_rows(runs / "run" / "metrics.csv", 3, process)
    process.kill()
    process.wait()
    assert not (runs / "run" / "results.json").exists()
    resumed = call(*flags, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    pd.testing.assert_frame_equal(metrics(runs / "run"), metrics(runs / "whole"), check_exact=True)


def test_two_processes_train_like_one_with_the_doubled_batch(tiny_flags, tiny_data, tmp_path):
    """Losses, scores and weights over 20 steps, with EA both ways, BatchNorm and uneven batches."""
    flags = [*tiny_flags, "--local", "ea", "--virtual-node", "--dropout", "0", "--precision", "64"]
    flags += ["--accelerator", "cpu", "--epochs", "4"]
    two = call(*flags, "--devices", "2", "--batch-size", "8", "--name", "two")
    one = call(*flags, "--batch-size", "16", "--name", "one")
    assert two.returncode == one.returncode == 0, two.stderr + one.stderr
    frames = [metrics(tmp_path / "runs" / name) for name in ("one", "two")]
    assert frames[0]["step"].iloc[-1] >= 20
    pd.testing.assert_frame_equal(*frames, check_exact=False, rtol=1e-5, atol=1e-8)
    states = [
        torch.load(RunFolder(tmp_path / "runs" / name).last, weights_only=True)["state_dict"]
        for name in ("one", "two")
    ]
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize(
    "module", ["experiments.molpcba", "experiments.molpcba.summary", "experiments.studies"]
)
def test_help_is_there(module):
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], capture_output=True, text=True, env=ENVIRONMENT
    )
    assert done.returncode == 0
    assert module in done.stdout
