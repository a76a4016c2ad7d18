"""Start the command several times at once in one run folder; not a test by itself.

Run as `python race_runs.py CSV BASE ROUNDS PROCESSES`: forks the processes of a round, so that
torch is imported once, and lets them go together. They differ in `--lr` alone, so that a mixture of
two runs shows. In turn a round starts runs, or resumes one that was killed after two epochs. Prints
JSON: for each round the exit codes, and what is wrong with the folder.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import pandas as pd
import yaml

from experiments.molpcba import __main__ as program
from experiments.molpcba.fitting import History

RATES = ("0.01", "0.02", "0.04", "0.08")
FLAGS = "--width 8 --layers 1 --steps 1 --epochs 3 --batch-size 32 --readout mean --name run"


def call(flags: list[str], start: float, log: Path, kill_after: int | None = None) -> int:
    """Forks a process that calls the command at that moment; its id."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        with open(log, "a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        if kill_after is not None:
            publish = History.publish

            def killed(self, trainer):
                publish(self, trainer)
                if len(self.rows) == kill_after:
                    os.kill(os.getpid(), signal.SIGKILL)

            History.publish = killed
        time.sleep(max(0.0, start - time.monotonic()))
        status = program.main(flags)
    finally:
        os._exit(status)


def settled(folder: Path, rate: str) -> list[str]:
    """What is wrong with a folder in which the run with that rate should be."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    results = json.loads((folder / "results.json").read_text())
    metrics = pd.read_csv(folder / "metrics.csv")
    found = {
        "rate of config": config["lr"] == float(rate),
        "rate of results": results["config"]["lr"] == float(rate),
        "rate of metrics": (metrics["lr"] == float(rate)).all(),
        "epochs": metrics["epoch"].tolist() == [0, 1, 2],
        "valid": results["valid"] == metrics["valid_ap"].max(),
        "leftovers": not list(folder.glob("**/*.tmp")),
    }
    return [name for name, is_right in found.items() if not is_right]


def race(base: Path, csv: str, processes: int, resume: bool, generator: random.Random) -> dict:
    """One round."""
    base.mkdir()
    flags = [*FLAGS.split(), "--csv", csv, "--root", f"{base.parent}/data"]
    flags += ["--schedule", "constant", "--runs-dir", f"{base}/runs"]
    rates, log, words = RATES[:processes], base / "log", []
    if resume:
        os.waitpid(call([*flags, "--lr", RATES[0]], 0.0, log, kill_after=2), 0)
        rates, words = (RATES[0],) * processes, ["--resume"]
    start = time.monotonic() + 0.2
    pids = [
        call([*flags, "--lr", rate, *words], start + generator.choice((0, 0.05)), log)
        for rate in rates
    ]
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    winners = [rate for rate, code in zip(rates, codes, strict=True) if code == 0]
    text = log.read_text()
    wrong = [] if winners else ["no run"]
    if not resume and len(winners) > 1:
        wrong.append("two runs in one folder")
    if set(codes) - {0, 2} or "Traceback" in text:
        wrong.append("a failure that is no refusal")
    refusals = text.count("another process is at work in") + text.count("already has a run")
    if refusals != codes.count(2):
        wrong.append("a refusal of another kind")
    if winners:
        wrong += settled(base / "runs" / "run", winners[0])
    return {"codes": codes, "wrong": wrong}


def main() -> None:
    """The rounds, in turn of starting and of resuming."""
    csv, base = sys.argv[1], Path(sys.argv[2])
    rounds, processes = map(int, sys.argv[3:])
    base.mkdir()
    program.plot_run = lambda folder: None
    generator = random.Random(processes)
    print(json.dumps([
        race(base / f"round-{i}", csv, processes, i % 2 == 1, generator) for i in range(rounds)
    ]))  # fmt: skip


if __name__ == "__main__":
    main()
