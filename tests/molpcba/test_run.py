"""Whole runs through the command line: records, interruption, resumption, mistakes."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
from pathlib import Path

import lightning as L
import pandas as pd
import pytest
import torch
import yaml
from joblib.externals.loky.process_executor import TerminatedWorkerError

from experiments.molpcba.__main__ import main, plot_run
from experiments.molpcba.config import parse
from experiments.molpcba.fitting import History
from experiments.molpcba.folder import RunFolder
from experiments.molpcba.training import MoleculeTraining, score


@pytest.fixture
def run_folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "runs" / "run")


def metrics(folder: RunFolder) -> pd.DataFrame:
    return pd.read_csv(folder.metrics).filter(regex="^(?!.*seconds$)")


def weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    return torch.load(folder.best, weights_only=True)["state_dict"]


def assert_same_run(one: RunFolder, other: RunFolder) -> None:
    """Every recorded figure and the best weights are equal, bit for bit."""
    pd.testing.assert_frame_equal(metrics(one), metrics(other), check_exact=True)
    for name, value in weights(one).items():
        assert torch.equal(value, weights(other)[name]), name
    outcomes = [json.loads(f.results.read_text()) for f in (one, other)]
    for key in ("best_epoch", "valid", "test"):
        assert outcomes[0][key] == outcomes[1][key], key


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int, number: int = signal.SIGINT) -> None:
    """Sends the signal to this process in training step number ``step``."""
    original = MoleculeTraining.training_step

    def training_step(self, batch, index):
        if self.global_step == step:
            os.kill(os.getpid(), number)
        return original(self, batch, index)

    monkeypatch.setattr(MoleculeTraining, "training_step", training_step)


def test_a_run_leaves_its_records(command, run_folder, tiny_data, capsys):
    assert command() == 0
    results = json.loads(run_folder.results.read_text())
    rows = pd.read_csv(run_folder.metrics)
    assert len(rows) == results["epochs"] == 4
    best = rows["valid_ap"].idxmax()
    assert results["best_epoch"] == best
    assert results["valid"] == pytest.approx(rows["valid_ap"][best], abs=1e-12)
    assert 0 <= results["test"] <= 1
    assert results["data"]["fingerprint"] == tiny_data.fingerprint
    assert results["data"]["name"] == "tiny"
    assert results["versions"]["torch"] == torch.__version__
    assert {f.name for f in run_folder.path.iterdir()} == {
        ".lock", "checkpoints", "config.yaml", "metrics.csv", "results.json", "tensorboard",
    }  # fmt: skip
    out = capsys.readouterr().out
    assert f"test {results['test']:.4f}" in out
    assert "tiny" in out


def test_the_saved_configuration_repeats_the_run(command, run_folder, tmp_path):
    assert command() == 0
    assert command("--config", str(run_folder.config), "--name", "again") == 0
    assert_same_run(run_folder, RunFolder(tmp_path / "runs" / "again"))


def test_test_score_is_that_of_the_best_checkpoint(command, run_folder, tiny_data):
    assert command() == 0
    config = parse(["--config", str(run_folder.config)])
    module = MoleculeTraining(config, tiny_data)
    module.load_state_dict(weights(run_folder))
    batch = tiny_data.graphs.batch(tiny_data.splits["test"])
    with torch.no_grad():
        value = score("ap", batch.y, module.eval().network(batch))
    assert json.loads(run_folder.results.read_text())["test"] == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_and_resumed_equals_uninterrupted(
    command, run_folder, tmp_path, monkeypatch, capsys, number
):
    before = signal.getsignal(number)
    assert command("--name", "whole", "--dropout", "0.3") == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, step=12, number=number)
        assert command("--dropout", "0.3") == 128 + number
    assert "--resume" in capsys.readouterr().err
    assert len(metrics(run_folder)) == 2
    assert not run_folder.results.exists()
    assert signal.getsignal(number) is before
    assert command("--dropout", "0.3", "--resume") == 0
    assert_same_run(run_folder, RunFolder(tmp_path / "runs" / "whole"))


def test_interrupted_before_the_first_epoch_ends(command, run_folder, tmp_path, monkeypatch):
    assert command("--name", "whole") == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, step=2)
        assert command() == 130
    assert not run_folder.results.exists()
    assert command("--resume") == 0
    assert_same_run(run_folder, RunFolder(tmp_path / "runs" / "whole"))


def test_resume_by_name_needs_no_other_flags(command, tiny_flags, run_folder, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_at(patch, step=6)
        assert command() == 130
    where = ["--name", "run", "--runs-dir", tiny_flags[tiny_flags.index("--runs-dir") + 1]]
    assert main([*where, "--resume"]) == 0
    assert len(metrics(run_folder)) == 4


def test_a_finished_run_goes_on_with_more_epochs(command, run_folder, tmp_path):
    constant = ("--schedule", "constant")
    assert command(*constant, "--name", "whole", "--epochs", "6") == 0
    assert command(*constant) == 0
    assert command(*constant, "--resume", "--epochs", "6") == 0
    assert_same_run(run_folder, RunFolder(tmp_path / "runs" / "whole"))


def test_weight_average_resumes_too(command, run_folder, tmp_path, monkeypatch):
    assert command("--ema", "0.9", "--name", "whole") == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, step=12)
        assert command("--ema", "0.9") == 130
    assert command("--ema", "0.9", "--resume") == 0
    assert_same_run(run_folder, RunFolder(tmp_path / "runs" / "whole"))


@pytest.mark.parametrize("clip", [[], ["--gradient-clip", "0.1"]])
@pytest.mark.parametrize("precision", ["32", "bf16", "64"])
def test_every_precision_trains_with_and_without_clipping(command, run_folder, precision, clip):
    assert command("--precision", precision, *clip) == 0
    loss = metrics(run_folder)["train_loss"]
    assert loss.iloc[-1] < loss.iloc[0]


@pytest.mark.parametrize("damage", ["truncated", "garbage", "one byte"])
def test_a_damaged_checkpoint_says_what_to_do(
    command, run_folder, tmp_path, monkeypatch, capsys, damage
):
    assert command("--name", "whole") == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, step=12)
        assert command() == 130
    content = run_folder.last.read_bytes()
    middle = len(content) // 2
    damaged = {
        "truncated": content[:middle],
        "garbage": b"x" * len(content),
        "one byte": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
    }
    run_folder.last.write_bytes(damaged[damage])
    message = fails(command, capsys, "--resume")
    assert "last.ckpt is damaged" in message
    assert "copy best.ckpt over" in message
    assert "delete it to repeat the run" in message
    shutil.copy(run_folder.best, run_folder.last)
    assert command("--resume") == 0
    assert_same_run(run_folder, RunFolder(tmp_path / "runs" / "whole"))


class Killed(BaseException):
    """Ends a run at once, as a kill does; nothing catches it."""


def test_killed_before_the_last_row_is_written(command, run_folder, tmp_path, monkeypatch):
    assert command("--name", "whole") == 0
    original = History.publish

    def publish(self, trainer):
        if len(self.rows) == 4:
            raise Killed
        original(self, trainer)

    with monkeypatch.context() as patch:
        patch.setattr(History, "publish", publish)
        with pytest.raises(Killed):
            command()
    assert len(metrics(run_folder)) == 3
    assert command("--resume") == 0
    assert_same_run(run_folder, RunFolder(tmp_path / "runs" / "whole"))


def test_killed_while_the_test_part_is_scored(command, tmp_path, monkeypatch):
    """Such a run is not finished yet, also for --seeds."""
    flags = ("--seeds", "1", "--name", "run-seed0")

    def test_step(self, batch, step):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(MoleculeTraining, "test_step", test_step)
        with pytest.raises(Killed):
            command(*flags)
    folder = RunFolder(tmp_path / "runs" / "run-seed0")
    assert not folder.results.exists()
    assert command("--seeds", "2", "--name", "run", "--resume") == 0
    assert folder.results.exists()
    assert json.loads(folder.results.read_text())["test"] is not None


def test_a_damaged_best_checkpoint_says_what_to_do(command, run_folder, capsys):
    flags = ("--lr", "1e-9", "--ea-lr", "1e-9", "--epochs", "30", "--dropout", "0")
    assert command(*flags) == 0
    assert json.loads(run_folder.results.read_text())["best_epoch"] < 29
    run_folder.best.write_bytes(run_folder.best.read_bytes()[:1000])
    message = fails(command, capsys, *flags, "--resume")
    assert "best.ckpt is damaged" in message
    assert "repeat the run under another --name" in message


def fails(command, capsys, *flags: str) -> str:
    """The one line of a user's mistake."""
    capsys.readouterr()
    assert command(*flags) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    last = error.splitlines()[-1]  # progress bars stand before it
    assert last.startswith("error: ")
    return last


