"""Studies through the command line: grid, tuning, resumption, failures, refusals, report."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from experiments import records as record_module
from experiments import studies as molpcba
from experiments.common import UserError, owned
from experiments.engine import Grid, _step, run_study
from experiments.molpcba.config import parse, to_dict
from experiments.records import RECORDS, Outcome, Records
from experiments.report import main as report
from experiments.report import markdown
from experiments.studies import main
from tests.molpcba.conftest import tiny_csv, tiny_data, tiny_root  # noqa: F401 (fixtures)

TINY = """
# Two readouts.
base: {width: 8, layers: 1, batch_size: 16, lr: 0.01, dropout: 0, epochs: 5, steps: 2, readout: ea}
reference: mean
rows:
  mean: {readout: mean}
  ea-1: {steps: 1}
  mean-head: {readout: mean, match: ea-1}
"""
SHIPPED = molpcba.FOLDER
RUNS = [(row, seed) for row in ("mean", "ea-1", "mean-head") for seed in (0, 1)]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder of studies with the study ``tiny``."""
    path = tmp_path / "studies"
    path.mkdir()
    (path / "tiny.yaml").write_text(TINY)
    monkeypatch.setattr(molpcba, "FOLDER", path)
    monkeypatch.setattr("experiments.molpcba.__main__.plot_run", lambda folder: None)
    return path


@pytest.fixture
def flags(tiny_csv, tiny_root, tiny_data, tmp_path) -> list[str]:  # noqa: F811
    places = ["--csv", tiny_csv, "--root", tiny_root]
    return ["tiny", *map(str, places), "--out", str(tmp_path / "out")]


@pytest.fixture
def call(folder, flags):
    """Calls the command with the tiny study and molecules, in this process."""
    return lambda *more: main([*flags, "--seeds", "2", *more])


