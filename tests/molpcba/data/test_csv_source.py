"""CSV files in MoleculeNet's form, and what is wrong with those that are not."""

from __future__ import annotations

import csv
import gzip

import pytest
import torch

from experiments.molpcba.data import DataError, load
from experiments.molpcba.data.csv_source import CsvSource

from .conftest import SMILES, write_csv

GOOD = "".join(f"{smiles},{i % 2}\n" for i, smiles in enumerate(SMILES))


def written(tmp_path, content: str | bytes, name: str = "set.csv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_labels_follow_their_molecules(tiny):
    pattern = [0.0, 1.0, torch.nan]
    expected = torch.tensor(
        [[pattern[i % 3], pattern[i // 3 % 3], pattern[i // 9 % 3]] for i in range(len(SMILES))]
    )
    labels = tiny.graphs.labels(torch.arange(len(SMILES)))
    torch.testing.assert_close(labels, expected, rtol=0, atol=0, equal_nan=True)
    assert list(tiny.smiles) == SMILES
    assert (tiny.task_names, tiny.metric, tiny.name) == (["a", "b", "c"], "ap", "tiny")


@pytest.mark.parametrize("known", [True, False], ids=["all known", "some missing"])
def test_one_task(tmp_path, known):
    """pandas skips blank lines and OGB turns a complete table into integers: neither may show."""
    values = ["0", "1", "1" if known else ""]
    rows = [[smiles, values[i % 3]] for i, smiles in enumerate(SMILES)]
    path = write_csv(tmp_path / "hiv.csv", ["smiles", "HIV_active"], rows)
    data = load(csv=path, root=tmp_path)
    labels = data.graphs.labels(torch.arange(len(SMILES)))[:, 0]
    expected = torch.tensor([0.0, 1.0, 1.0 if known else torch.nan]).repeat(8)
    torch.testing.assert_close(labels, expected, rtol=0, atol=0, equal_nan=True)
    assert labels.dtype == torch.float32
    assert data.metric == "rocauc"


def test_original_hiv_form(tmp_path):
    rows = [[smiles, "CI", str(i % 2)] for i, smiles in enumerate(SMILES)]
    path = write_csv(tmp_path / "HIV.csv", ["smiles", "activity", "HIV_active"], rows)
    assert load(csv=path, root=tmp_path).task_names == ["HIV_active"]


def test_bad_smiles_are_left_out_and_listed(tmp_path, capsys):
    text = "smiles,t\nxx,1\n" + GOOD + "\n,0\nC1CC,1\n"
    data = load(csv=written(tmp_path, text), root=tmp_path)
    assert len(data.graphs) == len(SMILES)
    assert list(data.smiles) == SMILES
    (rejects,) = tmp_path.glob("csv_set-*/rejects.csv")
    with open(rejects, newline="") as file:
        assert list(csv.reader(file)) == [
            ["line", "smiles", "reason"],
            ["2", "xx", "not a SMILES"],
            ["28", "", "no atoms"],
            ["29", "C1CC", "not a SMILES"],
        ]
    assert "3 rows left out" in data.source
    assert "line 2: 'xx'" in capsys.readouterr().err


def test_gzip_or_not_is_the_same_set(tmp_path):
    text = "smiles,t\n" + GOOD
    plain = CsvSource.of(written(tmp_path, text))
    zipped = CsvSource.of(written(tmp_path, gzip.compress(text.encode()), "set.csv.gz"))
    misnamed = CsvSource.of(written(tmp_path, gzip.compress(text.encode()), "set2.csv"))
    assert plain.key == zipped.key == misnamed.key
    assert plain.stem == zipped.stem == "set"
    assert plain.key != CsvSource.of(written(tmp_path, text + "C,1\n", "more.csv")).key


def test_byte_order_mark_and_quotes(tmp_path):
    text = "\ufeffsmiles,t,mol_id\n" + "".join(
        f'"{s}",{i % 2},"a, b"\n' for i, s in enumerate(SMILES)
    )
    assert list(load(csv=written(tmp_path, text), root=tmp_path).smiles) == SMILES


MALFORMED = {
    "empty file": ("", "is empty"),
    "no smiles column": ("SMILES,t\nC,1\n", "has no column 'smiles'; its header is: SMILES, t"),
    "no task": ("smiles,mol_id\nC,1\n", "no task column"),
    "column twice": ("smiles,t,t\nC,1,1\n", "column 't' more than once"),
    "nameless column": (",smiles,t\n0,C,1\n", "column 1 has no name"),
    "header only": ("smiles,t\n", "no SMILES that can be read"),
    "all bad": ("smiles,t\nxx,1\n", "no SMILES that can be read; line 2: 'xx': not a SMILES"),
    "no bonds": ("smiles,t\nC,1\nN,0\n", "no molecule with a bond"),
    "short row": ("smiles,t\nCC,1\nCC\n", "line 3: 1 fields, but the header has 2"),
    "long row": ("smiles,t\nCC,1,1\n", "line 2: 3 fields, but the header has 2"),
    "label 2": ("smiles,t\nCC,2\n", "line 2, column 't': '2'"),
    "text label": ("smiles,t,u\nCC,1,active\n", "line 2, column 'u': 'active'"),
    "open quote": ('smiles,t\n"CC,1\n', "no well-formed CSV"),
    "not text": (b"smiles,t\n\xff\xfe,1\n", "no UTF-8 text"),
    "broken gzip": (b"\x1f\x8b" + b"x" * 50, "is damaged"),
    "cut gzip": (gzip.compress(b"smiles,t\n" + GOOD.encode())[:-20], "cut short"),
    "too few": ("smiles,t\nCC,1\nCO,0\n", "empty; use more molecules"),
}


@pytest.mark.parametrize(("content", "message"), MALFORMED.values(), ids=MALFORMED)
def test_malformed(tmp_path, content, message):
    root = tmp_path / "root"
    with pytest.raises(DataError) as error:
        load(csv=written(tmp_path, content), root=root)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(root.glob(".*.tmp-*"))


def test_damaged_checksum_of_gzip(tmp_path):
    data = bytearray(gzip.compress(b"smiles,t\n" + GOOD.encode()))
    data[-6] ^= 0xFF
    with pytest.raises(DataError, match="is damaged"):
        load(csv=written(tmp_path, bytes(data), "set.csv.gz"), root=tmp_path)


@pytest.mark.parametrize("name", ["absent.csv", "."])
def test_unreadable_path(tmp_path, name):
    with pytest.raises(DataError, match="cannot read"):
        load(csv=tmp_path / name, root=tmp_path)
