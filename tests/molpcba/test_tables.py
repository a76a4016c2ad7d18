"""Tables for training as people have them, through the command line."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

from experiments.common import UserError
from experiments.molpcba.__main__ import main
from experiments.molpcba.config import Config
from experiments.molpcba.data import load
from experiments.molpcba.predict import main as predict
from experiments.molpcba.training import chance, score
from tests.molpcba.conftest import tiny_rows

SHORT = "--width 8 --layers 1 --steps 1 --epochs 1 --batch-size 32 --readout mean --name run"


@pytest.fixture
def molecules() -> list[tuple[str, int]]:
    """SMILES and a label each."""
    return [(row["smiles"], int(row["oxygen"])) for row in tiny_rows()]


@pytest.fixture
def prepare(tmp_path, capsys):
    """The data of a table with that text, and what was said about it."""

    def call(text, encoding="utf-8", **settings):
        path = tmp_path / "table.csv"
        path.write_text(text, encoding=encoding)
        capsys.readouterr()
        data = load(Config(csv=str(path), root=str(tmp_path / "data"), **settings))
        return data, capsys.readouterr().err

    return call


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
    assert f"SMILES in column 1 ('{column}'): " in notes
    assert "; --smiles-column chooses another" in notes


def test_the_smiles_column_is_told_by_its_cells_or_a_flag(train, prepare, molecules):
    text = table(molecules, ("structure", "active"))
    _, notes = train(text)
    assert "a header; SMILES in column 1 ('structure'): '[Na+]', 'CCC'" in notes
    twice = "\n".join(f"{line},{line.split(',')[0]}" for line in text.splitlines()) + "\n"
    twice = twice.replace("structure,active,structure", "parent,active,salt")
    error, _ = train(twice)
    assert "--smiles-column names it (or gives its number from 1), one of 'parent', 'a" in error
    for column in ("salt", "3"):
        assert prepare(twice, smiles_column=column)[0].task_names == ["active"]
    assert "has no column 'x'" in train(text, "--smiles-column", "x", "--name", "other")[0]


def test_a_table_without_a_header(train, molecules):
    lines = table(molecules).splitlines()[1:]
    results, notes = train("\n".join(["sep=;", *(line.replace(",", ";") for line in lines)]))
    assert results["data"]["molecules"]["train"] == 72
    assert "90 rows, columns separated by semicolons, no header; SMILES in column 1" in notes
    assert "1 tasks (classification): 'column 2'" in notes


def test_white_space_separates_columns_too(train, molecules):
    text = table(molecules, ("smiles", "active", "other"), " ", lambda y: f"{y} {1 - y}")
    assert train(text)[0]["data"]["tasks"] == 2


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


@pytest.mark.parametrize(
    ("cells", "form", "what", "values"),
    [
        (["0,5", "-1,5"], "decimal-comma", "decimal commas ('-1,5', '0,5')", [0.5, -1.5]),
        (["1.234,5", "0,5"], "decimal-comma", "decimal commas ('0,5', '1.234,5')", [1234.5, 0.5]),
        (["1,234.5", "-2,000"], "thousands", "commas between thousands", [1234.5, -2000]),
        (["10 %", "1.5%"], "percent", "percent signs ('1.5%', '10 %')", [10, 1.5]),
        (["Active", "inactive"], "active=1,inactive=0", "words ('active', 'inactive')", [1, 0]),
        (["n", "Y"], "n=0,y=1", "words ('n', 'y')", [0, 1]),
        (["NonToxic", "toxic"], "nontoxic=0,toxic=1", "words", [0, 1]),
        (["left", "right"], "left=0,right=1", "words ('left', 'right')", [0, 1]),
        (["+", "-"], "+=1,-=0", "words ('+', '-')", [1, 0]),
    ],
)
def test_labels_in_another_form_name_the_flag_that_reads_them(
    prepare, molecules, cells, form, what, values
):
    lines = [f"{smiles};{cells[i % 2]}" for i, (smiles, _) in enumerate(molecules)]
    text = "\n".join(["smiles;x", *lines, "CCCCCCCCO;"])
    flag = "--label-format=" + (f"'{form}'" if "=" in form else form)
    with pytest.raises(UserError, match="has no label column") as error:
        prepare(text)
    assert f"column 'x' could be labels but has {what}" in str(error.value)
    assert f"{flag} reads them" in str(error.value)
    plain = "\n".join(f"{line};{i % 2}" for i, line in enumerate(text.splitlines()))
    data, notes = prepare(plain.replace(";x;0", ";x;plain"))
    assert data.task_names == ["plain"]
    assert f"column 'x' could be labels but has {what}" in notes
    task_type = "regression" if "=" not in form else "auto"
    data, _ = prepare(text, label_format=form, task_type=task_type)
    labels = labels_of(data)
    np.testing.assert_allclose(labels[:4, 0], values * 2, rtol=1e-6)
    assert np.isnan(labels[-1, 0])


def labels_of(data) -> np.ndarray:
    """All labels, in the units of the table."""
    stored = data.graphs.labels(torch.arange(len(data.graphs))).double()
    offset, scale = (0.0, 1.0) if data.units is None else data.units
    return (stored * scale + offset).numpy()


@pytest.mark.parametrize(
    ("cells", "hint"),
    [
        (["1", "0,5"], "; it has decimal commas ('0,5'): --label-format=decimal-comma reads them"),
        (["1", ">10"], "; it has bounds ('>10'): write numbers, or leave these cells empty"),
        (["0", "yes"], "; it has words ('yes'): --label-format='yes=1' reads them"),
        (["1", "-1"], "; it has words ('-1', '1'): --label-format='-1=0,1=1' reads them"),
        (["0", "a b"], "leaves columns out, --label-format='a b'= leaves these cells out)"),
        (["0", "-"], "leaves columns out, --label-format=-= leaves these cells out)"),
        (["0", "2"], "; it has words ('0', '2'): --label-format='0=0,2=1' reads them"),
    ],
)
def test_a_column_with_some_labels_says_what_the_others_are(prepare, molecules, cells, hint):
    lines = [f"{smiles};{cells[i % 2]}" for i, (smiles, _) in enumerate(molecules)]
    with pytest.raises(UserError, match="line 3, column 'x'") as error:
        prepare("\n".join(["smiles;x", *lines]))
    assert str(error.value).endswith(hint)


@pytest.mark.parametrize("form", ["comma", "active", "active=1,inactive", "a=x", "a=inf", "=", ""])
def test_a_label_format_that_is_none(prepare, form):
    with pytest.raises(UserError, match="--label-format must be thousands, decimal-comma, perc"):
        prepare("smiles,x\nC,1\n", label_format=form)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'smiles,x\nC,1\nCC,"1\nCCC,0\nCCCC,0"\n',
            "line 3: a quote opens a cell that ends in line 5",
        ),
        ('smiles,x\nC,1\n"CC,1\nCCC,0\n"CCCC,0\n', "line 3: the quotes of a cell do not match"),
        ('smiles,x\nC,1\nCC,"1"0\nCCC,0\n', "line 3: the quotes of a cell do not match"),
        ('smiles,x\nC,1\nCC,"0\n', "line 3: the quotes of a cell do not match"),
        ('smiles,t,x\nC,"a\nb",1\n\nCC,,z1\n', "line 5, column 'x': 'z1' is not a label"),
        ('smiles,t,x\nC,"a\nb",1\nCC,1\n', "line 4 has 2 fields, the header 3"),
        ("C,1\nCC,0\nCCC\n", "line 3 has 1 fields, the first row 2"),
    ],
)
def test_errors_have_the_line_of_the_file(prepare, text, message):
    with pytest.raises(UserError) as error:
        prepare(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_cells_with_line_breaks_and_a_molecule_too_large(prepare, molecules):
    lines = [f'{smiles},"a\n{y}",{y}' for smiles, y in molecules]
    lines[5] = f"{'C' * 6_000},x,1"
    lines[8:8] = [f"XX{i},x,1" for i in range(12)]
    data, notes = prepare("\n".join(["smiles,remark,x", *lines]))
    assert len(data.graphs) == 89
    assert "13 rows left out:" in notes
    assert "line 12: 'CCCCCCCCC" in notes
    assert "too large: 6,000 atoms, more than the limit of 5,000 atoms" in notes
    assert "line 25: 'XX8': not a SMILES" in notes
    assert "'XX9'" not in notes
    assert "... and 3 more" in notes


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-8-sig"])
def test_a_table_in_another_encoding(prepare, molecules, encoding):
    text = table(molecules, ("smiles", "δραστικό"))
    assert prepare(text, encoding=encoding)[0].task_names == ["δραστικό"]
    with pytest.raises(UserError, match=r"not UTF-8 text \(line 1 has the byte 0xe4\)"):
        prepare(text, encoding="iso8859-7")


@pytest.mark.parametrize(
    ("offset", "spread"),
    [(0.0, 1.0), (-40_000.0, 1e-3), (1e6, 1e-2), (1e9, 1e-4), (0.0, 1e-30), (0, 1e30)],
)
def test_scores_with_an_offset_equal_those_of_float64(prepare, molecules, offset, spread):
    """The score of the best constant and of outputs near the labels, in the labels' units."""
    values = offset + spread * np.random.default_rng(0).normal(size=(len(molecules), 2))
    values[3::7, 1] = np.nan
    rows = [f"{s},{a!r},{b!r}" for (s, _), (a, b) in zip(molecules, values.tolist(), strict=True)]
    data, _ = prepare("\n".join(["smiles,a,b", *rows]))
    assert data.metric == "rmse"
    index = data.splits["test"].numpy()
    test = values[index]
    errors = [c - np.nanmean(c) for c in test.T]
    expected = np.mean([np.sqrt(np.nanmean(e**2)) for e in errors])
    assert chance(data) == pytest.approx(expected, rel=1e-5)
    wrong = test + 0.1 * spread * np.random.default_rng(1).normal(size=test.shape)
    offsets, scales = data.units.numpy()
    outputs = torch.from_numpy((wrong - offsets) / scales).float()
    expected = np.mean(np.sqrt(np.nanmean((wrong - test) ** 2, axis=0)))
    found = score("rmse", data.labels("test"), outputs, data.scale)
    assert found == pytest.approx(expected, rel=1e-4)


