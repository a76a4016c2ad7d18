"""The scale benchmark, on a stand-in of a few rows."""

from __future__ import annotations

import json
import os

import pytest

from benchmarks import scale


def test_record(tiny_csv, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    split, out = tmp_path / "split", tmp_path / "out"
    split.mkdir()
    for part, rows in {"train": range(40), "valid": range(40, 60), "test": range(60, 90)}.items():
        (split / f"{part}.csv").write_text("".join(f"{row}\n" for row in rows))
    places = ["--csv", tiny_csv, "--split", split, "--root", tmp_path / "data", "--out", out]
    scale.main([*map(str, places), "--steps", "1"])
    written = json.loads((out / "scale.json").read_text())
    measured = written["measured"]
    assert (written["rows"], measured["molecules"], measured["batches"]) == (90, 90, 2)
    assert all(value > 0 for value in measured.values())
    parts = ["interpreter, s", "imports, s", "opening the cache, s", "first batch, s"]
    whole = measured["first batch since process start, s"]
    assert sum(measured[part] for part in parts) == pytest.approx(whole, abs=0.01)
    assert "(aim 20: " in capsys.readouterr().out


def test_missing_file(tmp_path):
    with pytest.raises(SystemExit, match="error: cannot read"):
        scale.main(["--csv", str(tmp_path / "absent.csv"), "--root", str(tmp_path)])


def test_resident_memory_of_this_process():
    assert 10 * 2**20 < scale.resident(os.getpid()) < 2**40
