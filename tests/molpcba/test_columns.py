"""Files of molecules as people have them: separators, quotes, headers, encodings."""

from __future__ import annotations

import gzip
import io
import random
import sys
from pathlib import Path

import pytest

from experiments.common import UserError
from experiments.molpcba.data.columns import FIRST_SPACE, SPACE, read_columns
from experiments.molpcba.predict import read_smiles

SMILES = ("OCCO", "c1ccccc1O", "[Na+].[Cl-]", "C/C=C/C", "CC(C)(C)c1ccc(O)cc1", "N#N")


@pytest.fixture
def read(tmp_path):
    """Columns of a file with that text, as `predict` reads it."""

    def call(content, column=None, spaces=(FIRST_SPACE, SPACE)):
        path = tmp_path / "file.smi"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_columns(path, column, spaces)

    return call


def rows(columns) -> list[tuple[int, str, str]]:
    return list(read_smiles(columns)[["line", "smiles", "name"]].itertuples(index=False, name=None))


ODD = ["1,2-diol", '"iso"', '"', "'", ";", "\u2028", "\u2029", "\x0c", "\x0b", "\x1c", "\x85", "|"]
ODD += ["α", "100 %", "12", "1,5", "\\", "//", "#", "sep=;", "smiles", "a\tb", "x\u00a0y", "\x00"]


@pytest.mark.parametrize("gap", ["\t", " "])
def test_each_line_is_a_row_whatever_names_contain(read, gap):
    """Names with every character that separates or quotes somewhere else, in random mixtures."""
    generator = random.Random(0)
    for _ in range(150):
        names = ["-".join(generator.sample(ODD, 3)) for _ in range(generator.randint(2, 9))]
        made = [(generator.choice(SMILES), f"no {name} end") for name in names]
        columns = read("".join(f"{smiles}{gap}{name}\n" for smiles, name in made))
        expected = [(i, smiles, name) for i, (smiles, name) in enumerate(made, 1)]
        assert rows(columns) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("OCCO\tethane-1,2-diol\nCCN\tN,N-x\n", [("OCCO", "ethane-1,2-diol"), ("CCN", "N,N-x")]),
        ('CCO\tx\nCCC\t"iso"-y\n', [("CCO", "x"), ("CCC", '"iso"-y')]),
        ('CCO\t"x\nCCC\ty"\n', [("CCO", '"x'), ("CCC", 'y"')]),  # not a cell of two lines
        (
            '"x","y"\n"CCO","a, b"\n"CCC","c"d\n"CN","e"\n',  # one line without its quotes
            [("CCO", "a, b"), ('"CCC"', '"c"d'), ("CN", "e")],
        ),
        ("ID,Structure (SMILES)\nCN,CCO\nCO,CCC\n", [("CCO", "CN"), ("CCC", "CO")]),
        ("m1 CCO\nm2 CCC\n", [("CCO", "m1"), ("CCC", "m2")]),
        ("CCO\r\nCCC\r\n", [("CCO", ""), ("CCC", "")]),
        ("CCO\rCCC", [("CCO", ""), ("CCC", "")]),
        ("CCO a\rCCC b\nCC c\n", [("CCO", "a"), ("CCC", "b"), ("CC", "c")]),
        ("CCO |$;;R$|\ta\nCCC\tb\n", [("CCO |$;;R$|", "a"), ("CCC", "b")]),
        ("CC O\tx\nCCO\ty z\nCC\tz\n", [("CC O", "x"), ("CCO", "y z"), ("CC", "z")]),
        ("Структура;x\nCCO;a\nCCC;b\n", [("CCO", "a"), ("CCC", "b")]),
        ("sep=;;\nsmiles;x\nCCO;a\nCCC;b\n", [("CCO", "a"), ("CCC", "b")]),
        ("smiles,name\nCCO,a, b\nCCC,c\n", [("CCO", "a, b"), ("CCC", "c")]),
        ('name,x\n"a, b",CCO\nc,CCC\n', [("CCO", "a, b"), ("CCC", "c")]),
        ("CCO\tsmiles of x\nCCC\ty\n", [("CCO", "smiles of x"), ("CCC", "y")]),
        ("id;x;structure\n1;2;CCO\n2;3;CCC\n", [("CCO", "1;2"), ("CCC", "2;3")]),
        ("sep=;\nname;smiles\na;CCO\nb;CCC\n", [("CCO", "a"), ("CCC", "b")]),
        (
            "C1CC broken\nCCO fine\nCCC fine\n",
            [("C1CC", "broken"), ("CCO", "fine"), ("CCC", "fine")],
        ),
        ("CCO\n\nCCC\n", [("CCO", ""), ("", ""), ("CCC", "")]),
        ("  CCO  \t ethyl  alcohol \nCCC\n", [("CCO", "ethyl  alcohol"), ("CCC", "")]),
    ],
)
def test_separator_header_and_column_are_decided_over_all_lines(read, text, expected):
    assert [row[1:] for row in rows(read(text))] == expected


