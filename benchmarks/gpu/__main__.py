"""Command line of the GPU benchmark: runs each part in a process of its own, then reports."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from time import perf_counter

import torch

from benchmarks.gpu.measuring import ATTEMPTS, Setup
from benchmarks.gpu.parts import PARTS
from benchmarks.gpu.report import draw, report
from benchmarks.records import MACHINE, MEASUREMENTS, Recorder, write_machine

LIMITS = {
    "tests": 90,
    "host": 20,
    "layer": 100,
    "model": 60,
    "profile": 30,
    "stand-in": 40,
    "training": 20,
}
"""Seconds for each part, 6 minutes in all."""
NO_GPU = ["host"]
"""Parts that need no GPU."""
REPORT = "report.md"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description="Time and memory of Equilibrium Aggregation on a GPU, in 6 minutes at most.",
    )
    parser.add_argument(
        "--rehearse", action="store_true", help="every part at the size of a toy, on the CPU"
    )
    parser.add_argument(
        "--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="parts (default: all)"
    )
    parser.add_argument(
        "--csv", type=Path, help="molecules for the trainer, which has prepared them before"
    )
    parser.add_argument("--root", type=Path, default=Path("dataset"), help="folder they lie in")
    parser.add_argument("--out", type=Path, help="folder of the records (runs/gpu/TIME)")
    parser.add_argument("--show", type=Path, help="measure nothing: report on an earlier run")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(words)
    try:
        if options.part:
            on_gpu = torch.cuda.is_available() and not options.rehearse
            device = torch.device("cuda" if on_gpu else "cpu")
            recorder = Recorder(options.out)
            limit = _limit(options.part, options.rehearse)
            places = options.csv, options.root
            PARTS[options.part](Setup(recorder, device, options.rehearse, *places, limit))
            return 0
        folder = options.show or _measure(options, words)
        text = report(folder)
    except (FileNotFoundError, FileExistsError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text)
    return 0


def _measure(options: argparse.Namespace, words: Sequence[str]) -> Path:
    """Runs the parts chosen; the folder of their records."""
    if not (options.rehearse or torch.cuda.is_available() or options.only == NO_GPU):
        raise ValueError("torch finds no CUDA device here; --rehearse runs on a CPU")
    if options.csv and not options.csv.is_file():
        raise FileNotFoundError(f"{options.csv} is no file: give --csv a CSV file of molecules")
    folder: Path = options.out or Path(f"runs/gpu/{datetime.now():%Y-%m-%d-%H%M%S}")
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: give --out a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    machine = write_machine(folder, "benchmarks.gpu", words)
    if torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
    parts: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as scratch:
        if options.rehearse and not options.csv:
            options.csv = _toy_molecules(Path(scratch) / "toy.csv")
        for name in options.only:
            parts[name] = _run(name, options, Path(scratch) / name)
            print(f"{name}: {parts[name]}", flush=True)
            files = [f for p in parts for f in sorted(Path(scratch, p).glob(f"*/{MEASUREMENTS}"))]
            lines = [file.read_text().splitlines() for file in files]
            rows = [row for rows in lines for row in rows[1:]]
            header = lines[0][:1] if lines else []
            (folder / MEASUREMENTS).write_text("\n".join([*header, *rows, ""]))
            record = {**machine, "parts": parts}
            (folder / MACHINE).write_text(json.dumps(record, indent=2) + "\n")
    (folder / REPORT).write_text(report(folder) + "\n")
    draw(folder)
    return folder


def _run(name: str, options: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Runs one part; how it ended, in seconds and words. At its limit it is stopped.

    Where a row ends its process, the part goes on in another one, with the rows after it.
    """
    folder.mkdir()
    started, limit = perf_counter(), _limit(name, options.rehearse)
    attempts, notes, status = folder / ATTEMPTS, list[str](), "failed"
    for number in itertools.count():
        before = attempts.read_text() if attempts.is_file() else ""
        left = limit - (perf_counter() - started)
        status, log = _process(name, options, folder / str(number), left)
        notes += log
        if status != "failed":
            break
        print("\n".join(log[-20:]), file=sys.stderr, flush=True)
        if not attempts.is_file() or attempts.read_text() == before:
            break
    note = notes[-1][:200] if notes and (status != "done" or "left out" in notes[-1]) else ""
    return {"status": status, "seconds": round(perf_counter() - started, 1), "note": note}


def _process(
    name: str, options: argparse.Namespace, folder: Path, seconds: float
) -> tuple[str, list[str]]:
    """Runs a process of a part for that long at most; how it ended, and what it printed."""
    folder.mkdir()
    command = [sys.executable, "-m", "benchmarks.gpu", "--part", name, "--out", str(folder)]
    command += ["--root", str(options.root), *(["--rehearse"] if options.rehearse else [])]
    command += ["--csv", str(options.csv)] if options.csv else []
    with open(folder / "log", "w+") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            status = "done" if process.wait(seconds) == 0 else "failed"
        except subprocess.TimeoutExpired:
            status = "stopped at its time limit"
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.seek(0)
        return status, [line.strip() for line in log if line.strip()]


def _limit(part: str, rehearse: bool) -> float:
    return 300 if rehearse else LIMITS[part]


def _toy_molecules(path: Path) -> Path:
    """Writes a few chains of atoms with one label."""
    rows = [f"{'C' * (1 + n % 9)}{'ON'[n % 2]}{'C' * (n // 9)},{n % 2}" for n in range(60)]
    path.write_text("\n".join(["smiles,nitrogen", *rows, ""]))
    return path


if __name__ == "__main__":
    sys.exit(main())
