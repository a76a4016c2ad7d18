"""Every table and picture of the documentation is what the committed records give."""

import json
import re
from pathlib import Path

import matplotlib as mpl
import pytest
import torch

pytest.importorskip("rdkit")  # not ogb, whose import asks the network for a newer version

from docs import claims
from docs.common import STYLE, folders
from docs.idea import elements, path, trained
from docs.pictures import figures, svg
from docs.records import full_tables
from docs.tables import pages
from experiments.molpcba.summary import summarise
from experiments.records import Records
from experiments.studies import SHARED, Study

ROOT = Path(__file__).parent.parent
ABLATIONS = sorted(p for p in ROOT.glob("results/ablations/*") if p.is_dir())
TABLES, PAGES, FIGURES = full_tables(), pages() | claims.pages(), figures()
REMAKE = "make it again with python -m docs.records"


@pytest.mark.parametrize("path", TABLES, ids=lambda p: f"{p.parent.parent.name}-{p.parent.name}")
def test_a_full_table_is_made_of_its_records_and_shown(path):
    assert path.read_text() == TABLES[path](), REMAKE
    assert str(path.relative_to(ROOT)) in (ROOT / "docs" / "records.md").read_text()


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


def test_text_of_pictures_is_of_nine_points_or_more():
    with mpl.rc_context(fname=str(STYLE)):
        sizes = [v for k, v in mpl.rcParams.items() if k.endswith(("font.size", "labelsize"))]
        assert min(size for size in sizes if isinstance(size, float)) >= 9
        for draw in FIGURES.values():
            assert draw().get_figwidth() <= 7.2  # wider is scaled down on a page


def test_the_picture_of_the_idea_shows_what_the_library_does():
    x, layer = elements(), trained(steps=60)
    ys = path(layer, x)
    assert torch.equal(ys[0], torch.zeros(2))
    assert len(ys) == layer.steps + 1
    crowd = x[:10].mean(dim=0)
    assert (ys[-1] - crowd).norm() < (x.mean(dim=0) - crowd).norm()  # less moved by outliers


def test_the_readme_has_the_short_table():
    assert (ROOT / "docs/made/readouts.md").read_text() in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("study", ABLATIONS, ids=lambda p: p.name)
def test_runs_have_the_settings_of_their_rows(study):
    for run in Records(study).runs.itertuples():
        row = Study.read(run.study).rows[run.row]
        assert run.reference == row.reference
        config = json.loads(run.config)
        for key, value in row.settings.items():
            assert value in (config.get(key), config.get(SHARED.get(key))), run.row


@pytest.mark.parametrize("claim", claims.SUPPORTED, ids=lambda own: own.text)
def test_a_claim_is_supported(claim):
    assert claims.verdict(claim) == claims.AHEAD


@pytest.mark.parametrize("claim", claims.REFUTED, ids=lambda own: own.text)
def test_a_claim_is_not_supported(claim):
    assert claims.verdict(claim) != claims.AHEAD


@pytest.mark.parametrize("claim", [*claims.SUPPORTED, *claims.REFUTED], ids=lambda own: own.text)
def test_a_claim_links_to_its_record(claim):
    text = (ROOT / "docs" / "records.md").read_text()
    titles = re.findall("^#+ (.*)$", text, re.MULTILINE)
    anchors = {re.sub("[^a-z0-9 -]", "", own.lower()).replace(" ", "-") for own in titles}
    assert claim.page in anchors
    assert f"results/{claim.record}/table.md" in text


def test_there_are_records():
    kinds = {path.relative_to(ROOT / "results").parts[0].partition("-")[0] for path in TABLES}
    assert kinds == {
        "ablations",
        "molpcba",
        "median",
        "counting",
        "nodes",
        "benchmarks",
        "gpu",
        "trainer",
    }
