"""Predictions for files as people have them, through the command line."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from experiments.molpcba.__main__ import main
from experiments.molpcba.predict import main as predict
from tests.molpcba.conftest import tiny_rows

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "experiments.molpcba.predict"]
SHORT = "--width 8 --layers 1 --steps 1 --epochs 1 --batch-size 32 --readout mean --name run"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run."""
    folder = tmp_path_factory.mktemp("trained")
    lines = [f"{row['smiles']},{row['oxygen']}" for row in tiny_rows()]
    (folder / "table.csv").write_text("\n".join(["smiles,active", *lines]) + "\n")
    places = ["--csv", folder / "table.csv", "--root", folder / "data", "--runs-dir", folder]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.molpcba.__main__.plot_run", lambda folder: None)
        assert main([*SHORT.split(), *map(str, places)]) == 0
    return folder / "run"


@pytest.fixture
def call(run, tmp_path, capsys):
    """Calls the command with flags that replace the usual ones; the exit code and what it said."""

    def call(**flags):
        given = {"checkpoint": run, "smiles": tmp_path / "in.smi", "out": tmp_path / "out.csv"}
        given |= flags
        words = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
        code = predict([word.removesuffix("=True") for word in words])
        printed = capsys.readouterr()
        assert code in (0, 2)
        assert "Traceback" not in printed.err
        return code, printed

    return call


@pytest.fixture
def predicted(call, tmp_path):
    """The table predicted for a file with that text, and what was printed."""

    def predicted(text, **flags):
        (tmp_path / "in.smi").write_bytes(text.encode())
        out = tmp_path / "out.csv"
        out.unlink(missing_ok=True)
        code, printed = call(**flags)
        return (pd.read_csv(out, keep_default_na=False) if code == 0 else None), printed

    return predicted


def test_one_row_for_each_line_with_its_name(predicted):
    text = "CCO\tethanol\nC1CC\tbroken ring\n\nc1ccccc1O\tphenol\nCCO\tethanol again\n"
    rows, printed = predicted(text)
    assert list(rows) == ["line", "name", "smiles", "active", "reason"]
    assert rows["line"].tolist() == [1, 2, 3, 4, 5]
    assert rows["name"].tolist() == ["ethanol", "broken ring", "", "phenol", "ethanol again"]
    assert rows["smiles"].tolist() == ["CCO", "C1CC", "", "c1ccccc1O", "CCO"]
    assert rows["active"].tolist()[0] == rows["active"].tolist()[4] != ""
    assert rows["active"].tolist()[1:3] == ["", ""]
    assert rows["reason"].tolist() == ["", "not a SMILES", "no atoms", "", ""]
    assert "3 molecules of 5 lines: probabilities of 'active' in" in printed.out
    assert "in.smi: 5 rows, columns separated by tabs, no header; SMILES in column 1" in printed.err


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("SMILES ID\nCCO m1\nc1ccccc1O m2\n", ["m1", "m2"]),
        ("\ufeffCCO\tm1\r\nc1ccccc1O\tm2\r\n", ["m1", "m2"]),
        ("smiles,id\nCCO,m1\nc1ccccc1O,m2\n", ["m1", "m2"]),
        ("id;canonical_smiles\nm1;CCO\nm2;c1ccccc1O\n", ["m1", "m2"]),
        ("CCO\nc1ccccc1O", ["", ""]),
        ('CCO\t"a",\u2028b\x0c;c\nc1ccccc1O\tα\n', ['"a",\u2028b\x0c;c', "α"]),
    ],
)
def test_headers_and_tables_are_recognised(predicted, text, names):
    rows, _ = predicted(text)
    assert rows["smiles"].tolist() == ["CCO", "c1ccccc1O"]
    assert rows["name"].tolist() == names
    assert np.isfinite(rows["active"].astype(float)).all()


