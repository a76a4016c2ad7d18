"""The benchmark harness at sizes that take no time: what it writes, and how it reads it."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import torch

from benchmarks import model, peak
from benchmarks.__main__ import main
from benchmarks.analysis import ratio
from benchmarks.contestants import CONTESTANTS, chosen
from benchmarks.gin import molecules
from benchmarks.memory import most_allocated
from benchmarks.products import ProductCounter
from benchmarks.records import Recorder, read
from benchmarks.sections import Plan
from benchmarks.targets import targets
from benchmarks.timing import backward, interleaved
from benchmarks.workloads import Workload
from pyg_ea import solve_backend

MIB = 2**20
TINY = Workload("tiny", 60, 6, 8, steps=2, rounds=2)


@pytest.fixture
def recorder(tmp_path) -> Recorder:
    return Recorder(tmp_path)


def plan(*names: str) -> Plan:
    contestants = [CONTESTANTS[name] for name in names]
    return Plan(contestants=contestants, workloads=[TINY], quick=True)


def written(recorder: Recorder) -> pd.DataFrame:
    return read(recorder.write().parent)


def test_the_command_line_writes_records_machine_and_plot(tmp_path, capsys) -> None:
    out = tmp_path / "run"
    options = ["--quick", "--only", "layer", "--workloads", "bf16-64", "--contestants"]
    assert main([*options, "sum", "pyg", "unrolled", "unrolled+bf16", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "layer, bf16-64" in printed
    frame = read(out)
    assert set(frame["contestant"]) == {"sum", "pyg", "unrolled", "unrolled+bf16"}
    assert (frame["value"] > 0).all()
    steps = frame[frame["quantity"] == "step"]
    assert (steps.groupby("contestant")["repetition"].nunique() == 2).all()
    assert (out / "layer.png").stat().st_size > 1000
    machine = json.loads((out / "machine.json").read_text())
    assert machine["torch"] == torch.__version__
    assert {"cpu", "cores", "threads", "revision", "bf16_in_hardware"} <= set(machine)

    (out / "layer.png").unlink()
    assert main(["--show", str(out)]) == 0
    assert "layer, bf16-64" in capsys.readouterr().out
    assert (out / "layer.png").is_file(), "plots are made from the records alone"


def test_it_does_not_write_over_an_earlier_run(tmp_path, capsys) -> None:
    (tmp_path / "measurements.csv").write_text("kept")
    assert main(["--out", str(tmp_path)]) == 2
    assert "not empty" in capsys.readouterr().err
    assert (tmp_path / "measurements.csv").read_text() == "kept"


def test_showing_a_folder_without_records_is_an_error(tmp_path, capsys) -> None:
    assert main(["--show", str(tmp_path)]) == 2
    assert "holds no measurements.csv" in capsys.readouterr().err


def test_compiled_contestants_are_left_out_where_no_compiler_is(monkeypatch, capsys) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    names = {contestant.name for contestant in chosen(None)}
    assert names == {name for name in CONTESTANTS if "compile" not in name}
    assert capsys.readouterr().out.count("\n") == 1


def test_turns_are_interleaved() -> None:
    calls: list[str] = []
    turns = {name: lambda name=name: calls.append(name) or {"step": 1.0} for name in "ab"}
    found = [(name, repetition) for name, repetition, _ in interleaved(turns, 2, "label")]
    assert calls == ["a", "b", "a", "b"]
    assert found == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]


def test_every_contestant_takes_a_step_and_keeps_its_promise_of_memory() -> None:
    peaks = {}
    for name in ("unrolled", "checkpointed"):
        for steps in (3, 12):
            size = Workload("w", 2_000, 10, 32, steps=steps)
            peaks[name, steps] = peak.peak(CONTESTANTS[name], size, training=True)
    assert peaks["unrolled", 12] > 2 * peaks["unrolled", 3]
    assert peaks["checkpointed", 12] < 1.2 * peaks["checkpointed", 3]


def test_peak_of_allocations_is_exact_whatever_came_before() -> None:
    def function() -> None:
        first = torch.empty(MIB // 4)
        second = torch.empty(2 * MIB // 4)
        del first
        third = torch.empty(MIB // 8)
        del second, third

    left_over = []
    assert most_allocated(function) == 3 * MIB
    most_allocated(lambda: left_over.append(torch.empty(MIB)))
    assert most_allocated(function) == 3 * MIB


def test_whole_models_are_timed(recorder) -> None:
    model.measure(plan("sum", "unrolled"), recorder)
    frame = written(recorder)
    found = set(zip(frame["contestant"], frame["steps"], strict=True))
    assert found == {("sum", 0), *(("unrolled", steps) for steps in model.STEPS)}
    claims = targets(frame)["claim"].tolist()
    assert claims == [f"GIN with EA-{steps} (exact) / sum" for steps in (2, 5, 10)]


def test_random_molecules_are_as_large_as_molecules_and_the_same_each_time() -> None:
    batch = molecules(200)
    assert 24 < batch.num_nodes / 200 < 28
    assert 26 < batch.num_edges / 2 / 200 < 30
    assert batch.y.shape == (200, 128)
    again = molecules(200)
    assert torch.equal(batch.edge_index, again.edge_index)


def test_the_products_of_a_training_step_are_counted() -> None:
    contestant = CONTESTANTS["unrolled"]
    layer = contestant.layer(TINY.channels, TINY.steps)
    x, index = TINY.data()
    with solve_backend("torch"), ProductCounter() as counter:
        backward(contestant.forward(layer, x, index, TINY.segments))
    n, s, d, steps = TINY.elements, TINY.segments, TINY.channels, TINY.steps
    # Multiply-adds an element: B six times and W3 seven; A_y on segments, six times. Once for all
    # steps: A x with its two derivatives, and A, B and W3 themselves, composed.
    wide, outer = 2 * d, d + 32
    a_step = n * (6 * wide * outer + 7 * 32 * d) + s * 6 * (3 * d + 32) * d
    least = 2 * (steps * a_step + 3 * n * (3 * d + 32) * d)
    composed = 2 * 3 * (32 * d * wide + (d + 32) * wide * wide)
    assert least <= counter.total <= least + composed


def test_ratios_are_taken_within_rounds() -> None:
    rows = [
        {"contestant": name, "repetition": r, "value": value, "quantity": "step"}
        for name, values in (("ours", (1.0, 10.0, 3.0)), ("peer", (2.0, 20.0, 12.0)))
        for r, value in enumerate(values)
    ]
    found = ratio(pd.DataFrame(rows), "ours", "peer", quantity="step")
    assert (found.median, found.low, found.high) == (0.5, 0.25, 0.5)
    assert ratio(pd.DataFrame(rows), "ours", "nobody") is None
