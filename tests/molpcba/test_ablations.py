"""Studies: the grid, going on after an interruption, and tables made of records."""

from __future__ import annotations

import json
from concurrent.futures import Future

import pandas as pd
import pytest

from experiments.molpcba import ablations
from experiments.molpcba.ablations import STUDIES, Study, configurations, report
from experiments.molpcba.errors import UserError
from experiments.molpcba.models import build_network
from experiments.molpcba.presets import resolve

pytestmark = pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.* is deprecated")


@pytest.mark.parametrize("name", [path.stem for path in STUDIES.glob("*.yaml")])
def test_each_study_describes_networks_that_can_be_built(name):
    study = Study.read(name)
    assert study.reference in study.rows
    kinds = set()
    for _, config in configurations(study, {}, seeds=1):
        resolved = resolve(config, "tiny")
        build_network(resolved, num_tasks=2)
        kinds.add(str({**vars(resolved), "name": None}))
    assert len(kinds) == len(study.rows)


@pytest.fixture
def study(tiny_csv, tiny_root, tiny_data, tmp_path, monkeypatch):
    """Calls the command with the tiny molecules, in this process."""
    monkeypatch.setattr("experiments.molpcba.run.plot_run", lambda path: [])
    monkeypatch.setattr(ablations, "ProcessPoolExecutor", Here)
    places = ["--csv", tiny_csv, "--root", tiny_root, "--runs-dir", tmp_path / "runs"]
    words = ["steps", *map(str, places), "--rows", "ea-1", "ea-2", "--epochs", "1", "--seeds", "2"]
    return lambda *flags: ablations.main([*words, *flags])


class Here:
    """A pool of no processes."""

    def __init__(self, *arguments):
        pass

    def submit(self, function, *arguments):
        future: Future = Future()
        future.set_result(function(*arguments))
        return future

    def shutdown(self, **options):
        pass


def test_a_study_is_made_once_and_its_table_is_that_of_its_records(
    study, tmp_path, capsys, monkeypatch
):
    assert study() == 0
    text = capsys.readouterr().out
    assert "Inner steps. AP on tiny" in text
    out = tmp_path / "runs" / "steps"
    records = pd.read_csv(out / "records.csv")
    assert sorted(zip(records["row"], records["seed"], strict=True)) == [
        ("ea-1", 0), ("ea-1", 1), ("ea-2", 0), ("ea-2", 1),
    ]  # fmt: skip
    assert records.groupby("seed")["fingerprint"].nunique().tolist() == [1, 1]
    assert records["fingerprint"].nunique() == 2  # a seed has its own split
    result = json.loads((tmp_path / "runs" / "steps-ea-2-seed1" / "results.json").read_text())
    own = records[(records["row"] == "ea-2") & (records["seed"] == 1)]
    assert own["test"].item() == pytest.approx(result["test"])
    tests = records.pivot(index="seed", columns="row", values="test")
    assert f"| {(tests['ea-2'] - tests['ea-1']).mean():.4f} ±" in text

    def fail(config):
        raise AssertionError("a finished run was made again")

    monkeypatch.setattr(ablations, "run", fail)
    assert study() == 0
    assert capsys.readouterr().out == text
    assert study("--report") == 0
    assert capsys.readouterr().out == text
    assert study("--epochs", "2") == 2
    assert "was started with --epochs 1, not 2" in capsys.readouterr().err


def test_a_failed_run_is_named_and_the_others_go_on(study, capsys, monkeypatch):
    whole = ablations.run

    def run(config):
        if config.steps == 2:
            raise UserError("no luck")
        return whole(config)

    monkeypatch.setattr(ablations, "run", run)
    assert study() == 0
    text = capsys.readouterr().out
    assert "| ea-1 | 2 |" in text
    assert "| ea-2 |" not in text
    assert "failed: steps-ea-2-seed0: no luck" in text


def test_records_that_do_not_belong_together_are_refused(study, tmp_path):
    assert study() == 0
    path = tmp_path / "runs" / "steps" / "records.csv"
    records = pd.read_csv(path)
    records.loc[0, "fingerprint"] = "other"
    path.write_text(records.to_csv(index=False))
    with pytest.raises(UserError, match="runs of seed 0 are of different data"):
        report(path.parent)


def test_unknown_rows_and_missing_records_are_named(study, tmp_path, capsys):
    assert study("--rows", "ea-3") == 2
    assert "--rows ea-3: expected ea-1 ea-2" in capsys.readouterr().err
    assert study("--report") == 2
    assert "holds no records of a study" in capsys.readouterr().err
