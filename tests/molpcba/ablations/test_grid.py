"""Making the runs of a study: what is recorded, going on after an interruption, and failures."""

from __future__ import annotations

import json
import os
import signal

import pandas as pd
import pytest

from experiments.molpcba.ablations import workers
from experiments.molpcba.ablations.records import Records, without_places
from experiments.molpcba.errors import UserError
from experiments.molpcba.training import MoleculeTraining
from tests.molpcba.ablations.tiny import RUNS, TINY, table


def test_records_are_those_of_the_runs(call, tmp_path, tiny_data, capsys):
    assert call() == 0
    assert "[6/6] ea-2, seed 1: valid AP" in capsys.readouterr().out
    records = Records.read(tmp_path / "out")
    assert list(zip(records.runs["row"], records.runs["seed"], strict=True)) == RUNS
    assert records.runs.groupby("seed")["fingerprint"].nunique().tolist() == [1, 1]
    assert records.runs["fingerprint"].nunique() == 2  # a seed has its own split
    for run in records.runs.itertuples():
        folder = tmp_path / "runs" / "tiny-on-tiny" / f"{run.row}-seed{run.seed}"
        results = json.loads((folder / "results.json").read_text())
        metrics = pd.read_csv(folder / "metrics.csv")
        for key in ("valid", "test", "best_epoch", "epochs", "parameters"):
            assert getattr(run, key) == pytest.approx(results[key]), key
        assert run.test == pytest.approx(metrics["test_ap"][run.best_epoch], abs=1e-6)
        assert run.test_last == pytest.approx(metrics["test_ap"][1:].mean())
        assert (metrics["train_seconds"] < metrics["seconds"]).all()
        config = json.loads(run.config)
        assert (config["seed"], config["split_seed"]) == (run.seed, run.seed)
        assert not {"csv", "root", "runs_dir", "name"} & config.keys()
        own = (records.curves["row"] == run.row) & (records.curves["seed"] == run.seed)
        curve = records.curves[own]
        assert curve["valid"].to_list() == pytest.approx(metrics["valid_ap"].to_list())
        assert curve["test"].to_list() == pytest.approx(metrics["test_ap"].to_list())


def test_finished_runs_are_taken_as_they_are(call, tmp_path, monkeypatch):
    assert call("--rows", "ea-1", "mean", "--seeds", "1") == 0
    before = (tmp_path / "out" / "records.csv").read_text().splitlines()
    made = []
    whole = workers.run

    def run(config):
        made.append(config.name)
        return whole(config)

    monkeypatch.setattr(workers, "run", run)
    assert call() == 0
    assert made == ["ea-2-seed0", "mean-seed1", "ea-1-seed1", "ea-2-seed1"]
    assert set(before) < set((tmp_path / "out" / "records.csv").read_text().splitlines())
    assert call() == 0
    (tmp_path / "out" / "records.csv").unlink()  # the run folders are still there
    assert call() == 0
    assert len(made) == 4
    assert len(Records.read(tmp_path / "out").runs) == 6


def test_runs_of_another_study_with_the_same_settings_serve_here_too(
    call, folder, tmp_path, monkeypatch, capsys
):
    assert call("--rows", "ea-1", "ea-2", "--seeds", "1") == 0
    other = TINY.replace("ea-1: {steps: 1}", "slow: {steps: 2}\n  slower: {steps: 4}")
    (folder / "other.yaml").write_text(other.replace("ea-2: {steps: 2}", ""))
    damaged = tmp_path / "runs" / "third-on-tiny" / "mean-seed0"
    damaged.mkdir(parents=True)
    (damaged / "results.json").write_text("{")  # is no obstacle
    made = []
    monkeypatch.setattr(workers, "run", lambda config: made.append(config.name))
    command = ["--out", str(tmp_path / "other"), "--seeds", "1"]
    assert call("--rows", "slow", *command, study="other") == 0
    assert made == []
    assert "slow-seed0: " in capsys.readouterr().out
    (run,) = Records.read(tmp_path / "other").runs.to_dict("records")
    (same,) = Records.read(tmp_path / "out").runs.query("row == 'ea-2'").to_dict("records")
    differ = {key for key in run if run[key] != same[key]}
    assert differ == {"study", "row"}
    call("--rows", "slower", *command, study="other")  # nothing has those settings
    assert made == ["slower-seed0"]


def test_what_ea_shares_with_the_rest_of_the_network_is_no_setting_of_a_run():
    network = {"lr": 0.1, "width": 8}
    assert without_places(network | {"ea_lr": 0.1, "ea_width": 8}) == network
    own = network | {"ea_lr": 0.01, "ea_width": 24}
    assert without_places(own | {"root": "here"}) == own


def test_interrupted_it_goes_on_to_the_same_records(call, tmp_path, monkeypatch, capsys):
    assert call("--out", str(tmp_path / "whole"), "--runs-dir", str(tmp_path / "others")) == 0
    original = MoleculeTraining.training_step

    def training_step(self, batch, index):
        if self.config.name == "ea-2-seed0" and self.global_step == 12:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(MoleculeTraining, "training_step", training_step)
        assert call() == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert len(Records.read(tmp_path / "out").runs) == 2
    assert len(pd.read_csv(tmp_path / "runs/tiny-on-tiny/ea-2-seed0/metrics.csv")) == 2
    assert call() == 0
    one, other = (Records.read(tmp_path / name) for name in ("out", "whole"))
    pd.testing.assert_frame_equal(one.curves, other.curves, check_exact=True)
    drop = ["train_seconds", "revision"]
    pd.testing.assert_frame_equal(one.runs.drop(columns=drop), other.runs.drop(columns=drop))


def test_a_failed_run_is_recorded_and_the_others_go_on(call, tmp_path, monkeypatch, capsys):
    whole = workers.run

    def run(config):
        if config.name == "ea-1-seed0":
            raise UserError("no luck")
        if config.name == "ea-1-seed1":
            raise ZeroDivisionError("a fault")
        return whole(config)

    with monkeypatch.context() as patch:
        patch.setattr(workers, "run", run)
        assert call() == 1
    error = capsys.readouterr().err
    assert "failed: ea-1, seed 0: no luck" in error
    assert "failed: ea-1, seed 1: ZeroDivisionError, see" in error
    log = tmp_path / "runs" / "tiny-on-tiny" / "ea-1-seed1.log"
    assert "a fault" in log.read_text()
    records = Records.read(tmp_path / "out")
    assert set(records.runs["row"]) == {"mean", "ea-2"}
    assert call() == 0  # tried again
    cells = table(tmp_path / "out" / "table.md")
    assert cells["seeds"].to_list() == ["2", "2", "2"]
    assert not (tmp_path / "out" / "failures.csv").exists()
