"""The loader benchmark measures what it says and reports a user's mistake in one line."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from benchmarks import loader


def test_table_and_csv(tiny_csv, tmp_path, capsys):
    arguments = ["--csv", str(tiny_csv), "--root", str(tmp_path), "--batch-sizes", "[4, 24]"]
    loader.main([*arguments, "--rounds", "2", "--out", str(tmp_path / "out")])
    table = pd.read_csv(tmp_path / "out" / "loader.csv")
    assert table["batch_size"].tolist() == [4, 24]
    assert table["graphs"].tolist() == [90, 90]
    assert table["cpu_ratio"].to_numpy() == pytest.approx(
        (table["pyg_cpu_ms"] / table["packed_cpu_ms"]).to_numpy()
    )
    assert loader.report(tmp_path / "out") in capsys.readouterr().out
    command = json.loads((tmp_path / "out" / "machine.json").read_text())["command"]
    assert command == (
        f"python -m benchmarks.loader --csv {tiny_csv.name} --batch-sizes [4, 24] --rounds 2"
    )


def test_missing_file(tmp_path):
    with pytest.raises(SystemExit, match="error: cannot read"):
        loader.main(["--csv", str(tmp_path / "absent.csv"), "--root", str(tmp_path)])
