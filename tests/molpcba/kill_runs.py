"""Kill runs of the command with SIGKILL at random moments, and go on; not a test by itself.

Run as `python kill_runs.py CSV BASE SEED KILLS`: forks one process for each call of the command, so
that torch is imported once. BASE/whole gets an undisturbed run; BASE/life-0, life-1, ... are begun
afresh (data included), killed, resumed, killed again, until they finish. A moment is the n-th call
of a function, of Python or C, within one phase of the run: phases take turns, n is random, and SEED
repeats all of it. Prints JSON: the kills of each life, and how calls ended that were not killed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import lightning as L

from experiments import common
from experiments.molpcba import __main__ as program
from experiments.molpcba import fitting
from experiments.molpcba.training import MoleculeTraining

BEGINNINGS: dict[CodeType, str] = {
    program.load.__code__: "preparation",
    L.Trainer.fit.__code__: "training",
    MoleculeTraining.validation_step.__code__: "evaluation",
    MoleculeTraining.on_validation_epoch_end.__code__: "evaluation",
    fitting.History.on_train_epoch_end.__code__: "checkpointing",
    common.save.__code__: "checkpointing",
    program.collect.__code__: "results",
    common.write_text.__code__: "results",
}
"""The functions that a phase lasts through, those within them excepted."""
PHASES = tuple(dict.fromkeys(BEGINNINGS.values()))
FLAGS = (
    "--width 8 --layers 2 --steps 2 --epochs 5 --batch-size 16 --lr 0.01 --dropout 0.2 --name run"
)


class Moment(NamedTuple):
    """The call number `number` within `phase`."""

    phase: str
    number: int


class Watch:
    """Counts the calls of each phase, and ends this process at one of them."""

    def __init__(self, moment: Moment | None) -> None:
        self.moment = moment
        self.calls: Counter[str] = Counter()
        self.phases = ["start"]

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        phase = BEGINNINGS.get(frame.f_code)
        if phase is not None and event == "call":
            self.phases.append(phase)
        elif phase is not None and event == "return":
            self.phases.pop()
        if event in ("call", "c_call"):
            phase = self.phases[-1]
            self.calls[phase] += 1
            if self.moment == (phase, self.calls[phase]):
                os.kill(os.getpid(), signal.SIGKILL)


def call(flags: list[str], moment: Moment | None, log: Path, count: Path | None = None) -> int:
    """Runs the command in a forked process; its wait status."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with open(log, "a") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            watch = Watch(moment)
            sys.setprofile(watch)
            status = program.main(flags)
            sys.setprofile(None)
            if count is not None:
                count.write_text(json.dumps(watch.calls))
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1]


def go_on(csv: str, life: Path, moment: Moment | None, count: Path | None = None) -> int:
    """What a user types: the command, and with --resume as soon as there is a run folder."""
    life.mkdir(exist_ok=True)
    flags = [*FLAGS.split(), "--csv", csv, "--root", f"{life}/data", "--runs-dir", f"{life}/runs"]
    if (life / "runs" / "run" / "config.yaml").exists():
        flags.append("--resume")
    return call(flags, moment, life / "log", count)


def main() -> None:
    """Kill and go on until there were enough kills and the last life has ended."""
    csv, base = sys.argv[1], Path(sys.argv[2])
    seed, kills = map(int, sys.argv[3:])
    base.mkdir()
    program.plot_run = lambda folder: None  # half the time of such a run
    ends = [go_on(csv, base / "whole", None, base / "calls.json")]
    calls = json.loads((base / "calls.json").read_text())
    generator = random.Random(seed)
    lives: list[list[Moment]] = [[]]
    for i in range(kills):
        phase = PHASES[i % len(PHASES)]
        moment = Moment(phase, generator.randint(1, calls[phase]))
        while (end := go_on(csv, base / f"life-{len(lives) - 1}", moment)) != signal.SIGKILL:
            ends.append(end)  # the rest of this life was too short for that moment
            if not lives[-1]:
                raise RuntimeError(f"a whole run never came to {moment}")
            lives.append([])
        lives[-1].append(moment)
    ends.append(go_on(csv, base / f"life-{len(lives) - 1}", None))
    print(json.dumps({"lives": lives, "ends": ends}))


if __name__ == "__main__":
    main()
