"""Every published table is what the committed records give."""

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("ogb")

from benchmarks import loader, ogb_loop, scale
from benchmarks.gpu.report import report as report_gpu
from benchmarks.records import read
from benchmarks.report import report
from experiments.median.report import report as report_median
from experiments.molpcba.summary import summarise
from experiments.studies.molpcba import SHARED, Study
from experiments.studies.records import Records
from experiments.studies.report import report as report_study

ROOT = Path(__file__).parent.parent
BENCHMARKS = sorted(p for p in ROOT.glob("results/benchmarks/*") if p.is_dir())
ABLATIONS = sorted(p for p in ROOT.glob("results/ablations/*") if p.is_dir())
TRAINER = sorted(p for p in ROOT.glob("results/trainer/*") if p.is_dir())
GPU = sorted(p for p in ROOT.glob("results/gpu/*") if p.is_dir())
MEDIANS = sorted(p for p in ROOT.glob("results/median*") if p.is_dir())
STUDIES = sorted(p for p in ROOT.glob("results/molpcba/*") if p.is_dir())


@pytest.mark.parametrize("study", STUDIES, ids=lambda p: p.name)
def test_the_table_of_a_study_is_made_of_its_records(study, tmp_path):
    runs = sorted(p.parent for p in study.glob("*/results.json"))
    summarise(runs, tmp_path)
    table = (tmp_path / "summary.md").read_text().strip()
    assert table == (study / "summary.md").read_text().strip()
    assert table in (ROOT / "docs" / "results.md").read_text()


@pytest.mark.parametrize("study", ABLATIONS, ids=lambda p: p.name)
def test_the_table_of_a_grid_of_runs_is_made_of_its_records(study, tmp_path):
    copy = shutil.copytree(study, tmp_path / study.name)
    table = report_study(copy).strip()
    assert table == (study / "table.md").read_text().strip()
    assert table in (ROOT / "docs" / "results.md").read_text()


@pytest.mark.parametrize("study", ABLATIONS, ids=lambda p: p.name)
def test_runs_have_the_settings_of_their_rows(study):
    for run in Records(study).runs.itertuples():
        row = Study.read(run.study).rows[run.row]
        assert run.reference == row.reference
        config = json.loads(run.config)
        own = {k: v for k, v in row.settings.items() if v != config.get(SHARED.get(k))}
        assert own.items() <= config.items(), run.row


@pytest.mark.parametrize("published", MEDIANS, ids=lambda p: p.name)
def test_the_table_of_the_median_is_made_of_its_records(published, tmp_path):
    copy = shutil.copytree(published, tmp_path / "median")
    assert report_median(copy) in (ROOT / "docs" / "results.md").read_text()


@pytest.mark.parametrize("record", BENCHMARKS, ids=lambda p: p.name)
def test_the_tables_of_a_benchmark_are_made_of_its_records(record):
    assert report(read(record)) in (ROOT / "docs" / "benchmarks.md").read_text()


@pytest.mark.parametrize("record", TRAINER, ids=lambda p: p.name)
def test_the_tables_of_the_trainers_benchmarks_are_made_of_their_records(record):
    modules = {"loader": loader, "ogb-loop": ogb_loop, "scale": scale}
    table = modules[record.name.partition("-on-")[0]].report(record)
    assert table in (ROOT / "docs" / "benchmarks.md").read_text()


def test_the_gpu_section_is_made_of_its_record_or_says_that_there_is_none():
    section = (ROOT / "docs" / "benchmarks.md").read_text().split("\n## GPU\n")[1]
    assert all(report_gpu(record) in section for record in GPU)
    assert section.lstrip().startswith("Not measured") == (not GPU)


def test_there_are_records():
    assert ABLATIONS
    assert MEDIANS
    assert STUDIES
    assert BENCHMARKS
    assert TRAINER