def test_labels_that_differ_in_their_offset_are_other_data(prepare, molecules):
    rows = [(smiles, float(i)) for i, (smiles, _) in enumerate(molecules)]
    one, other = (prepare(table([(s, y + c) for s, y in rows]))[0] for c in (0, 1))
    assert one.graphs_sha256 == other.graphs_sha256
    assert one.fingerprint != other.fingerprint


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


@pytest.mark.parametrize(
    ("columns", "settings", "tasks"),
    [
        ({"active": "y", "remark": ""}, {}, ["active"]),
        ({"mass": "i.5", "remark": ""}, {}, ["mass"]),
        ({"mass": "i.5", "Compound ID": "i"}, {}, ["mass"]),
        ({"num": "i", "activity": "y"}, {}, ["activity"]),
        ({"active": "y", "": ""}, {}, ["active"]),
        ({"a": "y", "b": "y"}, {"tasks": "a,a"}, ["a"]),
        ({"a": "y", "b": "y"}, {"tasks": "a,b", "ignore": "b"}, ["a"]),
        ({'"IC50, nM"': "y", "b": "y"}, {"tasks": "IC50, nM"}, ["IC50, nM"]),
        ({'"IC50, nM"': "y", "b": "y"}, {"tasks": 'b, "IC50, nM"'}, ["b", "IC50, nM"]),
        ({'"IC50\n(nM)"': "y", "b": "y"}, {"ignore": "IC50\n(nM)"}, ["b"]),
    ],
)
def test_which_columns_are_tasks(prepare, molecules, columns, settings, tasks):
    """Two separators at the end of each line make two columns without a name."""
    rows = [
        ",".join([smiles, *(cell.replace("y", str(y)).replace("i", str(i)) for cell in cells), ""])
        for i, (smiles, y) in enumerate(molecules)
        for cells in [columns.values()]
    ]
    data, _ = prepare("\n".join([",".join(["smiles", *columns, ""]), *rows]), **settings)
    assert data.task_names == tasks


