"""Preparation and training time for a table as large as ogbg-molpcba.

Measures in this order:

1. preparation of the table by the trainer: time, disk space and peak memory (resident memory of the
   process and its workers, summed every 0.2 s; shared pages count in each)
2. a fresh process: time from its start to the first training batch
3. training steps of OGB's GIN (preset reference) with sum, EA-5 and EA-15, loader included;
   the time of an epoch is extrapolated from them

Records are OUT/scale.json and OUT/machine.json; the prepared data stays in --root.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil
from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt

from benchmarks.records import write_machine
from experiments.common import UserError

PREPARE = (
    "import sys; from experiments.molpcba.config import Config; "
    "from experiments.molpcba.data import load; load(Config(csv=sys.argv[1], root=sys.argv[2]))"
)
AIMS = {"peak memory of the preparation, GiB": 8.0, "first batch since process start, s": 20.0}
RECORD = "scale.json"
GIB = 2**30


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--csv", type=Path, required=True, help="table of molecules")
    parser.add_argument(
        "--split", default="random", help="split, as in the trainer; a folder holds row numbers"
    )
    parser.add_argument("--steps", type=PositiveInt, default=200, help="training steps to time")
    parser.add_argument(
        "--root", type=Path, default=Path("dataset"), help="folder of prepared data"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/benchmarks/scale"), help="folder of the records"
    )
    return parser


class PeakMemory:
    """The largest sum of resident memory of a process and its descendants, in GiB.

    Args:
        pid: the process; measuring ends with `stop`.
    """

    def __init__(self, pid: int) -> None:
        self.pid, self.value = pid, 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """Ends the measurement and returns the peak."""
        self._ended.set()
        self._thread.join()
        return self.value

    def _watch(self) -> None:
        while not self._ended.wait(0.2):
            self.value = max(self.value, resident(self.pid) / GIB)


def resident(pid: int) -> int:
    """Returns the resident memory of a process and its descendants, in bytes."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):  # it has just ended
                total += each.memory_info().rss
    return total


def measure(path: Path, split: str, root: Path, steps: int) -> dict[str, float]:
    """Prepares the CSV file `path` under `root`, then opens it in a fresh process."""
    if not path.is_file():
        raise UserError(f"cannot read {path}: no such file")
    root.mkdir(parents=True, exist_ok=True)
    before = set(root.iterdir())
    started = time.perf_counter()
    with subprocess.Popen([sys.executable, "-c", PREPARE, str(path), str(root)]) as process:
        memory = PeakMemory(process.pid)
    peak = memory.stop()
    if process.returncode:
        raise UserError(f"the preparation failed with exit code {process.returncode}")
    seconds = time.perf_counter() - started
    made = [new for new in set(root.iterdir()) - before if new.is_file()]
    if not made:
        raise UserError(f"{path} was already prepared under {root}: give another --root")
    command = [sys.executable, "-m", "benchmarks.first_batch", str(time.time())]
    run = subprocess.run(
        [*command, str(path), split, str(root), str(steps)],
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    return {
        "preparation, s": seconds,
        "disk, GiB": sum(f.stat().st_size for f in made) / GIB,
        "peak memory of the preparation, GiB": peak,
        **json.loads(run.stdout.splitlines()[-1]),
    }


def report(folder: Path) -> str:
    """Returns a line for each figure of a record, with its aim."""
    lines = []
    for name, value in json.loads((folder / RECORD).read_text())["measured"].items():
        aim = AIMS.get(name)
        shown = f"{value:,}" if isinstance(value, int) else f"{value:.3g}"
        held = "" if aim is None else f"  (aim {aim:g}: {'met' if value <= aim else 'NOT MET'})"
        lines.append(f"{name:50s} {shown:>12s}{held}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints the figures and writes the record."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    try:
        record = measure(options.csv, options.split, options.root, options.steps)
    except UserError as error:
        sys.exit(f"error: {error}")
    options.out.mkdir(parents=True, exist_ok=True)
    write_machine(options.out, "benchmarks.scale", given)
    written = {"rows": record["molecules"], "measured": record}
    (options.out / RECORD).write_text(json.dumps(written, indent=2) + "\n")
    print(report(options.out))
    print(f"records: {options.out}")


if __name__ == "__main__":
    main()
