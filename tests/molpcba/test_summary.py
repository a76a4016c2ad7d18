"""Several seeds, the summary of runs, and predictions of a trained network."""

from __future__ import annotations

import json
import shutil

import pandas as pd
import pytest
import torch

from experiments.common import mean_and_deviation
from experiments.molpcba import predict, summary
from experiments.records import Records
from tests.molpcba.conftest import tiny_rows


def test_seeds_are_pooled_and_kinds_kept_apart(command, tmp_path, capsys):
    assert command("--seeds", "2", "--epochs", "2") == 0
    assert "2 seeds: test AP" in capsys.readouterr().out
    for name, flags in {"mean": ["--readout", "mean"], "clip": ["--inner-clip", "50.0"]}.items():
        assert command("--name", name, "--epochs", "2", *flags) == 0
    runs, out = sorted((tmp_path / "runs").glob("*")), tmp_path / "summary"
    assert summary.main([*map(str, runs), "--out", str(out)]) == 0
    records = Records(out)
    assert records.runs["row"].value_counts().to_dict() == {"run": 2, "clip": 1, "mean": 1}
    tests = [
        json.loads((tmp_path / "runs" / f"run-seed{seed}" / "results.json").read_text())["test"]
        for seed in (0, 1)
    ]
    assert sorted(records.runs.loc[records.runs["row"] == "run", "test"]) == sorted(tests)
    table = (out / "table.md").read_text()
    assert table in capsys.readouterr().out
    assert "AP on tiny (random, one split)" in table
    assert "| row | seeds | valid AP | test AP | seconds | parameters |" in table
    assert "| run | 2 | " in table
    assert f" | {mean_and_deviation(tests)} | " in table
    assert all((out / f"{name}.png").stat().st_size > 10_000 for name in ("outcome", "learning"))
    moved = (tmp_path / "runs" / "mean").rename(tmp_path / "runs" / "renamed")
    assert summary.main([str(moved), str(moved / "../renamed"), "--out", str(out)]) == 0
    assert Records(out).runs["row"].tolist() == ["renamed"]  # an earlier summary is replaced


def test_summary_refuses_what_cannot_be_compared(command, tmp_path, capsys):
    assert command("--epochs", "1") == 0
    assert command("--epochs", "1", "--name", "run-seed1", "--seed", "1", "--steps", "4") == 0
    assert command("--epochs", "1", "--name", "other", "--split-seed", "1") == 0
    for name, message in {
        "other": "/runs/other and the others in ",
        "run-seed1": "made with eval_steps 4",
    }.items():
        runs = [str(tmp_path / "runs" / own) for own in ("run", name)]
        assert summary.main([*runs, "--out", str(tmp_path / "s")]) == 2
        assert message in capsys.readouterr().err
    (tmp_path / "copy").mkdir()
    shutil.copytree(tmp_path / "runs" / "run", tmp_path / "copy" / "run")
    for damage, message in {
        None: "row run has another run with seed 0: rename one",
        "metrics.csv": "is not a whole run",
        "results.json": "results.json is damaged: delete it and --resume the run",
    }.items():
        if damage is not None:
            (tmp_path / "copy" / "run" / damage).write_text("")
        runs = [str(tmp_path / "runs" / "run"), str(tmp_path / "copy")]
        assert summary.main([*runs, "--out", str(tmp_path / "s")]) == 2
        assert message in capsys.readouterr().err
    assert summary.main([str(tmp_path), "--out", str(tmp_path / "t")]) == 2
    assert "no finished run" in capsys.readouterr().err
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(
    "flags", [["--ema", "0.5"], ["--readout", "pna+pyg-ea"], ["--model", "gcn"]]
)
def test_predictions_are_those_of_the_trained_network(command, tmp_path, tiny_data, flags):
    """For each readout that needs more than a checkpoint's weights to be built."""
    assert command("--epochs", "1", *flags) == 0
    path = tmp_path / "runs" / "run" / "checkpoints" / "best.ckpt"
    (tmp_path / "new.smi").write_text("\n".join(row["smiles"] for row in tiny_rows()[:5]))
    out = tmp_path / "out.csv"
    given = ["--checkpoint", str(path), "--smiles", str(tmp_path / "new.smi"), "--out", str(out)]
    assert predict.main(given) == 0
    table = pd.read_csv(out)[tiny_data.task_names]
    network, _ = predict.load_network(path)
    with torch.no_grad():
        expected = network(tiny_data.graphs.batch(torch.arange(5))).sigmoid()
    got = torch.tensor(table.to_numpy(), dtype=torch.float32)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)