def test_mistakes_leave_nothing_behind(command, tmp_path, capsys):
    assert "--steps: 0 is not >0" in fails(command, capsys, "--steps", "0")
    assert "--bogus" in fails(command, capsys, "--bogus")
    assert "gone.csv" in fails(command, capsys, "--csv", "gone.csv")
    assert "has no run to resume" in fails(command, capsys, "--resume")
    assert not (tmp_path / "runs").exists()


def test_a_runs_folder_that_cannot_be_written(command, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    message = fails(command, capsys, "--runs-dir", str(tmp_path / "file" / "runs"))
    assert "choose another folder (--runs-dir" in message


def test_a_name_that_is_taken(command, run_folder, tmp_path, capsys):
    assert command() == 0
    run_folder.config.unlink()  # its other files are still there
    mine = tmp_path / "runs" / "mine" / "results.json"
    mine.parent.mkdir()
    mine.write_text("mine")
    for name in ("run", "mine"):
        message = fails(command, capsys, "--name", name)
        assert f"{name} already has a run or other files" in message
        assert "--resume" in message
        assert "--name" in message
    assert mine.read_text() == "mine"


def test_resuming_with_other_settings_or_data(command, tiny_csv, tmp_path, capsys):
    assert command() == 0
    message = fails(command, capsys, "--resume", "--lr", "0.5")
    assert "was started with --lr 0.01, not 0.5" in message
    shorter = tmp_path / tiny_csv.name
    shorter.write_text("\n".join(tiny_csv.read_text().splitlines()[:-5]) + "\n")
    message = fails(command, capsys, "--resume", "--csv", str(shorter))
    assert "was trained on other data" in message


def test_a_loss_that_is_not_finite_stops_the_run(command, run_folder, capsys):
    message = fails(command, capsys, "--lr", "1e18", "--readout", "sum", "--epochs", "9")
    assert "not finite" in message
    assert "--lr" in message


@pytest.mark.parametrize(
    ("error", "way_out"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "lower --batch-size, or train with"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "--adjoint checkpointed"),
        (TerminatedWorkerError("unexpectedly terminated"), "a worker process died"),
    ],
)
def test_out_of_memory_says_what_to_do(command, monkeypatch, capsys, error, way_out):
    def training_step(self, batch, index):
        raise error

    monkeypatch.setattr(MoleculeTraining, "training_step", training_step)
    assert way_out in fails(command, capsys)