@pytest.mark.parametrize("flag", ["tasks", "ignore", "smiles_column", "label_format", "data_name"])
def test_flags_of_tables_need_a_table_and_a_table_a_name_of_its_own(flag):
    with pytest.raises(UserError, match="a table is not OGB's ogbg-molhiv: give it another --data"):
        load(Config(csv=__file__, data_name="ogbg-molhiv"))
    with pytest.raises(UserError, match=f"--{flag.replace('_', '-')} is for --csv"):
        load(Config(data="embedded", **{flag: "active"}))


def main_tasks(train, text, flags) -> int:
    """Tasks of a run with other flags, from its note."""
    _, notes = train(text, *flags, "--name", "_".join(flags).replace("-", "").replace(" ", ""))
    return int(notes.partition(" tasks (classification)")[0].split()[-1])


def test_contradicting_labels_are_counted(train, molecules):
    text = table([*molecules, *[(smiles, 1 - y) for smiles, y in molecules[5:25]]])
    _, notes = train(text)
    assert "20 molecules occur more than once with contradicting labels (lines 7 and 92" in notes


def test_unreadable_smiles_are_listed(train, molecules):
    none = ["C1CC", "CC O", "CCO ethanol", "CC\0O", "CCO>>CC=O", "C\N{EN DASH}C"]
    odd = ["CCO |$;;R$|", "*CC", "[13CH4]", "[CH3:1][OH:2]", "[H][H]", "[Na+].[Cl-]", "N->[Cu]"]
    results, notes = train(table([*molecules, *((own, 0) for own in [*none, *odd]), ("", 1)]))
    assert results["data"]["source"] == "table.csv; 97 molecules"
    assert "7 rows left out:" in notes
    for line, smiles in enumerate(none, 92):
        assert f"line {line}: {smiles!r}: not a SMILES" in notes
    assert "line 105: '': no atoms" in notes


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
    """The error is in the labels' units, well below the best constant's; an offset costs nothing.

    A float32 holds no values between 4,000,000,000 and 4,000,000,256.
    """
    far = 4_000_000_000
    rows = [
        (s, f"{far + 100 * len(s) + 0.5}" if i % 9 else "") for i, (s, _) in enumerate(molecules)
    ]
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
    assert 200 < pd.read_csv(out)["mass"][0] - far < 900
