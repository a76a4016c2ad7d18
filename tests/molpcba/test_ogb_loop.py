"""OGB's plain loop against the trainer, on the tiny set."""

from __future__ import annotations

import json

import pandas as pd

from benchmarks import ogb_loop


def test_records_and_table(tiny_csv, tiny_root, tiny_data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("experiments.molpcba.__main__.plot_run", lambda folder: None)
    monkeypatch.setattr(ogb_loop, "EA_SEEDS", 1)
    out = tmp_path / "out"
    words = "--width 8 --layers 2 --epochs 2 --batch-size 16 --lr 0.01 --dropout 0 --seeds 2"
    flags = [*words.split(), "--csv", str(tiny_csv), "--root", str(tiny_root), "--out", str(out)]
    assert ogb_loop.main(flags) == 0
    records = pd.read_csv(out / "records.csv")
    loops = ["OGB's loop, sum", "trainer, sum", "trainer, EA-15"]
    assert records["loop"].tolist() == loops + loops[:2]
    assert records["seed"].tolist() == [0, 0, 0, 1, 1]
    assert (records["seconds"] > 0).all()
    assert records["test"].between(0, 1).all()
    assert "benchmarks.ogb_loop" in json.loads((out / "machine.json").read_text())["command"]
    table = ogb_loop.table(records).set_index("loop")
    assert list(table.index) == loops
    assert table["time / OGB's"]["OGB's loop, sum"] == 1
    assert table["seeds"].tolist() == [2, 2, 1]
    test = records.pivot(index="seed", columns="loop", values="test")
    gap = (test["trainer, sum"] - test["OGB's loop, sum"]).mean()
    assert table["test - OGB's"]["trainer, sum"].startswith(f"{gap:+.4f} ± ")
    assert ogb_loop.report(out) in capsys.readouterr().out
    assert ogb_loop.main(flags) == 2
    assert "give --out a new folder" in capsys.readouterr().err
