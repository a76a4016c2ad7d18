"""Table and pictures, made from records alone."""

from __future__ import annotations

from statistics import stdev

import pandas as pd
import pytest

from experiments.molpcba.ablations.__main__ import main
from experiments.molpcba.ablations.figures import DRAWN, outcome
from experiments.molpcba.ablations.records import Records
from experiments.molpcba.ablations.tables import difference_text
from tests.molpcba.ablations.tiny import table


def test_the_table_is_that_of_the_records_alone(call, tmp_path, capsys):
    assert call() == 0
    out = tmp_path / "out"
    cells, text = table(out / "table.md"), (out / "table.md").read_text()
    runs = pd.read_csv(out / "records.csv").pivot(index="seed", columns="row")
    for key, column in (("test", "difference, test"), ("test_last", "difference, last")):
        values = (runs[key]["ea-2"] - runs[key]["mean"]).to_list()
        assert cells[column]["ea-2"] == difference_text(values)
        assert cells[column]["mean"] == ""
    seconds = runs["train_seconds"]
    ratio = (seconds["ea-1"] / seconds["mean"]).median()
    assert float(cells["ratio"]["ea-1"]) == pytest.approx(ratio, abs=0.006)
    assert cells["compared with"].to_list() == ["", "mean", "mean"]
    capsys.readouterr()
    for path in (*out.glob("*.png"), out / "table.md"):
        path.unlink()
    copy = out.rename(tmp_path / "elsewhere")
    assert main(["--report", str(copy)]) == 0
    assert (
        capsys.readouterr().out.strip() == text.strip() == (copy / "table.md").read_text().strip()
    )
    assert {path.name for path in copy.glob("*.png")} == {"outcome.png", "learning.png"}


def test_difference_text():
    values = [0.02, 0.04, 0.09]
    expected = f"+0.0500 ± {stdev(values):.4f} ({stdev(values) / 3**0.5:.4f})"
    assert difference_text(values) == expected
    assert difference_text([-0.01]) == "-0.0100"
    assert difference_text([]) == ""


@pytest.mark.parametrize("name", [*DRAWN, "other"])
def test_every_picture_can_be_drawn(call, tmp_path, name):
    assert call("--seeds", "1", "--epochs", "1") == 0
    records = Records.read(tmp_path / "out")
    records.runs["study"] = name
    drawing = outcome(records)
    assert drawing.axes
    drawing.savefig(tmp_path / "a.png")


def test_a_row_with_a_failed_seed_says_so(call, tmp_path):
    assert call() == 0
    records = Records.read(tmp_path / "out")
    records.fail("ea-1", 1, "diverged")
    records.write(["mean", "ea-1", "ea-2"])
    assert main(["--report", str(tmp_path / "out")]) == 0
    assert table(tmp_path / "out" / "table.md")["seeds"]["ea-1"] == "1 (1 failed)"
