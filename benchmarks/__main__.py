"""Command line of the benchmarks: ``python -m benchmarks``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import torch
from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import PositiveInt

from benchmarks import layer, model, peak
from benchmarks.contestants import CONTESTANTS, chosen
from benchmarks.plots import draw
from benchmarks.records import Recorder, read, write_machine
from benchmarks.report import report
from benchmarks.sections import Plan
from benchmarks.timing import CLOCKS
from benchmarks.workloads import WORKLOADS

SECTIONS: dict[str, Callable[[Plan, Recorder], None]] = {
    "layer": layer.measure,
    "peak": peak.measure,
    "model": model.measure,
}


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m benchmarks",
        description="Time and memory of Equilibrium Aggregation against its peers.",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=list(SECTIONS),
        default=list(SECTIONS),
        help="sections to run (default: all)",
    )
    parser.add_argument(
        "--contestants",
        nargs="+",
        choices=list(CONTESTANTS),
        default=list(CONTESTANTS),
        help="layers to compare (default: all)",
    )
    parser.add_argument(
        "--workloads",
        nargs="+",
        choices=list(WORKLOADS),
        default=list(WORKLOADS),
        help="sizes for the section layer (default: all)",
    )
    parser.add_argument(
        "--clock",
        choices=list(CLOCKS),
        default="wall",
        help="wall time, or processor time: for one thread on a machine with other load",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="small sizes: shows whether it works, not how fast it is",
    )
    parser.add_argument(
        "--steps",
        type=PositiveInt,
        help="solver steps (sections layer and peak; default: as the workload says)",
    )
    parser.add_argument(
        "--rounds", type=PositiveInt, help="number of measurements (default: as the workload says)"
    )
    parser.add_argument(
        "--threads", type=PositiveInt, help="threads that torch uses (default: its own choice)"
    )
    parser.add_argument(
        "--out", type=str, help="folder of the records (default: runs/benchmarks/TIME)"
    )
    parser.add_argument(
        "--show", type=str, help="print the tables of an earlier run's folder; measures nothing"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(words)
    try:
        folder = Path(options.show) if options.show else _measure(options, words)
        frame = read(folder)
    except (FileNotFoundError, FileExistsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report(frame))
    pictures = draw(frame, folder)
    print(f"\nrecords and plots: {folder} ({', '.join(path.name for path in pictures)})")
    return 0


def _measure(options: Namespace, words: Sequence[str]) -> Path:
    """Runs the chosen sections and returns the folder with their records."""
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    folder = Path(options.out or f"runs/benchmarks/{datetime.now():%Y-%m-%d-%H%M%S}")
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: give --out a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    print(json.dumps(write_machine(folder, "benchmarks", words), indent=2))
    recorder = Recorder(folder)
    plan = Plan(
        contestants=chosen(options.contestants),
        workloads=[WORKLOADS[name] for name in options.workloads],
        clock=CLOCKS[options.clock],
        quick=options.quick,
        steps=options.steps,
        rounds=options.rounds,
    )
    for name in options.only:
        SECTIONS[name](plan, recorder)
        recorder.write()
    return folder


if __name__ == "__main__":
    sys.exit(main())
