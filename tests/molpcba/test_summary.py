"""Several seeds, their summary, and predictions for new molecules."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

from experiments.molpcba import predict, summary
from experiments.molpcba.seeds import mean_and_deviation


def test_mean_and_unbiased_deviation():
    values = [0.25, 0.5, 0.3]
    expected = f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"
    assert mean_and_deviation(values) == expected
    assert mean_and_deviation([0.5]) == "0.5000"


def test_seeds_are_pooled_and_kinds_kept_apart(command, tmp_path, capsys):
    assert command("--seeds", "2", "--epochs", "2") == 0
    assert "2 seeds: test AP" in capsys.readouterr().out
    assert command("--readout", "mean", "--name", "mean", "--epochs", "2") == 0
    runs = sorted((tmp_path / "runs").glob("*"))
    out = tmp_path / "summary"
    assert summary.main([*map(str, runs), "--out", str(out)]) == 0
    table = pd.read_csv(out / "summary.csv").set_index("run")
    assert table["seeds"].to_dict() == {"gin-ea3": 2, "gin-mean": 1}
    tests = [
        json.loads((tmp_path / "runs" / f"run-seed{seed}" / "results.json").read_text())["test"]
        for seed in (0, 1)
    ]
    assert table["test_mean"]["gin-ea3"] == pytest.approx(sum(tests) / 2)
    assert "AP on tiny (random split" in (out / "summary.md").read_text()
    assert (out / "summary.png").stat().st_size > 10_000


def test_kinds_with_the_same_name_are_told_apart_by_their_settings(command, tmp_path):
    for name, flags in {"one": [], "two": ["--inner-clip", "50.0", "--lr", "0.02"]}.items():
        assert command("--name", name, "--epochs", "1", *flags) == 0
    summary.summarise(sorted((tmp_path / "runs").glob("*")), tmp_path / "s")
    first = json.loads((tmp_path / "runs" / "one" / "results.json").read_text())["config"]["lr"]
    assert set(pd.read_csv(tmp_path / "s" / "summary.csv")["run"]) == {
        f"gin-ea3 (inner_clip not set, lr {first})",
        "gin-ea3 (inner_clip 50.0, lr 0.02)",
    }


def test_summary_refuses_to_mix_data(command, tmp_path, capsys):
    assert command("--epochs", "1") == 0
    assert command("--epochs", "1", "--name", "other", "--split-seed", "1") == 0
    runs = [str(tmp_path / "runs" / name) for name in ("run", "other")]
    assert summary.main([*runs, "--out", str(tmp_path / "s")]) == 2
    assert "cannot be compared" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_predictions_are_those_of_the_trained_network(command, tmp_path, tiny_data, capsys):
    assert command("--epochs", "1", "--ema", "0.5") == 0
    path = tmp_path / "runs" / "run" / "checkpoints" / "best.ckpt"
    lines = [*list(tiny_data.smiles)[:5], "not a molecule", "CCO some name", ""]
    (tmp_path / "new.smi").write_text("\n".join(lines))
    out = tmp_path / "out.csv"
    given = ["--checkpoint", str(path), "--smiles", str(tmp_path / "new.smi"), "--out", str(out)]
    assert predict.main(given) == 0
    assert "line 6: 'not' left out" in capsys.readouterr().err
    table = pd.read_csv(out)
    assert list(table.columns) == ["smiles", *tiny_data.task_names]
    assert len(table) == 6
    network, _ = predict.load_network(path)
    with torch.no_grad():
        expected = network(tiny_data.graphs.batch(torch.arange(5))).sigmoid()
    got = torch.tensor(table[tiny_data.task_names].to_numpy()[:5], dtype=torch.float32)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("checkpoint", "text", "message"),
    [(None, "CCO", "there is no checkpoint"), (b"junk", "CCO", "is damaged")],
)
def test_bad_checkpoints_are_named(tmp_path, capsys, checkpoint, text, message):
    if checkpoint is not None:
        (tmp_path / "a.ckpt").write_bytes(checkpoint)
    (tmp_path / "a.smi").write_text(text)
    given = ["--checkpoint", str(tmp_path / "a.ckpt"), "--smiles", str(tmp_path / "a.smi")]
    assert predict.main(given) == 2
    assert message in capsys.readouterr().err
