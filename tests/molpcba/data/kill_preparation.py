"""Kill a preparation with SIGKILL at every file operation it makes; not a test by itself.

Run as `python kill_preparation.py CSV ROOT`: forks one process for each moment, so that torch is
imported once. Prints JSON: the number of moments, and what was wrong after any of them.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path

from experiments.molpcba.data import load

EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink"}


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a forked process; its wait status."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
                work()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1]


def prepare(csv: Path, root: Path, kill_at: int | None, report: Path | None) -> None:
    """Load the set; die at file operation `kill_at` under `root`, else report what was done."""
    count = 0

    def watch(event: str, arguments: tuple) -> None:
        nonlocal count
        if event in EVENTS and str(arguments[0]).startswith(str(root)):
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    data = load(csv=csv, root=root)
    if report is not None:
        left = sorted(p.name for p in root.iterdir() if ".tmp-" in p.name)
        report.write_text(json.dumps({"count": count, "data": data.fingerprint, "left": left}))


def main() -> None:
    """Kill at each moment, then prepare again and compare with an undisturbed preparation."""
    csv, base = Path(sys.argv[1]), Path(sys.argv[2])
    report = base / "report.json"
    base.mkdir()
    in_child(lambda: prepare(csv, base / "undisturbed", None, report))
    expected = json.loads(report.read_text())
    wrong = []
    for moment in range(1, expected["count"] + 1):
        root = base / f"killed-{moment}"
        report.unlink()
        killed = in_child(lambda root=root, moment=moment: prepare(csv, root, moment, None))
        status = in_child(lambda root=root: prepare(csv, root, None, report))
        again = json.loads(report.read_text()) if report.exists() else {}
        if killed != signal.SIGKILL or status or again.get("data") != expected["data"]:
            wrong.append({"moment": moment, "killed": killed, "status": status, "again": again})
        if again.get("left"):
            wrong.append({"moment": moment, "left": again["left"]})
    print(json.dumps({"moments": expected["count"], "wrong": wrong}))


if __name__ == "__main__":
    main()
