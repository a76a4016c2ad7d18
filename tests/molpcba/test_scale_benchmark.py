"""The scale benchmark, on a stand-in of a few hundred rows."""

from __future__ import annotations

import csv
import json
import os

import pytest

from benchmarks import scale


def test_record(tiny_csv, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    root, out = tmp_path / "data", tmp_path / "out"
    arguments = ["--csv", tiny_csv, "--rows", 200, "--steps", 1, "--root", root, "--out", out]
    scale.main([str(word) for word in arguments])
    with open(root / "tiny-200.csv", newline="") as copy, open(tiny_csv, newline="") as original:
        rows, source = list(csv.reader(copy)), list(csv.reader(original))
    assert len(rows) == 201
    assert rows[91:181] == source[1:]
    written = json.loads((out / "scale.json").read_text())
    measured = written["measured"]
    assert (written["rows"], measured["molecules"]) == (200, 200)
    assert all(value > 0 for value in measured.values() if isinstance(value, float | int))
    parts = ["interpreter, s", "imports, s", "opening the cache, s", "first batch, s"]
    whole = measured["first batch since process start, s"]
    assert sum(measured[part] for part in parts) == pytest.approx(whole, abs=0.01)
    assert "(aim 20: met)" in capsys.readouterr().out


def test_missing_file(tmp_path):
    with pytest.raises(SystemExit, match="error: cannot read"):
        scale.main(["--csv", str(tmp_path / "absent.csv"), "--root", str(tmp_path)])


def test_resident_memory_of_this_process():
    assert 10 * 2**20 < scale.resident(os.getpid()) < 2**40
