"""Studies: the grid, going on after an interruption, records that belong together, and tables."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import stdev

import pandas as pd
import pytest
import yaml

from experiments.molpcba.ablations import study, workers
from experiments.molpcba.ablations.__main__ import main
from experiments.molpcba.ablations.figures import DRAWN, outcome
from experiments.molpcba.ablations.records import Records
from experiments.molpcba.ablations.study import Study, names, parameters
from experiments.molpcba.ablations.tables import difference_text
from experiments.molpcba.errors import Interrupted, UserError
from experiments.molpcba.models import build_network
from experiments.molpcba.training import MoleculeTraining

pytestmark = pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.* is deprecated")

TINY = """
# Two readouts.
base: {width: 8, layers: 1, batch_size: 16, lr: 0.01, dropout: 0, epochs: 5, steps: 2, readout: ea}
reference: mean
rows:
  mean: {readout: mean}
  ea-1: {steps: 1}
  ea-2: {steps: 2}
"""
RUNS = [("mean", 0), ("mean", 1), ("ea-1", 0), ("ea-1", 1), ("ea-2", 0), ("ea-2", 1)]


@pytest.mark.parametrize("name", names())
def test_each_study_describes_networks_that_differ_and_can_be_built(name):
    study_ = Study.read(name)
    configs = study_.configurations([], "tiny", tasks=2)
    for config in configs.values():
        build_network(config, num_tasks=2)
    assert len({str({**vars(c), "name": None}) for c in configs.values()}) == len(study_.rows)
    assert (study.FOLDER / f"{name}.yaml").read_text().startswith("# ")


@pytest.mark.parametrize("tasks", [1, 128])
def test_heads_are_matched_in_parameters(tasks):
    configs = Study.read("readout").configurations([], "tiny", tasks)
    count = {row: parameters(config, tasks) for row, config in configs.items()}
    for head, plain in (("mean-head", "ea"), ("mean+sum+max-head", "ea+mean+sum+max")):
        assert configs[head].head_width > 0
        assert count[head] != count[head.removesuffix("-head")]
        assert count[head] == pytest.approx(count[plain], rel=0.005)
    assert configs["ea-head"].head_width == configs["mean-head"].head_width


def test_capacity_follows_the_width():
    configs = Study.read("capacity").configurations(["--width", "100"], "tiny", 2)
    assert [c.potential_width for c in configs.values()] == [10, 30, 60, 100, 130]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder of studies with the study ``tiny``."""
    path = tmp_path / "studies"
    path.mkdir()
    (path / "tiny.yaml").write_text(TINY)
    monkeypatch.setattr(study, "FOLDER", path)
    return path


@pytest.fixture
def flags(tiny_csv, tiny_root, tiny_data, tmp_path) -> list[str]:
    places = ["--csv", tiny_csv, "--root", tiny_root, "--runs-dir", tmp_path / "runs"]
    return ["tiny", *map(str, places), "--seeds", "2", "--out", str(tmp_path / "out")]


@pytest.fixture
def call(folder, flags, monkeypatch):
    """Calls the command with the tiny study and molecules, in this process."""
    monkeypatch.setattr("experiments.molpcba.run.plot_run", lambda path: [])
    return lambda *more: main([*flags, *more])


