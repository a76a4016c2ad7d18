"""Runs in processes of their own: stopping them, and their death."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.molpcba.ablations import workers
from experiments.molpcba.ablations.__main__ import main
from experiments.molpcba.ablations.records import Records
from experiments.molpcba.errors import Interrupted, UserError

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
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
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


def test_left_early_a_busy_worker_is_interrupted_and_an_idle_one_ends(tmp_path):
    runs = workers.carry_out([Waiting(tmp_path, 0), Waiting(tmp_path, 600)], jobs=2)
    next(runs)
    wait_until((tmp_path / "600").exists)
    begun = time.monotonic()
    runs.close()
    assert time.monotonic() - begun < 60
    assert (tmp_path / "600").read_text() == "SIGTERM"
    assert not multiprocessing.active_children()


class Waiting:
    """A configuration whose run, in the process that it is unpickled in, is a wait."""

    def __init__(self, path: Path, seconds: int) -> None:
        self.path, self.seconds = path, seconds

    def __reduce__(self):
        return waiting, (self.path, self.seconds)


def waiting(path: Path, seconds: int) -> None:
    def perform(config: None) -> None:
        try:
            (path / str(seconds)).touch()
            time.sleep(seconds)
        except Interrupted as error:
            (path / str(seconds)).write_text(str(error))
            raise

    workers.perform = perform


def test_interrupted_in_this_process_ends_the_grid(monkeypatch, tmp_path):
    def perform(config):
        raise Interrupted("SIGTERM")

    monkeypatch.setattr(workers, "perform", perform)
    with pytest.raises(Interrupted):
        list(workers.carry_out([None], jobs=1))
