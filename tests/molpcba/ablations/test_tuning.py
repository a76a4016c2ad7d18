"""Tuning a setting for each row before the study proper."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from experiments.molpcba.ablations import workers
from experiments.molpcba.ablations.records import Records
from experiments.molpcba.errors import UserError
from tests.molpcba.ablations.tiny import TINY, refused

TUNED = TINY + "tune: {setting: lr, values: [0.01, 0.0001, 0.03], seed: 50}\n"


def test_each_row_is_tuned_on_the_valid_part_of_a_seed_apart(
    call, folder, tmp_path, capsys, monkeypatch
):
    (folder / "tiny.yaml").write_text(TUNED)
    assert call("--rows", "mean", "ea-1", "--seeds", "1") == 0
    records, best = Records.read(tmp_path / "out"), {}
    for row in ("mean", "ea-1"):
        scores = {}
        for value in (0.01, 0.0001, 0.03):
            run = tmp_path / "runs" / "tiny-on-tiny" / f"{row}-lr{value}"
            assert json.loads((run / "results.json").read_text())["config"]["lr"] == value
            scores[value] = pd.read_csv(run / "metrics.csv")["valid_ap"][1:].mean()
        own = records.tuning[records.tuning["row"] == row]
        assert own["valid_last"].to_list() == pytest.approx(list(scores.values()))
        best[row] = max(scores, key=scores.__getitem__)
        config = json.loads(records.runs.set_index("row")["config"][row])
        assert (config["lr"], config["seed"]) == (best[row], 0)
    chosen = f"mean {best['mean']}, ea-1 {best['ea-1']}."
    assert (tmp_path / "out" / "table.md").read_text().endswith(chosen + "\n")

    made = []
    monkeypatch.setattr(workers, "run", lambda config: made.append(config.name))
    assert call("--rows", "mean", "ea-1", "--seeds", "1") == 0
    assert not made
    (folder / "tiny.yaml").write_text(TUNED.replace("0.0001, ", ""))
    assert "lr 0.0001: not tried in tiny" in refused(call, capsys)
    (folder / "tiny.yaml").write_text(TUNED.replace("seed: 50", "seed: 51"))
    assert "made with --seed 50, not 51" in refused(call, capsys)
    assert "--lr is what tiny tunes for each row" in refused(call, capsys, "--lr", "0.02")


def test_a_value_whose_run_fails_is_left_out(call, folder, tmp_path, monkeypatch, capsys):
    (folder / "tiny.yaml").write_text(TUNED)
    whole, failing = workers.run, [0.01]

    def run(config):
        if config.lr in failing:
            raise UserError("the loss is not a number")
        return whole(config)

    monkeypatch.setattr(workers, "run", run)
    assert call("--rows", "mean", "--seeds", "1") == 1
    assert "failed: mean-lr0.01, seed 50: the loss is not a number" in capsys.readouterr().err
    records = Records.read(tmp_path / "out")
    assert records.tuning["value"].to_list() == ["0.0001", "0.03"]
    assert len(records.runs) == 1
    failing += [0.0001, 0.03]
    assert "row ea-1: all runs to tune it failed" in refused(call, capsys, "--rows", "ea-1")