def table(path: Path) -> pd.DataFrame:
    """The cells of a Markdown table."""
    lines = [line for line in path.read_text().splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return pd.DataFrame(rows[1:], columns=rows[0]).set_index("row")


def test_records_are_those_of_the_runs(call, tmp_path, tiny_data, capsys):
    assert call() == 0
    assert "[6/6] ea-2, seed 1: valid AP" in capsys.readouterr().out
    records = Records.read(tmp_path / "out")
    assert list(zip(records.runs["row"], records.runs["seed"], strict=True)) == RUNS
    assert records.runs.groupby("seed")["fingerprint"].nunique().tolist() == [1, 1]
    assert records.runs["fingerprint"].nunique() == 2  # a seed has its own split
    for run in records.runs.itertuples():
        folder = tmp_path / "runs" / "tiny-on-tiny" / f"{run.row}-seed{run.seed}"
        results = json.loads((folder / "results.json").read_text())
        metrics = pd.read_csv(folder / "metrics.csv")
        for key in ("valid", "test", "best_epoch", "epochs", "parameters"):
            assert getattr(run, key) == pytest.approx(results[key]), key
        assert run.test == pytest.approx(metrics["test_ap"][run.best_epoch], abs=1e-6)
        assert run.test_last == pytest.approx(metrics["test_ap"][1:].mean())
        assert (metrics["train_seconds"] < metrics["seconds"]).all()
        config = json.loads(run.config)
        assert (config["seed"], config["split_seed"]) == (run.seed, run.seed)
        assert not {"csv", "root", "runs_dir", "name"} & config.keys()
        own = (records.curves["row"] == run.row) & (records.curves["seed"] == run.seed)
        curve = records.curves[own]
        assert curve["valid"].to_list() == pytest.approx(metrics["valid_ap"].to_list())
        assert curve["test"].to_list() == pytest.approx(metrics["test_ap"].to_list())


def test_the_table_is_that_of_the_records_alone(call, tmp_path, capsys):
    assert call() == 0
    out = tmp_path / "out"
    cells, text = table(out / "table.md"), (out / "table.md").read_text()
    runs = pd.read_csv(out / "records.csv").pivot(index="seed", columns="row")
    for key, column in (("test", "difference, test"), ("test_last", "difference, last")):
        values = (runs[key]["ea-2"] - runs[key]["mean"]).to_list()
        assert cells[column]["ea-2"] == difference_text(values)
        assert cells[column]["mean"] == ""
    seconds = runs["train_seconds"]
    ratio = (seconds["ea-1"] / seconds["mean"]).median()
    assert float(cells["ratio"]["ea-1"]) == pytest.approx(ratio, abs=0.006)
    assert cells["compared with"].to_list() == ["", "mean", "mean"]
    capsys.readouterr()
    for path in (*out.glob("*.png"), out / "table.md"):
        path.unlink()
    copy = out.rename(tmp_path / "elsewhere")
    assert main(["--report", str(copy)]) == 0
    assert (
        capsys.readouterr().out.strip() == text.strip() == (copy / "table.md").read_text().strip()
    )
    assert {path.name for path in copy.glob("*.png")} == {"outcome.png", "learning.png"}


def test_difference_text():
    values = [0.02, 0.04, 0.09]
    expected = f"+0.0500 ± {stdev(values):.4f} ({stdev(values) / 3**0.5:.4f})"
    assert difference_text(values) == expected
    assert difference_text([-0.01]) == "-0.0100"
    assert difference_text([]) == ""


@pytest.mark.parametrize("name", [*DRAWN, "other"])
def test_every_picture_can_be_drawn(call, tmp_path, name):
    assert call("--seeds", "1", "--epochs", "1") == 0
    records = Records.read(tmp_path / "out")
    records.runs["study"] = name
    drawing = outcome(records)
    assert drawing.axes
    drawing.savefig(tmp_path / "a.png")


def test_finished_runs_are_taken_as_they_are(call, tmp_path, monkeypatch):
    assert call("--rows", "ea-1", "mean", "--seeds", "1") == 0
    before = (tmp_path / "out" / "records.csv").read_text().splitlines()
    made = []
    whole = workers.run

    def run(config):
        made.append(config.name)
        return whole(config)

    monkeypatch.setattr(workers, "run", run)
    assert call() == 0
    assert made == ["ea-2-seed0", "mean-seed1", "ea-1-seed1", "ea-2-seed1"]
    assert set(before) < set((tmp_path / "out" / "records.csv").read_text().splitlines())
    assert call() == 0
    (tmp_path / "out" / "records.csv").unlink()  # the run folders are still there
    assert call() == 0
    assert len(made) == 4
    assert len(Records.read(tmp_path / "out").runs) == 6


def test_interrupted_it_goes_on_to_the_same_records(call, tmp_path, monkeypatch, capsys):
    assert call("--out", str(tmp_path / "whole"), "--runs-dir", str(tmp_path / "others")) == 0
    original = MoleculeTraining.training_step

    def training_step(self, batch, index):
        if self.config.name == "ea-2-seed0" and self.global_step == 12:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(MoleculeTraining, "training_step", training_step)
        assert call() == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert len(Records.read(tmp_path / "out").runs) == 2
    assert len(pd.read_csv(tmp_path / "runs/tiny-on-tiny/ea-2-seed0/metrics.csv")) == 2
    assert call() == 0
    one, other = (Records.read(tmp_path / name) for name in ("out", "whole"))
    pd.testing.assert_frame_equal(one.curves, other.curves, check_exact=True)
    drop = ["train_seconds", "revision"]
    pd.testing.assert_frame_equal(one.runs.drop(columns=drop), other.runs.drop(columns=drop))


def test_a_failed_run_is_recorded_and_the_others_go_on(call, tmp_path, monkeypatch, capsys):
    whole = workers.run

    def run(config):
        if config.name == "ea-1-seed0":
            raise UserError("no luck")
        if config.name == "ea-1-seed1":
            raise ZeroDivisionError("a fault")
        return whole(config)

    with monkeypatch.context() as patch:
        patch.setattr(workers, "run", run)
        assert call() == 1
    error = capsys.readouterr().err
    assert "failed: ea-1, seed 0: no luck" in error
    assert "failed: ea-1, seed 1: ZeroDivisionError, see" in error
    log = tmp_path / "runs" / "tiny-on-tiny" / "ea-1-seed1.log"
    assert "a fault" in log.read_text()
    records = Records.read(tmp_path / "out")
    assert set(records.runs["row"]) == {"mean", "ea-2"}
    assert call() == 0  # tried again
    cells = table(tmp_path / "out" / "table.md")
    assert cells["seeds"].to_list() == ["2", "2", "2"]
    assert not (tmp_path / "out" / "failures.csv").exists()


def test_a_row_with_a_failed_seed_says_so(call, tmp_path):
    assert call() == 0
    records = Records.read(tmp_path / "out")
    records.fail("ea-1", 1, "diverged")
    records.write(["mean", "ea-1", "ea-2"])
    assert main(["--report", str(tmp_path / "out")]) == 0
    assert table(tmp_path / "out" / "table.md")["seeds"]["ea-1"] == "1 (1 failed)"


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


def refused(call, capsys, *flags: str) -> str:
    capsys.readouterr()
    assert call(*flags) == 2
    line = capsys.readouterr().err.splitlines()[-1]  # what is said of the data stands before it
    assert line.startswith("error: ")
    return line


def test_records_of_other_settings_rows_or_data_are_refused(
    call, folder, tmp_path, tiny_csv, capsys
):
    assert call("--seeds", "1", "--epochs", "1") == 0
    before = (tmp_path / "out" / "records.csv").read_text()
    message = refused(call, capsys, "--epochs", "2")
    assert "mean, seed 0: made with --epochs 1, not 2" in message
    message = refused(call, capsys, "--epochs", "2", "--out", str(tmp_path / "new"))
    assert "runs/tiny-on-tiny/mean-seed0: made with --epochs 1, not 2" in message
    shorter = tmp_path / tiny_csv.name
    shorter.write_text("\n".join(tiny_csv.read_text().splitlines()[:-5]) + "\n")
    message = refused(call, capsys, "--epochs", "1", "--csv", str(shorter))
    assert "not on this tiny" in message
    (folder / "tiny.yaml").write_text(TINY.replace("ea-1:", "ea-one:"))
    assert "row ea-1 of tiny" in refused(call, capsys, "--epochs", "1")
    content = yaml.safe_load(TINY)
    content["base"]["dropout"] = 0.5
    (folder / "tiny.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    assert "made with --dropout 0.0, not 0.5" in refused(call, capsys, "--epochs", "1")
    assert (tmp_path / "out" / "records.csv").read_text() == before


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("format", 0, "of another version of this program"),
        ("data", "other", "mixes runs of data other and tiny"),
        ("graphs", "other", "mixes runs of graphs other and"),
        ("fingerprint", "other", "runs of seed 0 saw different molecules or labels"),
        ("config", '{"epochs": 3}', "row mean: made with"),
    ],
)
def test_mixed_records_are_refused(call, tmp_path, column, value, message, capsys):
    assert call("--epochs", "1", "--rows", "mean", "ea-1") == 0
    path = tmp_path / "out" / "records.csv"
    runs = pd.read_csv(path)
    runs[column] = runs[column].astype(object)
    runs.loc[0, column] = value
    path.write_text(runs.to_csv(index=False))
    capsys.readouterr()
    assert main(["--report", str(path.parent)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--rows", "ea-3"], "--rows ea-3: expected some of mean ea-1 ea-2"),
        (["--steps", "4"], "--steps is what row ea-1 of tiny sets"),
        (["--name", "x"], "--name is not for studies"),
        (["--no-resume"], "--resume is not for studies"),
        (["--nonsense", "1"], "--nonsense"),
        (["--seeds", "0"], "must be 1 or more"),
        (["--report", "gone"], "gone/records.csv holds no run yet"),
    ],
)
def test_mistakes_are_named_in_one_line(call, tmp_path, capsys, given, message):
    assert message in refused(call, capsys, *given)
    assert not (tmp_path / "runs").exists()