def test_a_full_disk_keeps_the_last_checkpoint(command, run_folder, tmp_path, monkeypatch, capsys):
    assert command("--name", "whole") == 0
    original_save = L.Trainer.save_checkpoint

    def save_checkpoint(self, path, *args):
        if self.current_epoch == 2:
            raise OSError(28, "No space left on device")
        original_save(self, path, *args)

    with monkeypatch.context() as patch:
        patch.setattr(L.Trainer, "save_checkpoint", save_checkpoint)
        assert "No space left" in fails(command, capsys)
    assert command("--resume") == 0
    assert_same_run(run_folder, RunFolder(tmp_path / "runs" / "whole"))


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_a_disk_that_fills_up_while_a_checkpoint_is_written(
    command, run_folder, tmp_path, monkeypatch, capsys, share
):
    """A limit on file size makes writing fail as a full disk does."""
    assert command("--name", "whole") == 0
    room = int(share * RunFolder(tmp_path / "runs" / "whole").last.stat().st_size)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    original = MoleculeTraining.on_save_checkpoint

    def on_save_checkpoint(self, checkpoint):
        original(self, checkpoint)
        if self.current_epoch == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, limit[1]))

    try:
        with monkeypatch.context() as patch:
            patch.setattr(MoleculeTraining, "on_save_checkpoint", on_save_checkpoint)
            message = fails(command, capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "writing failed" in message
    assert "--resume" in message
    assert command("--resume") == 0
    assert_same_run(run_folder, RunFolder(tmp_path / "runs" / "whole"))


def test_closed_streams(command, run_folder, monkeypatch):
    monkeypatch.setattr("sys.stdout", None)  # as after >&- 2>&-
    monkeypatch.setattr("sys.stderr", None)
    assert command() == 0
    sys.stdout.close()
    sys.stderr.close()
    assert run_folder.results.exists()


def test_ea_has_a_learning_rate_of_its_own(command, run_folder):
    assert command("--ea-lr", "1e-7") == 0
    rows = pd.read_csv(run_folder.metrics)
    step_sizes = rows["readout_step_size"]
    assert (step_sizes - step_sizes[0]).abs().max() < 1e-5  # Adam moves by the rate, at most
    assert (rows["lr"] > 1e-4)[:-1].all()
    assert rows["train_loss"].iloc[-1] < rows["train_loss"][0] - 0.01  # the others learn


def test_divergence_is_reported_once(command, run_folder, capsys):
    assert command("--inner-lr", "30", "--inner-gtol", "0", "--epochs", "3") == 0
    out = capsys.readouterr().out
    assert out.count("the inner loop of readout diverged") == 1
    assert (pd.read_csv(run_folder.metrics)["readout_diverged"] > 0).all()


def test_figure_c1_comes_from_the_records_alone(command, run_folder):
    assert command("--local", "ea") == 0
    plot_run(run_folder)
    assert (run_folder.path / "learning.png").stat().st_size > 10_000


def test_config_file_is_readable_yaml(command, run_folder):
    assert command() == 0
    saved = yaml.safe_load(run_folder.config.read_text())
    assert (saved["steps"], saved["eval_steps"], saved["width"]) == (3, 3, 16)