def refused(call, capsys, *flags: str) -> str:
    capsys.readouterr()
    assert call(*flags) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_a_study_leaves_paired_records_and_a_table(call, tmp_path, capsys):
    assert call() == 0
    records = Records(tmp_path / "out")
    assert list(zip(records.runs["row"], records.runs["seed"], strict=True)) == RUNS
    assert records.runs.groupby("seed")["fingerprint"].nunique().tolist() == [1, 1]
    assert records.runs["fingerprint"].nunique() == 2  # a split for each seed
    assert len(records.curves) == 5 * len(RUNS)
    parameters = records.runs.groupby("row")["parameters"].first()
    assert parameters["mean-head"] == pytest.approx(parameters["ea-1"], rel=0.05)
    text = (tmp_path / "out" / "table.md").read_text()
    assert text in capsys.readouterr().out
    cells = [cell.strip() for cell in text.splitlines()[5].split("|")]
    own, other = (records.runs[records.runs["row"] == row] for row in ("ea-1", "mean"))
    gap = (own["test"].to_numpy() - other["test"].to_numpy()).mean()
    assert cells[1:3] == ["ea-1", "2"]
    assert cells[7].startswith(f"{gap:+.4f} ± ")
    for picture in ("outcome.png", "learning.png"):
        (tmp_path / "out" / picture).unlink()
    assert report([str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "outcome.png").stat().st_size > 10_000


def test_times_of_a_cpu_and_a_gpu_are_not_compared(call, tmp_path):
    assert call("--rows", "mean", "ea-1", "--seeds", "1") == 0
    records = Records(tmp_path / "out")
    runs, on_cpu = records.runs, '"accelerator": "auto"'
    of_ea = runs["row"] == "ea-1"
    assert runs["config"].str.contains(on_cpu).all()
    runs.loc[of_ea, "config"] = runs["config"].str.replace(on_cpu, '"accelerator": "gpu"')
    runs["train_seconds"] = 1.0
    text = markdown(records)
    assert "1 thread(s) or, of ea-1, a GPU;" in text
    ratios = [line.split("|")[-3].strip() for line in text.splitlines()[4:6]]
    assert ratios == ["1.00", ""]


def test_a_second_call_makes_only_what_is_missing(call, tmp_path, monkeypatch):
    assert call("--rows", "mean") == 0
    before = Records(tmp_path / "out").runs
    made = []
    train = molpcba.train
    monkeypatch.setattr(molpcba, "train", lambda config: made.append(config.name) or train(config))
    assert call("--rows", "mean", "ea-1") == 0
    assert made == ["ea-1-seed0", "ea-1-seed1"]
    after = Records(tmp_path / "out").runs
    pd.testing.assert_frame_equal(after[after["row"] == "mean"], before)


def test_a_value_is_chosen_for_each_row(call, folder, tmp_path):
    tune = "tune: {values: {lr: [1e-4, 0.02]}, seed: 9}\n"
    (folder / "tiny.yaml").write_text(TINY + tune)
    assert call("--rows", "mean", "ea-1") == 0
    records = Records(tmp_path / "out")
    assert len(records.tuning) == 4
    best = records.best_values(is_lower_better=False)
    assert best["mean"] == {"lr": 0.02}
    for run in records.runs.itertuples():
        assert json.loads(run.config)["lr"] == best[run.row]["lr"]
    assert "lr is each row's best of 0.0001, 0.02" in (tmp_path / "out" / "table.md").read_text()


def test_tries_may_be_shorter(call, folder, tmp_path, capsys):
    assert "tunes no setting" in refused(call, capsys, "--tuning-epochs", "2")
    (folder / "tiny.yaml").write_text(TINY + "tune: {values: {lr: [0.01]}, seed: 9}\n")
    assert "--epochs" in refused(call, capsys, "--tuning-epochs", "0")
    assert call("--rows", "mean", "--tuning-epochs", "2") == 0
    records = Records(tmp_path / "out")
    assert [json.loads(own)["epochs"] for own in records.tuning["config"]] == [2]
    assert records.runs["epochs"].tolist() == [5, 5]


def test_a_study_says_how_much_there_is_to_do(call, tmp_path, capsys):
    said = r"2 runs of about .*\bs, about .* in all \(--jobs 1\); records in .*/out$"
    handler = signal.getsignal(signal.SIGTERM)
    assert call("--rows", "mean") == 0
    assert re.match(said, capsys.readouterr().out.splitlines()[0])
    table = tmp_path / "out" / "table.md"
    table.write_text("mine")
    assert signal.getsignal(signal.SIGTERM) is handler
    assert call("--rows", "mean") == 0
    out = capsys.readouterr().out
    assert out.startswith(
        f"all 2 runs are recorded in {tmp_path / 'out'}: python -m experiments.rep"
    )
    assert table.read_text() == "mine"
    assert call("--rows", "mean", "ea-1") == 0
    assert "2 runs (2 more are recorded) of about" in capsys.readouterr().out


def test_a_study_has_its_folder_to_itself(call, tmp_path, capsys):
    with owned(tmp_path / "out", "--out"):
        assert "another process is at work" in refused(call, capsys, "--rows", "mean")
    with owned(tmp_path / "out" / "runs" / "mean-seed0", "--name"):
        assert call("--rows", "mean") == 1
    assert "failed: mean-seed0: another process is at work" in capsys.readouterr().err
    assert call("--rows", "mean") == 0


def test_killed_between_a_curve_and_its_record(call, tmp_path, monkeypatch):
    """The run is made again, and its curve is there once."""
    original = record_module.write_text

    def write_text(path, text):
        if path.name == "records.csv":
            raise KeyboardInterrupt
        original(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(record_module, "write_text", write_text)
        assert call("--rows", "mean") == 130
    assert Records(tmp_path / "out").runs.empty
    assert call("--rows", "mean") == 0
    curves = Records(tmp_path / "out").curves
    assert not curves.duplicated(["row", "seed", "epoch"]).any()
    assert len(curves) == 10


def test_several_values_are_chosen_and_the_edge_is_not(call, folder, tmp_path, monkeypatch):
    tune = (
        "{values: {input_norm: [null, layer], lr: [0.01, 0.03]}, extend: lr, seed: 9, others: {}}"
    )
    (folder / "tiny.yaml").write_text(f"{TINY}tune: {tune}\n")
    scores = {0.01: 0.3, 0.03: 0.4, 0.1: 0.5, 0.3: 0.2}  # valid_last of the rows with a norm
    made = []

    def outcome(run, path):
        made.append(run.name)
        lr, norm = run.settings["lr"], run.settings.get("input_norm")
        curve = pd.DataFrame({"epoch": [0], "valid": [0.1], "test": [0.1]})
        record = dict.fromkeys(RECORDS, 0) | {"data": "tiny", "split": "random", "graphs": ""}
        return Outcome(record, curve, scores[lr] - (norm is None))

    def grid(self, flags, data):
        return replace(make(self, flags, data), perform=outcome, identity={})

    make = molpcba.Study.grid
    monkeypatch.setattr(molpcba.Study, "grid", grid)
    monkeypatch.setattr("experiments.engine.report", lambda out: "")
    assert call("--rows", "mean") == 0
    tries = [f"mean-input_norm{norm}-lr{lr}" for norm in ("None", "layer") for lr in (0.01, 0.03)]
    beyond = [f"mean-input_normlayer-lr{lr}" for lr in (0.1, 0.3)]
    assert made == [*tries, *beyond, "mean-seed0", "mean-seed1"]
    records = Records(tmp_path / "out")
    assert records.best_values(False) == {"mean": {"input_norm": "layer", "lr": 0.1}}
    chosen = records.runs["config"].map(json.loads)
    assert [(own["input_norm"], own["lr"]) for own in chosen] == [("layer", 0.1)] * 2
    assert call("--rows", "mean") == 0
    assert len(made) == 8


def test_the_next_values_are_one_and_three_times_a_power_of_ten():
    assert [_step(own, 1) for own in (0.003, 0.01, 0.0003, 1)] == [0.01, 0.03, 0.001, 3]
    assert [_step(own, -1) for own in (0.003, 0.01, 0.0003, 1)] == [0.001, 0.003, 0.0001, 0.3]


def test_a_failed_run_is_named_and_made_next_time(call, tmp_path, monkeypatch, capsys):
    train = molpcba.train

    def fails(config):
        if config.name == "mean-seed1":
            raise UserError("no luck")
        if config.name == "ea-1-seed0":
            raise ZeroDivisionError
        return train(config)

    with monkeypatch.context() as patch:
        patch.setattr(molpcba, "train", fails)
        assert call("--rows", "mean", "ea-1") == 1
    error = capsys.readouterr().err
    assert "failed: mean-seed1: no luck" in error
    assert "failed: ea-1-seed0: ZeroDivisionError, see" in error
    assert "| mean | 1 |" in (tmp_path / "out" / "table.md").read_text()
    assert call("--rows", "mean", "ea-1") == 0
    assert "| mean | 2 |" in (tmp_path / "out" / "table.md").read_text()


def test_refusals_are_one_line(call, folder, tmp_path, capsys):
    assert call("--rows", "mean") == 0
    assert "row x: expected some of mean" in refused(call, capsys, "--rows", "x")
    assert "--seeds and --jobs must be 1 or more" in refused(call, capsys, "--jobs", "0")
    assert "--name is not for studies" in refused(call, capsys, "--name", "x")
    assert "--readout is what row mean of tiny sets" in refused(call, capsys, "--readout", "sum")
    assert "made with epochs 5, not 6" in refused(call, capsys, "--epochs", "6")
    assert "made on data tiny, not other" in refused(call, capsys, "--data-name", "other")
    assert main(["nothing"]) == 2
    assert "must be a study, one of tiny" in capsys.readouterr().err
    tunes = ("{valus: 1}", "{values: {lr: []}, seed: 9}", "{values: {lr: 1}, seed: 9}")
    for change in ("referense: mean", "bases: {}", *(f"tune: {own}" for own in tunes)):
        (folder / "tiny.yaml").write_text(f"{TINY}{change}\n")
        assert "must have rows and reference" in refused(call, capsys)
    (folder / "tiny.yaml").write_text(TINY + "  mean: {readout: max}\n")
    assert "the key 'mean' stands there more than once" in refused(call, capsys)
    path = tmp_path / "out" / "records.csv"
    text = path.read_text()
    path.write_text(text.replace("config\n", "config,note\n").replace('}"\n', '}",hello\n'))
    (folder / "tiny.yaml").write_text(TINY)
    assert "records.csv is damaged (Unable to parse string" in refused(call, capsys)
    path.write_text(text.replace("format", "shape"))
    assert "is of another version" in refused(call, capsys)


def test_records_of_older_versions_stay_valid(call, tmp_path, capsys):
    assert call("--rows", "mean") == 0
    path = tmp_path / "out" / "records.csv"
    path.write_text(path.read_text().replace('{""', '{""compile"": false, ""'))
    capsys.readouterr()
    assert call("--rows", "mean") == 0
    assert "all 2 runs are recorded" in capsys.readouterr().out


PARENT = """
import signal, sys
from pathlib import Path
from experiments import studies as molpcba
from experiments.studies import main
molpcba.FOLDER = Path(sys.argv[1])
if __name__ == "__main__":
    # a job of a script is started with it ignored, a terminal's is not
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main(sys.argv[2:]))
"""


def wait_until(condition) -> None:
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_two_at_a_time_stopped_leave_no_process_and_continue(folder, flags, tmp_path, number):
    flags = [*flags, "--seeds", "1", "--epochs", "25", "--rows", "mean", "ea-1", "--jobs", "2"]
    program = tmp_path / "parent.py"
    program.write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        [sys.executable, str(program), str(folder), *flags],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        start_new_session=True,
    )  # fmt: skip
    runs = tmp_path / "out" / "runs"
    wait_until(lambda: len(list(runs.glob("*/metrics.csv"))) >= 2 or process.poll() is not None)
    assert process.poll() is None, process.communicate()[1]
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    _, error = process.communicate(timeout=60)
    if number != signal.SIGKILL:
        assert process.returncode == 128 + number, error
        assert "the same command" in error.splitlines()[-1]
        assert "Traceback" not in error
    wait_until(lambda: not any(is_running(int(pid)) for pid in children))
    assert main(flags) == 0
    assert Records(tmp_path / "out").runs["epochs"].tolist() == [25, 25]


class Dying:
    """Ends the process that makes a run."""

    def __call__(self, run, path):
        os._exit(3)


def test_a_dead_worker_is_one_line(tmp_path):
    grid = Grid(
        "tiny", {"a": "a"}, lambda row, seed, changes: {}, Dying(), None, False, {}, lambda run: 1.0
    )
    with pytest.raises(UserError, match="a process that made a run died"):
        run_study(grid, ["a"], [0, 1], tmp_path / "out", jobs=2)


class Failing:
    """Leaves a file beside the run's folder, and no outcome."""

    def __call__(self, run, path):
        (path.parent / run.name).touch()
        raise UserError("no luck")


def test_workers_that_are_used_again_write_to_the_folder_of_their_call(tmp_path, monkeypatch):
    grid = Grid(
        "tiny",
        {"a": "a"},
        lambda row, seed, changes: {},
        Failing(),
        None,
        False,
        {},
        lambda run: 1.0,
    )
    for place in (tmp_path / "one", tmp_path / "two"):
        place.mkdir()
        monkeypatch.chdir(place)
        assert run_study(grid, ["a"], [0, 1], Path("out"), jobs=2) == 1
        assert (place / "out" / "runs" / "a-seed1").exists()


def test_the_study_on_the_trainers_page_is_one(folder):
    page = (Path(__file__).parents[2] / "docs" / "trainer.md").read_text()
    (text,) = re.findall(r"```yaml\n(shared:.*?)```", page, re.S)
    (folder / "own.yaml").write_text(text)
    shutil.copytree(SHIPPED / "shared", folder / "shared")
    configs = molpcba.Study.read("own").configurations(["--data", "embedded"], "embedded-nci", 2)
    assert configs["mine"].readout == "mypackage.module:Moments"
    assert configs["mean-head"].head_width > 0
    assert (configs["ea"].epochs, configs["ea"].width) == (8, 64)


@pytest.mark.parametrize("name", molpcba.names())
def test_the_shipped_studies_are_valid(name):
    study = molpcba.Study.read(name)
    configs = study.configurations(["--data", "embedded"], "embedded-nci", 2)
    assert configs.keys() == study.rows.keys()
    assert study.base.items() <= to_dict(parse(molpcba.as_words(study.base))).items()
