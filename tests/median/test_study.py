"""The command writes its records, goes on where it stopped, and reports from records alone."""

import json
from pathlib import Path

import pandas as pd
import pytest

from experiments.median import study
from experiments.median.__main__ import main
from experiments.median.study import report

TINY = [
    *("--steps", "4", "--tuning_steps", "2", "--evaluations", "2", "--seeds", "2"),
    *("--batch_size", "2", "--embedding", "16", "--parameters", "5000", "--test_sets", "10"),
    *("--learning_rates", "[1e-3, 1e-2]", "--methods", "[ea, mean]"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    assert main([*TINY, "--results", str(folder)]) == 0
    return folder


def stamps(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.glob("*/*.json")}


def test_every_run_leaves_a_record(finished):
    runs = {path.name for path in (finished / "runs").iterdir()}
    assert runs == {f"{name}-seed{seed}.json" for name in ("ea", "mean") for seed in (0, 1)}
    assert len(list((finished / "tuning").iterdir())) == 4
    record = json.loads((finished / "runs" / "ea-seed1.json").read_text())
    assert [step for step, _ in record["curve"]] == [2, 4]
    assert record["final_mse"] == record["curve"][-1][1]
    assert set(record["environment"]) == {"torch", "torch_geometric", "python", "revision"}
    assert record["config"]["batch_size"] == 2


def test_the_rate_is_the_best_of_the_tuning_runs(finished):
    trials = [json.loads(p.read_text()) for p in (finished / "tuning").glob("mean-*")]
    best = min(trials, key=lambda trial: trial["final_mse"])["learning_rate"]
    assert json.loads((finished / "runs" / "mean-seed0.json").read_text())["learning_rate"] == best


def test_a_second_call_runs_nothing(finished, monkeypatch, capsys):
    before = stamps(finished)
    monkeypatch.setattr(study, "train", None)
    assert main([*TINY, "--results", str(finished)]) == 0
    assert stamps(finished) == before
    assert "EA, learned potential" in capsys.readouterr().out


def test_only_what_is_missing_is_run(finished):
    lost = finished / "runs" / "mean-seed1.json"
    content = json.loads(lost.read_text())
    lost.unlink()
    before = stamps(finished)
    assert main([*TINY, "--results", str(finished)]) == 0
    assert {path for path in stamps(finished) if path not in before} == {lost}
    assert {path: t for path, t in stamps(finished).items() if path != lost} == before
    assert json.loads(lost.read_text())["curve"] == content["curve"]


def test_an_interruption_leaves_no_half_record(tmp_path, monkeypatch):
    def stop(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "train", stop)
    assert main([*TINY, "--results", str(tmp_path / "out")]) == 130
    assert not (tmp_path / "out").exists()


def test_other_settings_are_not_mixed_in(finished, capsys):
    assert main([*TINY, "--results", str(finished), "--batch_size", "3"]) == 2
    error = capsys.readouterr().err
    assert "got a run with batch_size 2, expected 3" in error
    assert error.count("\n") == 1


def test_the_report_comes_from_the_records_alone(finished, capsys):
    table, curves = report(finished), (finished / "curves.csv").read_text()
    for name in ("curves.csv", "summary.json", "curves.png"):
        (finished / name).unlink()
    assert main(["--report", "--results", str(finished)]) == 0
    assert capsys.readouterr().out.strip() == table.strip()
    assert (finished / "curves.csv").read_text() == curves
    assert (finished / "curves.png").stat().st_size > 10_000


def test_the_summary_averages_over_seeds(finished):
    report(finished)
    summary = json.loads((finished / "summary.json").read_text())["methods"]
    frame = pd.read_csv(finished / "curves.csv")
    last = frame[frame["step"] == 4].groupby("method")["mse"]
    for name, row in summary.items():
        assert row["mse"] == pytest.approx(last.mean()[name])
        assert row["std"] == pytest.approx(last.std()[name])
        assert row["ratio"] == pytest.approx(row["mse"] / last.mean()["mean"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "[ea, foo]"], "got 'foo', expected some of ea, ea_quantile"),
        (["--seeds", "0"], "seeds: got 0, expected 1 or more"),
        (["--evaluations", "0"], "evaluations: got 0, expected 1 to"),
        (["--steps", "many"], "Got value: many"),
        (["--config", "absent.yaml"], "absent.yaml"),
        (["--report", "--results", "absent"], "absent: got no runs"),
    ],
)
def test_mistakes_are_one_line(words, message, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
