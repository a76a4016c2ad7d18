"""Studies through the command line: grid, tuning, resumption, failures, refusals, report."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from experiments.common import UserError
from experiments.molpcba.config import parse
from experiments.studies import molpcba
from experiments.studies.__main__ import main
from experiments.studies.engine import Grid, run_study
from experiments.studies.records import Records
from experiments.studies.report import markdown
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
    places = ["--csv", tiny_csv, "--root", tiny_root, "--runs-dir", tmp_path / "runs"]
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
    assert main(["--report", str(tmp_path / "out")]) == 0
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
    tune = "tune: {values: {lr: [0.0001, 0.02]}, seed: 9}\n"
    (folder / "tiny.yaml").write_text(TINY + tune)
    assert call("--rows", "mean", "ea-1") == 0
    records = Records(tmp_path / "out")
    assert len(records.tuning) == 4
    assert records.best_values(is_lower_better=False)["mean"] == {"lr": 0.02}
    assert records.runs["config"].str.contains('"lr": 0.02').all()
    assert "lr is each row's best of 0.0001, 0.02" in (tmp_path / "out" / "table.md").read_text()


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
    (folder / "tiny.yaml").write_text(TINY.replace("reference", "referense"))
    assert "must have rows and reference" in refused(call, capsys)
    path = tmp_path / "out" / "records.csv"
    path.write_text(path.read_text().replace("format", "shape"))
    (folder / "tiny.yaml").write_text(TINY)
    assert "is of another version" in refused(call, capsys)


PARENT = """
import signal, sys
from pathlib import Path
from experiments.studies import molpcba
from experiments.studies.__main__ import main
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
    runs = tmp_path / "runs" / "tiny-on-tiny"
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
    grid = Grid("tiny", {"a": "a"}, lambda row, seed, changes: {}, Dying(), None, False, {})
    with pytest.raises(UserError, match="a process that made a run died"):
        run_study(grid, ["a"], [0, 1], tmp_path / "out", tmp_path / "runs", jobs=2)


@pytest.mark.parametrize("name", molpcba.names())
def test_the_shipped_studies_are_valid(name):
    study = molpcba.Study.read(name)
    configs = study.configurations(["--data", "embedded"], "embedded-nci", 2)
    assert configs.keys() == study.rows.keys()
    assert parse(molpcba.as_flags(study.base)).width == 64
