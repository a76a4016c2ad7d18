"""The command writes its records, continues where it stopped, and reports from records alone."""

import pandas as pd
import pytest

from experiments.median import __main__ as program
from experiments.median.__main__ import main
from experiments.studies.records import Records

TINY = [
    *("--steps", "4", "--tuning_steps", "2", "--evaluations", "2", "--seeds", "2"),
    *("--batch_size", "2", "--embedding", "16", "--parameters", "5000", "--test_sets", "10"),
    *("--learning_rates", "[1e-3, 1e-2]", "--methods", "[ea, mean]"),
]


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Calls the tiny study; its records lie in ``results``."""
    monkeypatch.chdir(tmp_path)
    return lambda *flags: main([*TINY, "--results", "results", *flags])


def test_every_run_leaves_a_record_with_the_best_rate(study, tmp_path, capsys):
    assert study() == 0
    records = Records(tmp_path / "results", lower=True)
    runs = sorted(zip(records.runs["row"], records.runs["seed"], strict=True))
    assert runs == [("ea", 0), ("ea", 1), ("mean", 0), ("mean", 1)]
    assert len(records.tuning) == 4
    own = records.curves[(records.curves["row"] == "ea") & (records.curves["seed"] == 1)]
    assert own["epoch"].tolist() == [2, 4]
    last = records.runs[(records.runs["row"] == "ea") & (records.runs["seed"] == 1)]
    assert last["test"].iloc[0] == own["test"].iloc[-1]
    for row in ("ea", "mean"):
        tried = records.tuning[records.tuning["row"] == row]
        best = tried.loc[tried["valid_last"].idxmin(), "value"]
        configs = records.runs["config"][records.runs["row"] == row]
        assert configs.str.contains(f'"learning_rate": {best}').all()
    assert "EA, learned potential" in capsys.readouterr().out
    assert (tmp_path / "results" / "curves.png").stat().st_size > 10_000


def test_only_what_is_missing_is_run(study, tmp_path, monkeypatch, capsys):
    assert study() == 0
    before = (tmp_path / "results" / "records.csv").read_text()
    table = capsys.readouterr().out.split("\n", 8)[-1]
    monkeypatch.setattr(program, "train", None)
    assert study() == 0
    assert study("--report") == 0
    assert (tmp_path / "results" / "records.csv").read_text() == before
    assert table in capsys.readouterr().out
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    records = pd.read_csv(tmp_path / "results" / "records.csv", keep_default_na=False)
    records.iloc[:-1].to_csv(tmp_path / "results" / "records.csv", index=False)
    assert study() == 0
    assert len(pd.read_csv(tmp_path / "results" / "records.csv")) == 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--methods", "[medain]"], "got 'medain', expected some of ea"),
        (["--seeds", "0"], "seeds"),
        (["--evaluations", "9"], "got 9, expected 1 to 2"),
        (["--learning_rates", "[]"], "must each name at least one"),
        (["--nonsense", "1"], "nonsense"),
        (["--report"], "has no run yet"),
    ],
)
def test_mistakes_are_one_line(study, capsys, flags, message):
    assert study(*flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_other_settings_are_refused(study, capsys):
    assert study() == 0
    assert study("--batch_size", "3") == 2
    assert "made with batch_size 2, not 3" in capsys.readouterr().err


def test_a_budget_too_small_is_recorded_as_a_failure(study, capsys):
    assert study("--parameters", "900", "--methods", "[ea, mean]") == 0
    assert "expected at least" in capsys.readouterr().err