def test_a_column_is_chosen_by_the_flag(predicted):
    text = "CN\tCCO\nCO\tc1ccccc1O\n"
    assert "--smiles-column names it" in predicted(text)[1].err
    rows, printed = predicted(text, smiles_column=2)
    assert rows["smiles"].tolist() == ["CCO", "c1ccccc1O"]
    assert rows["name"].tolist() == ["CN", "CO"]
    assert "SMILES in column 2: 'CCO', 'c1ccccc1O'" in printed.err
    for wrong in ("3", "x"):
        assert f"no column '{wrong}'" in predicted(text, smiles_column=wrong)[1].err


def test_a_molecule_too_large_is_a_row_with_its_reason(predicted):
    chains = ["C" * 60_000, "C" * 6_000, "C" * 3_000, "C" * 2_000_000]
    drugs = [row["smiles"] for row in tiny_rows()[:10]]
    alone = predicted("\n".join(drugs))[0]["active"].astype(float)
    start = time.monotonic()
    rows, _ = predicted("\n".join([*drugs[:5], *chains, *drugs[5:]]))
    assert time.monotonic() - start < 30
    reasons = rows["reason"].tolist()
    assert [i for i, reason in enumerate(reasons) if reason] == [5, 6, 8]
    assert reasons[6] == "too large: 6,000 atoms, more than the limit of 5,000 atoms"
    values = pd.to_numeric(rows["active"])
    together = values[[*range(5), *range(9, 14)]].to_numpy()
    np.testing.assert_allclose(together, alone, atol=1e-6)  # in other batches
    assert np.isfinite(values[7])


def test_the_run_is_a_folder_or_a_checkpoint(predicted, run, tmp_path):
    best = run / "checkpoints" / "best.ckpt"
    by_folder, by_file = (predicted("CCO\n", checkpoint=path)[0] for path in (run, best))
    pd.testing.assert_frame_equal(by_folder, by_file)
    message = predicted("CCO\n", checkpoint=run.parent)[1].err
    assert "has no checkpoints/best.ckpt: expected runs/NAME, or a file" in message
    assert "does not exist" in predicted("CCO\n", checkpoint=tmp_path / "gone")[1].err
    damaged = tmp_path / "best.ckpt"
    damaged.write_bytes(best.read_bytes()[:500])
    assert "best.ckpt is damaged" in predicted("CCO\n", checkpoint=damaged)[1].err


def test_what_cannot_be_read_is_one_line(predicted, call, tmp_path):
    assert "has no molecule" in predicted("XX\n")[1].err
    assert "has no molecule" in predicted("")[1].err
    assert "in.csv does not exist" in call(smiles=tmp_path / "in.csv")[1].err
    assert "is no file: write SMILES to a file, or to standard" in call(smiles="c1ccccc1O")[1].err
    assert "Is a directory" in call(smiles=tmp_path)[1].err
    with pytest.raises(SystemExit):
        call(batch_size=0)


def test_nothing_is_overwritten_that_was_not_to_be(call, run, tmp_path):
    source, out = tmp_path / "in.smi", tmp_path / "out.csv"
    source.write_text("CCO\n")
    out.write_text("mine")
    copy = tmp_path / "copy.ckpt"
    shutil.copy(run / "checkpoints" / "best.ckpt", copy)
    os.link(source, tmp_path / "hard link")
    os.symlink(out, tmp_path / "link")
    os.mkfifo(tmp_path / "pipe")
    before = {path: path.read_bytes() for path in (source, out, copy)}
    assert "out.csv exists: choose another file, or add --overwrite" in call()[1].err
    for name in ("in.smi", "hard link", "copy.ckpt", "link", "pipe", ".", "/dev/null"):
        code, printed = call(out=tmp_path / name, checkpoint=copy, overwrite=True)
        assert code == 2
        assert "is an input" in printed.err or "is not a regular file" in printed.err
    assert before == {path: path.read_bytes() for path in before}
    assert call(overwrite=True)[0] == 0
    assert out.read_text().startswith("line,name,smiles,active,reason\n1,,CCO,0.")


def test_a_file_made_meanwhile_is_kept(call, tmp_path, monkeypatch):
    """As by another process with the same --out."""
    from experiments.molpcba import predict as module

    original = module.predict
    (tmp_path / "in.smi").write_text("CCO\n")

    def predict(*given):
        (tmp_path / "out.csv").write_text("another's")
        return original(*given)

    monkeypatch.setattr(module, "predict", predict)
    assert re.search(r"File exists: '.*out.csv'\): .* choose another", call()[1].err)
    assert (tmp_path / "out.csv").read_text() == "another's"
    assert not list(tmp_path.glob(".*.tmp"))


