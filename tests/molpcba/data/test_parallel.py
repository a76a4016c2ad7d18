"""Worker processes keep the order, report their death, and do not outlive their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.molpcba.data import DataError
from experiments.molpcba.data.parallel import ordered_map

REPOSITORY = Path(__file__).parents[3]

PARENT = """
from experiments.molpcba.data.parallel import ordered_map

if __name__ == "__main__":
    jobs = ["__import__('os').getpid()", "__import__('time').sleep(600)"]
    for worker in ordered_map(eval, jobs * 3, 1):
        print(worker, flush=True)
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_order(workers):
    assert list(ordered_map(abs, range(-20, 0), workers)) == list(range(20, 0, -1))


def test_a_dead_worker_is_an_error():
    with pytest.raises(DataError, match="worker process of the preparation died"):
        list(ordered_map(os._exit, [3], workers=1))


def is_running(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1]
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks processes up in /proc")
def test_workers_end_with_a_killed_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, str(script)], env=environment, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert is_running(worker)
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30
    while is_running(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_running(worker)
