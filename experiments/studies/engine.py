"""Making the runs of a study: which are missing, several at a time, each recorded as it ends."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, NoReturn

from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky.process_executor import TerminatedWorkerError

from experiments.common import Interrupted, UserError
from experiments.studies.records import Outcome, Records, Run, check_equal
from experiments.studies.report import report


class Tuning(NamedTuple):
    """Settings of which each row first tries all combinations of these values, with a seed that no
    run of the study itself should have; ``others`` are settings of these tries alone.

    Of the setting ``extend``, a positive number, more values are tried while the best one is the
    largest or the smallest: 1 or 3 times a power of ten.
    """

    values: dict[str, Sequence[Any]]
    seed: int
    others: dict[str, Any]
    extend: str | None = None

    def combinations(self) -> list[dict[str, Any]]:
        """All combinations of the values given."""
        return [dict(zip(self.values, own, strict=True)) for own in product(*self.values.values())]

    def beyond(self, best: dict[str, Any], tried: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """What to try next where the best value is at the edge of those tried."""
        key = self.extend
        if key is None:
            return []
        alike = [own[key] for own in tried if own | {key: None} == best | {key: None}]
        ways = [way for way, edge in ((-1, min(alike)), (1, max(alike))) if best[key] == edge]
        return [best | {key: _step(best[key], way)} for way in ways]


@dataclass(frozen=True)
class Grid:
    """What the engine has to know of a study.

    Args:
        study: its name.
        references: rows in the order of the tables, each with that its differences are taken to.
        settings: all settings of a run, from its row, its seed and what is changed in the row.
        perform: makes a run, or the rest of it, in a folder of its own. With several at a time it
            must be importable or picklable, for it runs in worker processes.
        tuning: how each row finds its own values of some settings.
        is_lower_better: whether the smallest score is the best.
        identity: columns of the records that all runs have in common.
    """

    study: str
    references: dict[str, str]
    settings: Callable[[str, int, dict[str, Any]], dict[str, Any]]
    perform: Callable[[Run, Path], Outcome]
    tuning: Tuning | None
    is_lower_better: bool
    identity: dict[str, str]

    def run(self, row: str, seed: int, tries: tuple[str, ...] | None = None, **changes: Any) -> Run:
        """One run of the study."""
        return Run(row, seed, self.settings(row, seed, changes), self.references[row], tries)


def run_study(
    grid: Grid, rows: Sequence[str], seeds: Sequence[int], out: Path, runs_dir: Path, jobs: int
) -> int:
    """Makes what is missing, records it in ``out``, and reports; exit code 1 when a run failed.

    Rows take turns seed by seed, so that an interrupted study still compares like with like.
    """
    for row in rows:
        if row not in grid.references:
            raise UserError(f"row {row}: expected some of {' '.join(grid.references)}")
    records = Records(out)
    records.check_same({"study": grid.study, **grid.identity})
    changes: dict[str, dict[str, Any]] = {row: {} for row in rows}
    failures = []
    if grid.tuning is not None:
        failures = tune(grid, grid.tuning, rows, records, runs_dir, jobs)
        best = records.best_values(grid.is_lower_better)
        changes = {row: best[row] for row in rows if row in best}
    runs = [grid.run(row, seed, **own) for seed in seeds for row, own in changes.items()]
    failures += make(grid, runs, records, runs_dir, jobs)
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    if len(records.runs):
        print("\n" + report(out))
    return 1 if failures else 0


def tune(
    grid: Grid, tuning: Tuning, rows: Sequence[str], records: Records, runs_dir: Path, jobs: int
) -> list[str]:
    """Makes the tries of each row that are missing; the failed ones are returned, in words."""
    tried = new = {row: tuning.combinations() for row in rows}
    failures = []
    while any(new.values()):
        tries = [
            grid.run(row, tuning.seed, tuple(tuning.values), **tuning.others, **values)
            for row, own in new.items()
            for values in own
        ]
        failures += make(grid, tries, records, runs_dir, jobs)
        best = records.best_values(grid.is_lower_better)
        known = {row: [*tried[row], *records.tried(row)] for row in rows if row in best}
        new = {row: tuning.beyond(best[row], own) for row, own in known.items()}
        tried = tried | {row: [*own, *new[row]] for row, own in known.items()}
    return failures


def make(grid: Grid, runs: Sequence[Run], records: Records, runs_dir: Path, jobs: int) -> list[str]:
    """Makes the runs that have no record, in the order given, and records each as it ends.

    The failed ones are returned, in words; the others go on. Each run's output is in ``NAME.log``,
    and its folder, in ``runs_dir``. ``jobs`` are made at a time, with one thread each.
    ``Interrupted`` is raised when the command was asked to stop, ``UserError`` when a run is
    recorded with other settings.
    """
    for run in runs:
        for config in records.find(run)["config"]:
            check_equal(f"{records.folder}, {run.name}", json.loads(config), run.settings)
    missing, failures = [run for run in runs if records.find(run).empty], []
    runs_dir.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, _stop)  # joblib then ends its workers, as after Ctrl-C
    with parallel_config("loky", inner_max_num_threads=1):
        pool = Parallel(jobs, return_as="generator_unordered", pre_dispatch=jobs)
        parent = os.getpid() if jobs > 1 else None
        ended = pool(delayed(_one)(grid.perform, run, runs_dir, parent) for run in missing)
        try:
            with closing(ended):
                for number, (run, result) in enumerate(ended, 1):
                    if isinstance(result, Outcome):
                        records.add(grid.study, run, result)
                        records.write(list(grid.references))
                        text = f"score {result.score:.4g}"
                    else:
                        failures.append(f"{run.name}: {result}")
                        text = "failed"
                    print(f"[{number}/{len(missing)}] {run.name}: {text}", flush=True)
        except TerminatedWorkerError as error:
            raise UserError(
                "a process that made a run died, most often for lack of memory: free some, or use "
                "fewer --jobs, and call the same command again"
            ) from error
    return failures


def _step(value: float, way: int) -> float:
    """The next smaller (``way`` -1) or larger (1) of ..., 0.1, 0.3, 1, 3, 10, 30, ..."""
    return float(f"{10 ** ((round(2 * math.log10(value)) + way) / 2):.0e}")


def _one(
    perform: Callable[[Run, Path], Outcome], run: Run, runs_dir: Path, parent: int | None
) -> tuple[Run, Outcome | str]:
    """Makes a run; its outcome, or what went wrong."""
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    log = runs_dir / f"{run.name}.log"
    with log.open("a") as file, redirect_stdout(file), redirect_stderr(file):
        try:
            return run, perform(run, runs_dir / run.name)
        except UserError as error:
            return run, str(error)
        except Interrupted:
            raise
        except Exception as error:  # the other runs go on
            traceback.print_exc()
            return run, f"{type(error).__name__}, see {log}"


def _end_with(parent: int) -> None:
    """Ends this worker when the command is gone, killed for example."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise Interrupted(signal.Signals(number).name)
