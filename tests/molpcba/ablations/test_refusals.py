"""What cannot stand in one table is refused, and mistakes are named."""

from __future__ import annotations

import pandas as pd
import pytest
import yaml

from experiments.molpcba.ablations.__main__ import main
from tests.molpcba.ablations.tiny import TINY, refused


def test_records_of_other_settings_rows_or_data_are_refused(
    call, folder, tmp_path, tiny_csv, capsys
):
    assert call("--seeds", "1", "--epochs", "1") == 0
    before = (tmp_path / "out" / "records.csv").read_text()
    message = refused(call, capsys, "--epochs", "2")
    assert "mean, seed 0: made with --epochs 1, not 2" in message
    message = refused(call, capsys, "--epochs", "2", "--out", str(tmp_path / "new"))
    assert "runs/tiny-on-tiny/mean-seed0: made with --epochs 1, not 2" in message
    shorter = tmp_path / tiny_csv.name
    shorter.write_text("\n".join(tiny_csv.read_text().splitlines()[:-5]) + "\n")
    message = refused(call, capsys, "--epochs", "1", "--csv", str(shorter))
    assert "not on this tiny" in message
    (folder / "tiny.yaml").write_text(TINY.replace("ea-1:", "ea-one:"))
    assert "row ea-1 of tiny" in refused(call, capsys, "--epochs", "1")
    content = yaml.safe_load(TINY)
    content["base"]["dropout"] = 0.5
    (folder / "tiny.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    assert "made with --dropout 0.0, not 0.5" in refused(call, capsys, "--epochs", "1")
    assert (tmp_path / "out" / "records.csv").read_text() == before


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("format", 0, "of another version of this program"),
        ("data", "other", "mixes runs of data other and tiny"),
        ("graphs", "other", "mixes runs of graphs other and"),
        ("fingerprint", "other", "runs of seed 0 saw different molecules or labels"),
        ("config", '{"epochs": 3}', "row mean: made with"),
    ],
)
def test_mixed_records_are_refused(call, tmp_path, column, value, message, capsys):
    assert call("--epochs", "1", "--rows", "mean", "ea-1") == 0
    path = tmp_path / "out" / "records.csv"
    runs = pd.read_csv(path)
    runs[column] = runs[column].astype(object)
    runs.loc[0, column] = value
    path.write_text(runs.to_csv(index=False))
    capsys.readouterr()
    assert main(["--report", str(path.parent)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--rows", "ea-3"], "--rows ea-3: expected some of mean ea-1 ea-2"),
        (["--steps", "4"], "--steps is what row ea-1 of tiny sets"),
        (["--name", "x"], "--name is not for studies"),
        (["--no-resume"], "--resume is not for studies"),
        (["--nonsense", "1"], "--nonsense"),
        (["--seeds", "0"], "must be 1 or more"),
        (["--report", "gone"], "gone/records.csv holds no run yet"),
    ],
)
def test_mistakes_are_named_in_one_line(call, tmp_path, capsys, given, message):
    assert message in refused(call, capsys, *given)
    assert not (tmp_path / "runs").exists()
