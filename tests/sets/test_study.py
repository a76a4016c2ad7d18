"""Both commands write records, continue where they stopped, and report from records alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

pytest.importorskip("sklearn")

from experiments import counting, median
from experiments.records import Records
from experiments.report import main as report
from experiments.sets import model

TINY = [
    *("--steps", "4", "--tuning-steps", "2", "--evaluations", "2", "--seeds", "2"),
    *("--batch-size", "2", "--test-sets", "10"),
    *("--norms", "[output]", "--learning-rates", "[1e-3]"),
    *("--methods", "[ea, mean]", "--out", "results"),
]
RUNS = [("ea", 0), ("ea", 1), ("mean", 0), ("mean", 1)]


@pytest.fixture(params=[median, counting], ids=["median", "counting"])
def call(request, tmp_path, monkeypatch):
    """Calls the tiny study in ``tmp_path``."""
    monkeypatch.chdir(tmp_path)
    return lambda *flags: request.param.main([*TINY, *flags])


def test_every_run_leaves_a_record_with_the_best_rate(call, tmp_path, capsys):
    assert call() == 0
    records = Records(tmp_path / "results")
    assert list(zip(records.runs["row"], records.runs["seed"], strict=True)) == RUNS
    own = records.curves[(records.curves["row"] == "ea") & (records.curves["seed"] == 1)]
    assert own["epoch"].tolist() == [2, 4]
    assert own["test"].iloc[-1] == records.runs["test"][1]
    assert own["valid"].iloc[-1] == records.runs["valid"][1] != records.runs["test"][1]
    assert own[["train_loss", "gradient_norm", "inner_gradient"]].gt(0).all(axis=None)
    assert (own["inner_diverged"] == 0).all()
    for config in records.runs["config"].map(json.loads):
        assert (config["norm"], config["learning_rate"], config["steps"]) == ("output", 1e-3, 4)
    assert len(records.tuning) == 2
    assert (records.tuning["config"].map(json.loads).map(lambda own: own["steps"]) == 2).all()
    table = (tmp_path / "results" / "table.md").read_text()
    assert table in capsys.readouterr().out
    assert [line.split()[1] for line in table.splitlines()[4:6]] == ["ea", "mean"]
    for picture in ("outcome.png", "learning.png", "fit.png"):
        assert (tmp_path / "results" / picture).stat().st_size > 10_000


def test_only_what_is_missing_is_made_and_equals_what_was(call, tmp_path, monkeypatch, capsys):
    assert call() == 0
    path = tmp_path / "results" / "records.csv"
    before = pd.read_csv(path)
    table = (tmp_path / "results" / "table.md").read_text()
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(model, "Problem", None)
        assert call() == 0
        said = "all 6 runs are recorded in results: python -m experiments.report results"
        assert said in capsys.readouterr().out
        assert report(["results"]) == 0
        assert table in capsys.readouterr().out
    before.drop(index=1).to_csv(path, index=False)
    assert call() == 0
    times = ["train_seconds", "revision"]
    pd.testing.assert_frame_equal(pd.read_csv(path).drop(columns=times), before.drop(columns=times))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--methods", "[medain]"], "row medain: expected some of ea"),
        (["--methods", "[]"], "--methods is an empty list"),
        (["--methods", "ea,mean"], "--methods: Expected a list. Got value: ea,mean"),
        (["--norms", "[]"], "--norms is an empty list"),
        (["--learning-rates", "[]"], "--learning-rates is an empty list"),
        (["--learning-rates", "[0, 1e-3]"], "--learning-rates: 0 is not >0"),
        (["--seeds", "0"], "seeds"),
        (["--ea-rate", "0"], "ea-rate"),
        (["--nonsense", "1"], "nonsense"),
        (["--out", "/dev/null/out"], "choose another folder"),
    ],
)
def test_mistakes_are_one_line(call, capsys, flags, message):
    assert call(*flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_fewer_steps_than_evaluations_are_enough(call, tmp_path):
    assert call("--steps", "1", "--tuning-steps", "1", "--evaluations", "10") == 0
    assert (Records(tmp_path / "results").curves["epoch"] == 1).all()


def test_other_settings_are_refused(call, capsys):
    assert call() == 0
    assert call("--batch-size", "3") == 2
    assert "made with batch_size 2, not 3" in capsys.readouterr().err


def test_a_norm_is_tuned_beside_the_rate(call, tmp_path):
    rates = ["--learning-rates", "[1e-3, 1e-2]", "--norms", "[null, both]"]
    assert call(*rates, "--ea-rate", "0.2") == 0
    records = Records(tmp_path / "results")
    best = records.best_values(is_lower_better=True)
    for run in records.runs.itertuples():
        config = json.loads(run.config)
        chosen = {key: config.get(key) for key in ("norm", "learning_rate")}
        assert (chosen, config["ea_rate"]) == (best[run.row], 0.2)
        rates = [own["learning_rate"] for own in records.tried(run.row)]
        assert min(rates) < chosen["learning_rate"] < max(rates)


def test_a_budget_too_small_is_a_failure_and_the_others_go_on(call, tmp_path, capsys):
    size = ["--embedding", "32", "--parameters", "4500"]
    assert call(*size) == 1
    assert "got 4500, expected at least" in capsys.readouterr().err
    assert set(Records(tmp_path / "results").runs["row"]) == {"mean"}


def test_a_size_that_an_aggregator_cannot_have_is_a_failure(call, capsys):
    assert call("--embedding", "3", "--methods", "[pma, mean]") == 1
    error = capsys.readouterr().err
    assert "failed: pma-" in error
    assert "AssertionError, see" in error
    assert "Traceback" not in error


def test_two_at_a_time_as_a_process(tmp_path):
    command = [sys.executable, "-m", "experiments.counting", *TINY, "--jobs", "2"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(Records(tmp_path / "results").runs) == 4


@pytest.mark.parametrize("method", ["ea", "sum"])
def test_the_error_falls_below_that_of_a_constant(method, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["--steps", "60", "--batch-size", "8", "--learning-rates", "[5e-3]", "--seeds", "1"]
    flags += ["--norms", "[null]"]
    assert median.main([*TINY, *flags, "--test-sets", "100", "--methods", f"[{method}]"]) == 0
    # the medians' variance is about 0.05: two distributions around 0.5, one around 0.045
    assert Records(tmp_path / "results").runs["test"][0] < 0.025
