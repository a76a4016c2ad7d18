"""Tables and SMILES files as people have them, through the command line."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from experiments.molpcba.__main__ import main
from experiments.molpcba.predict import main as predict
from tests.molpcba.conftest import tiny_rows

SHORT = "--width 8 --layers 1 --steps 1 --epochs 1 --batch-size 32 --readout mean --name run"


@pytest.fixture
def molecules() -> list[tuple[str, int]]:
    """SMILES and a label each."""
    return [(row["smiles"], int(row["oxygen"])) for row in tiny_rows()]


@pytest.fixture
def train(tmp_path, monkeypatch, capsys):
    """Trains on a table with that text; returns results, or the error line, and the notes."""
    monkeypatch.setattr("experiments.molpcba.__main__.plot_run", lambda folder: None)

    def call(text, *flags, name="table.csv", newline=None):
        path = tmp_path / name
        path.write_text(text, newline=newline)
        places = ["--csv", path, "--root", tmp_path / "data", "--runs-dir", tmp_path / "runs"]
        code = main([*SHORT.split(), *map(str, places), *flags])
        out = capsys.readouterr()
        if code:
            assert code == 2
            return out.err.splitlines()[-1], out.err
        results = json.loads((tmp_path / "runs" / "run" / "results.json").read_text())
        return results, out.err

    return call


def table(molecules, columns=("smiles", "active"), separator=",", cell=str) -> str:
    rows = [separator.join([smiles, cell(label)]) for smiles, label in molecules]
    return "\n".join([separator.join(columns), *rows]) + "\n"


@pytest.mark.parametrize("column", ["canonical_smiles", "Smiles", "SMILES"])
def test_a_column_named_like_smiles_is_taken_and_reported(train, molecules, column):
    results, notes = train(table(molecules, (column, "active")))
    assert results["data"]["molecules"]["train"] == 72
    assert f"SMILES are read from column '{column}'; --smiles-column" in notes


def test_the_smiles_column_is_named_by_a_flag(train, molecules):
    text = table(molecules, ("structure", "active"))
    error, _ = train(text)
    assert "--smiles-column names it, one of 'structure', 'active'" in error
    assert train(text, "--smiles-column", "structure")[0]["metric"] == "rocauc"
    assert "has no column 'x'" in train(text, "--smiles-column", "x", "--name", "other")[0]


@pytest.mark.parametrize(("separator", "name"), [(";", "a.csv"), ("\t", "a.tsv")])
def test_separators_are_recognised(train, molecules, separator, name):
    results, _ = train(table(molecules, separator=separator), name=name)
    assert results["data"]["tasks"] == 1
    assert results["data"]["name"] == "a"


@pytest.mark.parametrize(
    ("cell", "known"),
    [
        (lambda y: str(bool(y)), True),
        (lambda y: "TRUE" if y else "false", True),
        (lambda y: f"{y}.0", True),
        (lambda y: "1" if y else "NA", False),
        (lambda y: "1" if y else "n/a", False),
    ],
)
def test_labels_as_people_write_them(train, molecules, cell, known):
    text = table(molecules, cell=cell)
    if not known:  # zeros for all that have no N, so that both labels occur
        lines = text.splitlines()
        text = "\n".join(x if "N" in x.split(",")[0] else x.replace("NA", "0") for x in lines)
        text = text.replace("n/a", "0", 30) + "\n"
    assert train(text)[0]["metric"] == "rocauc"


def test_crlf_and_a_byte_order_mark_cost_nothing(train, molecules):
    text = "\ufeff" + table(molecules).replace("\n", "\r\n")
    assert train(text, newline="")[0]["metric"] == "rocauc"


def test_identifiers_and_text_are_not_tasks(train, molecules):
    lines = table(molecules).splitlines()
    header = f",id,{lines[0]},remark"
    text = "\n".join([header, *(f"{i},m{i},{line},x y" for i, line in enumerate(lines[1:]))])
    results, notes = train(text + "\n")
    assert results["data"]["tasks"] == 1
    assert "1 tasks (classification): 'active'" in notes
    assert "a split, a fold or an identifier: '', 'id', 'remark'; --tasks" in notes


def test_a_split_column_is_pointed_out_and_tasks_are_chosen_by_flags(train, molecules):
    lines = table(molecules).splitlines()
    extra = [f"{line},{i % 2},{i % 3 % 2}" for i, line in enumerate(lines[1:])]
    text = "\n".join([lines[0] + ",is_test,other", *extra]) + "\n"
    results, notes = train(text)
    assert (results["data"]["tasks"], results["metric"]) == (2, "ap")
    assert "the name of a split, a fold or an identifier: 'is_test'; --tasks" in notes
    assert "'active', 'other'" in notes
    results, _ = train(text, "--ignore", "other", "--name", "run")[0:2]
    assert "already has" in results
    for flags, tasks in ((["--ignore", "other"], 1), (["--tasks", "active, is_test"], 2)):
        assert main_tasks(train, text, flags) == tasks
    assert "has no column 'x'" in train(text, "--tasks", "x", "--name", "c")[0]


def main_tasks(train, text, flags) -> int:
    """Tasks of a run with other flags, from its note."""
    _, notes = train(text, *flags, "--name", "_".join(flags).replace("-", "").replace(" ", ""))
    return int(notes.partition(" tasks (classification)")[0].split()[-1])


def test_contradicting_labels_are_counted(train, molecules):
    text = table([*molecules, *[(smiles, 1 - y) for smiles, y in molecules[5:25]]])
    _, notes = train(text)
    assert "20 molecules occur more than once with contradicting labels (lines 7 and 92" in notes


def test_unreadable_smiles_are_listed(train, molecules):
    results, notes = train(table([*molecules, ("C1CC", 0), ("", 1)]))
    assert results["data"]["source"] == "table.csv; 90 molecules"
    assert "2 rows left out, their SMILES cannot be read" in notes
    assert "line 92: 'C1CC': not a SMILES" in notes
    assert "line 93: '': no atoms" in notes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("smiles,a,a\nC,1,0\n", "column 'a' more than once"),
        ("smiles,mol_id\nC,1\n", "no label column"),
        ("smiles,a\nC,x\n", "no label column"),
        ("smiles,a\nCC,1\nCC,1,2\n", "line 3 has 3 fields, the header 2"),
        ("smiles,a,b\nCC,1,0\n\nCC,1\n", "line 4 has 2 fields, the header 3"),
        ("smiles,a\nCC,1\nCC,one\n", "line 3, column 'a': 'one' is not a label"),
        ("smiles,a\nCC,1\nCC,2\n", "line 3, column 'a': '2' is not a label; expected 0 and 1"),
        ("smiles,a\nXX,1\n", "no SMILES that can be read; line 2: 'XX'"),
        ("smiles,a\nC,1\n", "part (0 molecules) cannot be scored"),
        ("smiles,a\nCC,1\nCCC,0\n", "cannot be scored"),
    ],
)
def test_what_cannot_be_used_is_one_line(train, text, message):
    error, _ = train(text)
    assert message in error
    assert "Traceback" not in error


def test_real_valued_columns_are_a_regression(train, molecules, tmp_path):
    """The error is in the labels' units, and well below the best constant's."""
    rows = [(s, f"{100 * len(s) + 0.5}" if i % 9 else "") for i, (s, _) in enumerate(molecules)]
    text = table(rows, ("smiles", "mass"))
    flags = ["--epochs", "60", "--lr", "0.02", "--readout", "sum", "--preset", "small"]
    results, notes = train(text, *flags)
    assert "1 tasks (regression): 'mass'" in notes
    assert results["metric"] == "rmse"
    assert results["test"] < 0.5 * results["chance"]
    checkpoint = tmp_path / "runs" / "run" / "checkpoints" / "best.ckpt"
    (tmp_path / "new.smi").write_text("CCCCO\n")
    out = tmp_path / "out.csv"
    files = ["--checkpoint", checkpoint, "--smiles", tmp_path / "new.smi", "--out", out]
    assert predict([*map(str, files)]) == 0
    assert 200 < pd.read_csv(out)["mass"][0] < 900
