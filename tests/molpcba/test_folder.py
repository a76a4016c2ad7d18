"""The run folder: its owner, which run --resume means, longer training, messages to the user."""

from __future__ import annotations

import json
import shlex
import time

import pandas as pd
import pytest
import yaml

from experiments import common
from experiments.molpcba import __main__ as program
from experiments.molpcba.__main__ import main, plot_run
from experiments.molpcba.folder import RunFolder
from experiments.molpcba.training import MoleculeTraining
from tests.molpcba.test_run import fails, interrupt_at


@pytest.fixture
def runs(tmp_path):
    return tmp_path / "runs"


@pytest.fixture
def resume(runs):
    """Calls the command with --resume and, of all settings, the folder of runs alone."""
    return lambda *flags: main(["--runs-dir", str(runs), "--resume", *flags])


def epochs(runs, name="run") -> list[int]:
    return pd.read_csv(runs / name / "metrics.csv")["epoch"].tolist()


@pytest.mark.parametrize("flags", [[], ["--resume"]])
def test_a_folder_that_another_process_holds_is_refused(command, runs, capsys, flags):
    if flags:
        assert command() == 0
    with common.owned(runs / "run", "--name"):
        message = fails(command, capsys, *flags)
    assert f"another process is at work in {runs / 'run'}" in message
    assert "--name" in message
    assert command(*flags) == 0  # a lock left behind is no obstacle


def test_an_interrupted_run_says_how_to_go_on(command, runs, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        interrupt_at(patch, step=12)
        assert command("--name", "my run") == 130
    line = capsys.readouterr().err.splitlines()[-1]
    words = shlex.split(line.partition("continue with: ")[2])
    assert words[:3] == ["python", "-m", "experiments.molpcba"]
    assert main(words[3:]) == 0
    assert epochs(runs, "my run") == [0, 1, 2, 3]


def test_interrupted_seeds_go_on_with_all_of_them(command, runs, monkeypatch, capsys):
    original = MoleculeTraining.training_step

    def training_step(self, batch, index):
        if self.config.seed == 1:
            raise KeyboardInterrupt
        return original(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(MoleculeTraining, "training_step", training_step)
        assert command("--seeds", "3", "--epochs", "2") == 130
    line = capsys.readouterr().err.splitlines()[-1]
    assert main(shlex.split(line.partition("experiments.molpcba")[2])) == 0
    assert {path.parent.name for path in runs.glob("*/results.json")} == {
        "run-seed0", "run-seed1", "run-seed2",
    }  # fmt: skip
    assert epochs(runs, "run-seed2") == [0, 1]


def test_resume_without_flags_goes_on_with_the_last_run(command, resume, runs, monkeypatch, capsys):
    assert command("--name", "older") == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, step=12)
        assert command("--readout", "mean") == 130
    capsys.readouterr()
    assert resume() == 0
    assert f"resuming {runs / 'run'}" in capsys.readouterr().out
    assert epochs(runs) == [0, 1, 2, 3]


def test_resume_with_flags_goes_on_with_the_last_run_that_has_them(command, resume, runs, capsys):
    assert command("--name", "older", "--readout", "mean", "--epochs", "1") == 0
    time.sleep(0.02)
    assert command("--epochs", "1") == 0
    assert resume("--readout", "mean", "--epochs", "2") == 0
    assert f"resuming {runs / 'older'}" in capsys.readouterr().out
    assert (epochs(runs, "older"), epochs(runs)) == ([0, 1], [0])
    assert resume("--readout", "max") == 2
    assert f"no run in {runs} has these settings" in capsys.readouterr().err
    assert resume("--name", "none") == 2
    assert "has no run to resume" in capsys.readouterr().err
    assert not (runs / "none").exists()


def test_a_finished_run_is_extended_and_its_schedule_said(
    command, resume, runs, monkeypatch, capsys
):
    assert command("--schedule", "cosine") == 0
    before = pd.read_csv(runs / "run" / "metrics.csv")
    with monkeypatch.context() as patch:
        interrupt_at(patch, step=before["step"].iloc[-1] + 1)
        assert resume("--epochs", "6") == 130
    out = capsys.readouterr().out
    assert "note: 6 epochs instead of 4, 4 are done; from here on the learning rate is" in out
    assert not (runs / "run" / "results.json").exists()  # it is no longer finished
    assert resume() == 0  # to six epochs, which the folder knows
    after = pd.read_csv(runs / "run" / "metrics.csv")
    assert after["epoch"].tolist() == list(range(6))
    pd.testing.assert_frame_equal(after[:4], before)
    assert before["lr"].iloc[-1] < 1e-4 < after["lr"].iloc[4]
    assert yaml.safe_load((runs / "run" / "config.yaml").read_text())["epochs"] == 6
    assert json.loads((runs / "run" / "results.json").read_text())["epochs"] == 6
    assert resume("--epochs", "2") == 2
    assert "has 6 epochs already" in capsys.readouterr().err


def test_the_end_of_a_run_names_the_next_commands(command, runs, capsys):
    assert command() == 0
    out = capsys.readouterr().out
    assert str(runs / "run" / "learning.png") in out
    for start in ("predict --checkpoint", "summary"):
        assert f"python -m experiments.molpcba.{start} {runs}" in out
    words = shlex.split(out.splitlines()[-1].partition("experiments.molpcba")[2])
    assert main(words) == 0
    assert epochs(runs) == list(range(8))


def test_the_picture_has_words_and_axes_that_do_not_exaggerate(command, runs, monkeypatch):
    assert command("--local", "ea") == 0
    drawn = []
    monkeypatch.setattr(
        program, "save_picture", lambda path, draw, *given: drawn.append(draw(*given))
    )
    plot_run(RunFolder(runs / "run"))
    panels = {axes.get_title(): axes for axes in drawn[0].axes}
    assert list(panels) == [
        "loss", "AP", "inner step size", "inner momentum", "weight of ||y||²",
    ]  # fmt: skip
    labels = {name: axes.get_legend_handles_labels()[1] for name, axes in panels.items()}
    assert labels["AP"] == ["valid", "best epoch", "best constant"]
    assert labels["inner momentum"] == ["layer 1", "layer 2", "readout"]
    low, high = panels["inner momentum"].get_ylim()
    assert high - low > 0.15
    assert program.plot_run is not plot_run  # left out of the other tests