def test_the_study_is_the_first_word(folder, capsys):
    for words in ([], ["--seeds", "2"], ["other"]):
        assert main(words) == 2
        assert "the first word must be a study, one of tiny" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rows: {a: {}}\nreference: a\n", "must have base, rows and reference"),
        ("base: {}\nrows: {a: {}}\nreference: b\n", "row a names b, which is no row"),
        ("base: {}\nrows: {a: {}}\nreference: a\ntune: {setting: lr}\n", "in tune"),
        ("base: {bogus: 1}\nrows: {a: {}}\nreference: a\n", "--bogus"),
        ("base: {lr: many}\nrows: {a: {}}\nreference: a\n", "--lr must be float"),
        (
            "base: {}\nrows: {a: {}}\nreference: a\ntune: {setting: lr, values: [x], seed: 9}\n",
            "--lr must be float",
        ),
    ],
)
def test_a_bad_study_is_refused(call, folder, capsys, text, message):
    (folder / "tiny.yaml").write_text(text)
    assert message in refused(call, capsys)


PARENT = """
import signal
import sys
from pathlib import Path
from experiments.molpcba.ablations import study
from experiments.molpcba.ablations.__main__ import main
study.FOLDER = Path(sys.argv[1])
if __name__ == "__main__":
    # a job of a script is started with it ignored, a terminal's is not
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main(sys.argv[2:]))
"""


