"""Every table and picture of the documentation is what the committed records give."""

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("rdkit")  # not ogb, whose import asks the network for a newer version

from docs.pictures import figures, svg
from docs.records import full_tables
from docs.tables import folders, pages
from experiments.molpcba.summary import summarise
from experiments.studies.molpcba import SHARED, Study
from experiments.studies.records import Records

ROOT = Path(__file__).parent.parent
ABLATIONS = sorted(p for p in ROOT.glob("results/ablations/*") if p.is_dir())
TABLES, PAGES, FIGURES = full_tables(), pages(), figures()
REMAKE = "make it again with python -m docs.records"


@pytest.mark.parametrize("path", TABLES, ids=lambda p: f"{p.parent.parent.name}-{p.parent.name}")
def test_a_full_table_is_made_of_its_records_and_shown(path):
    assert path.read_text() == TABLES[path](), REMAKE
    assert f" ../{path.relative_to(ROOT)}\n" in (ROOT / "docs" / "records.md").read_text()


@pytest.mark.parametrize("folder", folders("molpcba/*"), ids=lambda p: p.name)
def test_records_of_whole_runs_are_those_of_their_folders(folder, tmp_path):
    summarise([path.parent for path in folder.glob("*/results.json")], tmp_path)
    for name in ("records.csv", "curves.csv"):
        assert (tmp_path / name).read_text() == (folder / name).read_text()


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_a_table_of_a_page_is_made_of_the_records(path):
    assert path.read_text() == PAGES[path](), REMAKE


@pytest.mark.parametrize("path", FIGURES, ids=lambda p: p.stem)
def test_a_picture_is_made_of_the_records(path):
    made, kept = svg(FIGURES[path]), path.read_text()
    drawn_by = [re.search(r"Matplotlib v[\w.]+", text) for text in (made, kept)]
    if drawn_by[0][0] != drawn_by[1][0]:
        pytest.skip(f"drawn by {drawn_by[1][0]}, here is {drawn_by[0][0]}")
    assert made == kept, REMAKE


def test_the_readme_has_the_short_table():
    assert (ROOT / "docs/made/readouts-short.md").read_text() in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("study", ABLATIONS, ids=lambda p: p.name)
def test_runs_have_the_settings_of_their_rows(study):
    for run in Records(study).runs.itertuples():
        row = Study.read(run.study).rows[run.row]
        assert run.reference == row.reference
        config = json.loads(run.config)
        for key, value in row.settings.items():
            assert value in (config.get(key), config.get(SHARED.get(key))), run.row


def test_there_are_records():
    kinds = {path.relative_to(ROOT / "results").parts[0].partition("-")[0] for path in TABLES}
    assert kinds == {"ablations", "molpcba", "median", "counting", "benchmarks", "gpu", "trainer"}