def test_tasks_may_have_the_names_of_our_columns(predicted, run, tmp_path):
    checkpoint = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    checkpoint["pyg_ea"]["task_names"] = ["reason"]
    torch.save(checkpoint, tmp_path / "best.ckpt")
    rows, _ = predicted("CCO\n", checkpoint=tmp_path / "best.ckpt")
    assert list(rows) == ["line", "name", "smiles", "reason (predicted)", "reason"]


def test_a_checkpoint_with_other_content_or_weights(predicted, run, tmp_path):
    """One line, or a reason in each row."""
    path = tmp_path / "best.ckpt"
    content = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    for other in ({"pyg_ea": 1}, {"pyg_ea": {}}, {"state_dict": None}, {"state_dict": {}}, {}):
        torch.save({**content, **other} if other else {"a": 1}, path)
        assert "best.ckpt is not a ch" in (error := predicted("CCO\n", checkpoint=path)[1].err) or (
            "is of another version" in error
        )
    content["state_dict"]["network.head.bias"] *= float("nan")
    torch.save(content, path)
    rows, _ = predicted("CCO\nXX\n", checkpoint=path)
    assert rows["reason"].tolist() == ["the output is not finite", "not a SMILES"]


def test_files_and_streams_are_utf_8_whatever_the_locale(run, tmp_path):
    """Names, file names and standard input in Greek, under the locale C."""
    out = tmp_path / "αβγ.csv"
    done = subprocess.run(
        [*COMMAND, "--checkpoint", str(run), "--smiles", "-", "--out", str(out)],
        input="CCO\tαιθανόλη\n\u2028\nCCC\t\n".encode(), capture_output=True, cwd=ROOT,
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    rows = pd.read_csv(out, keep_default_na=False, encoding="utf-8")
    assert rows["name"].tolist() == ["αιθανόλη", "", ""]
    assert "αβγ.csv" in done.stdout.decode()
    assert "-: 3 rows" in done.stderr.decode()


RACE = """
import os, sys
from pathlib import Path
from experiments.molpcba.config import Config
from experiments.molpcba.data import load, prepared
from experiments.molpcba.predict import main
run, folder = sys.argv[1], Path(sys.argv[2])
(folder / "in.smi").write_text("CCO\\nCCC\\n")

def prepare(root, number):
    def once(*given):
        (root / f"prepared by {number}").touch()
        return original(*given)
    original, prepared.prepare_table = prepared.prepare_table, once
    load(Config(csv=str(Path(run).parent / "table.csv"), root=str(root)))
    return 0

def predict(root, number):
    return main(["--checkpoint", run, "--smiles", str(folder / "in.smi"), "--out", f"{root}/o.csv"])

for job in (prepare, predict):
    for attempt in range(3):
        root = folder / f"{job.__name__} {attempt}"
        root.mkdir()
        children = []
        for number in range(2 + attempt % 3):
            if not (child := os.fork()):
                os._exit(job(root, number))
            children.append(child)
        codes = sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
        print(job.__name__, *codes)
"""


def test_any_number_of_processes_at_once(run, tmp_path):
    """One prepares the data and the others use it; one writes its predictions, no other does."""
    done = subprocess.run(
        [sys.executable, "-c", RACE, str(run), str(tmp_path)],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith(("prep", "predict "))]
    for attempt in range(3):
        others = 1 + attempt % 3
        assert lines[attempt] == "prepare" + " 0" * (1 + others), done.stderr
        assert lines[3 + attempt] == "predict 0" + " 2" * others, done.stderr
        root = tmp_path / f"prepare {attempt}"
        assert len(list(root.glob("prepared by*"))) == len(list(root.glob("*.pt"))) == 1
        assert len((tmp_path / f"predict {attempt}" / "o.csv").read_text().splitlines()) == 3
    assert not list(tmp_path.glob("*/.*.tmp"))