def test_line_numbers_are_those_of_the_file(read):
    text = 'name,remark,smiles\n\na,"two\nlines",CCO\nb,"",CCC\nc,"three\n\nlines",CC\n'
    columns = read(text)
    assert [line for line, _ in columns.rows] == [2, 3, 5, 6]
    assert rows(columns)[1] == (3, "CCO", "a,two\nlines")
    assert [line for line, _ in read("sep=,\nsmiles,x\nC,1\n").rows] == [3]


def test_a_row_without_its_column_has_a_reason(read):
    table = read_smiles(read("id,x,smiles\n1,2,CCO\n2,CCC\n3,4,CC\n"))
    assert table["smiles"].tolist() == ["CCO", "", "CC"]
    assert table["name"].tolist()[1] == "2,CCC"
    assert table["reason"].tolist() == ["", "2 columns instead of 3", ""]


def test_where_two_columns_could_be_the_smiles_the_flag_is_named(read):
    twice = "smiles,SMILES\nCCO,CCC\nCC,CN\n"
    both = "a_smiles,canonical_smiles\nCCO,OCC\n"
    for text in ("CN\tCCO\nCO\tCCC\n", both, "a,b\nx,y\n", twice, twice.lower()):
        with pytest.raises(UserError, match=r"column.* of SMILES.*--smiles-column names it"):
            read(text)
    assert [row[1] for row in rows(read("CN\tCCO\nCO\tCCC\n", "2"))] == ["CCO", "CCC"]
    assert [row[1] for row in rows(read(twice, "SMILES"))] == ["CCC", "CN"]
    with pytest.raises(UserError, match="several columns of SMILES"):
        read("smiles,smiles\nCCO,CCC\n", "smiles")
    with pytest.raises(UserError, match=r"^.{1,400}$"):  # not all of a cell
        read(f"CCO\t{'x' * 9_000}\nCC\ty\n")
    with pytest.raises(UserError, match="has no column '3'"):
        read("CN\tCCO\n", "3")


def test_what_was_decided_is_said(read):
    assert read("x;Structure\n1;CCO\n").about == (
        "1 rows, columns separated by semicolons, a header; SMILES in column 2 ('Structure'): 'CCO'"
    )
    assert "separated by tabs, no header; SMILES in column 1: 'CCO'" in read("CCO\tx\n").about


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32", "utf-32-le"]
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_encodings_and_gzip_are_told_by_the_first_bytes(read, encoding, pack):
    text = "smiles,name\r\nCCO,α\r\nCCC,β\r\n"
    assert [row[1:] for row in rows(read(pack(text.encode(encoding))))] == [
        ("CCO", "α"), ("CCC", "β"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("smiles,x\nC,1\nCC,é\n".encode("latin-1"), r"not UTF-8 text \(line 3 .* 0xe9\): save it"),
        (b"PK\x03\x04workbook", "is a workbook or an archive, not text: save it as 'CSV UTF-8'"),
        (gzip.compress(b"CCO\n", mtime=0)[:-3], "cannot be read"),
        (b"", "is empty and has no molecule"),
        (b"sep=;\n\n", "is empty and has no molecule"),
    ],
)
def test_what_is_no_text_is_refused_in_one_line(read, content, message):
    with pytest.raises(UserError, match=message) as error:
        read(content)
    assert "\n" not in str(error.value)


def test_standard_input(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("CCO\tα\n".encode())))
    assert rows(read_columns(Path("-"), None, [FIRST_SPACE])) == [(1, "CCO", "α")]
    with pytest.raises(UserError, match="does not exist"):
        read_columns(tmp_path / "gone", None, [FIRST_SPACE])
    with pytest.raises(UserError, match="cannot be read"):
        read_columns(tmp_path, None, [FIRST_SPACE])
