"""Every command of the page "Reproduce the paper" trains, in a folder of its own."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pandas as pd
import pytest

pytest.importorskip("rdkit")

from experiments import counting, median, studies
from experiments.molpcba.__main__ import main as train
from experiments.studies import main as study
from tests.molpcba.conftest import tiny_csv, tiny_data, tiny_root  # noqa: F401 (fixtures)

ROOT = Path(__file__).parent.parent
COMMANDS = re.findall(
    r"`python -m (experiments\.[\w.]+)([^`]*)`", (ROOT / "docs" / "made" / "paper.md").read_text()
)
SETS = "--steps 4 --tuning-steps 2 --evaluations 2 --seeds 1 --batch-size 2 --test-sets 10"
TINY = "--width 8 --layers 1 --epochs 2 --batch-size 32"
MAINS = {
    "experiments.median": (median.main, [*SETS.split(), "--methods", "[ea, mean]"]),
    "experiments.counting": (counting.main, [*SETS.split(), "--methods", "[ea, mean]"]),
    "experiments.molpcba": (train, TINY.split()),
    "experiments.studies": (study, ["--epochs", "2", "--batch-size", "32", "--seeds", "1"]),
}


def tree() -> dict[Path, int]:
    """Times of the files under results/."""
    return {path: path.stat().st_mtime_ns for path in (ROOT / "results").rglob("*")}


@pytest.mark.parametrize(
    ("module", "words"), COMMANDS, ids=[f"{m.split('.')[1]}{w}"[:30] for m, w in COMMANDS]
)
def test_a_command_trains_in_a_folder_of_its_own(
    module, words, tiny_csv, tiny_root, tiny_data, tmp_path, monkeypatch, capsys  # noqa: F811
):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    before, (main, tiny) = tree(), MAINS[module]
    flags = shlex.split(words)
    flags = [str(ROOT / own) if own.startswith("configs/") else own for own in flags]
    if module in ("experiments.molpcba", "experiments.studies"):
        flags = [own for own in flags if own not in ("--data", "embedded")]
        tiny = [*tiny, "--csv", str(tiny_csv), "--root", str(tiny_root)]
    if module == "experiments.studies":
        rows = list(studies.Study.read(flags[0]).rows)[:2]
        flags = [own for own in flags if own not in ("--jobs", "2")]
        tiny = [*tiny, "--rows", *rows]
    assert main([*flags, *tiny]) == 0
    out = capsys.readouterr().out
    assert tree() == before
    curves = [*tmp_path.rglob("curves.csv"), *tmp_path.rglob("metrics.csv")]
    assert curves
    assert all(len(pd.read_csv(path)) >= 2 for path in curves)
    if module != "experiments.molpcba":
        assert re.match(r"\d+ runs of about \d.*, about \d.* in all .*; records in runs/", out)
        (records,) = tmp_path.rglob("records.csv")
        assert len(pd.read_csv(records)) == 2