def start(folder: Path, flags: list[str], tmp_path: Path) -> subprocess.Popen[str]:
    program = tmp_path / "parent.py"
    program.write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(
        [sys.executable, str(program), str(folder), *flags, "--jobs", "2"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        start_new_session=True,
    )  # fmt: skip


def wait_until(condition) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    try:
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_two_at_a_time_stopped_leave_no_process_and_go_on(
    folder, flags, tmp_path, monkeypatch, number
):
    monkeypatch.setattr("experiments.molpcba.run.plot_run", lambda path: [])
    flags = [*flags, "--seeds", "1", "--epochs", "25"]
    process = start(folder, flags, tmp_path)
    runs = tmp_path / "runs" / "tiny-on-tiny"
    wait_until(lambda: len(list(runs.glob("*/metrics.csv"))) >= 2 or process.poll() is not None)
    assert process.poll() is None, process.communicate()[1]
    workers_ = children(process.pid)
    assert len(workers_) >= 2
    os.killpg(process.pid, number)  # as a terminal does
    _, error = process.communicate(timeout=60)
    if number == signal.SIGINT:
        assert process.returncode == 130, error
        assert error.strip() == "stopped: the same command goes on"
    wait_until(lambda: not any(map(is_running, workers_)))
    assert main(flags) == 0
    runs = Records.read(tmp_path / "out").runs
    assert runs["row"].to_list() == ["mean", "ea-1", "ea-2"]
    assert (runs["epochs"] == 25).all()


def test_a_dead_worker_is_an_error(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="a process that made a run died"):
        list(workers.carry_out([Dying(tmp_path)], jobs=2))


class Dying:
    """A configuration that kills the process it is unpickled in."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os._exit, (3,)


def test_interrupted_in_this_process_ends_the_grid(monkeypatch, tmp_path):
    def perform(config):
        raise Interrupted("SIGTERM")

    monkeypatch.setattr(workers, "perform", perform)
    with pytest.raises(Interrupted):
        list(workers.carry_out([None], jobs=1))
