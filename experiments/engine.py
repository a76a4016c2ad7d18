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
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky.process_executor import TerminatedWorkerError

from experiments.common import Interrupted, UserError, duration, owned
from experiments.records import Outcome, Records, Run, check_equal
from experiments.report import report


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
    """What the engine has to know of a study. Worker processes import or unpickle ``perform``."""

    study: str  # its name
    references: dict[str, str]  # rows in the order of the tables -> the row each is compared with
    settings: Callable[[str, int, dict[str, Any]], dict[str, Any]]  # of row, seed and changes
    perform: Callable[[Run, Path], Outcome]  # makes a run, or the rest of it, in its own folder
    tuning: Tuning | None  # how each row finds its own values of some settings
    is_lower_better: bool  # whether the smallest score is the best
    identity: dict[str, str]  # columns of the records that all runs have in common
    seconds: Callable[[Run], float]  # estimates the time of a run

    def run(self, row: str, seed: int, tries: tuple[str, ...] | None = None, **changes: Any) -> Run:
        """One run of the study."""
        settings = self.settings(row, seed, changes)
        given = {key: value for key, value in settings.items() if value is not None}
        return Run(row, seed, given, self.references[row], tries)


def run_study(grid: Grid, rows: Sequence[str], seeds: Sequence[int], out: Path, jobs: int) -> int:
    """Makes what is missing, records it, and reports; exit code 1 when a run failed.

    Rows take turns seed by seed, so that an interrupted study still compares like with like.

    Args:
        grid: the study.
        rows: those to make.
        seeds: of each row.
        out: folder of the records, and of the run folders and logs in ``runs/``. No other study or
            summary works in it meanwhile.
        jobs: runs at a time.

    Raises:
        Interrupted: when the command was asked to stop.
        UserError: when a run is recorded with other settings, or ``out`` is another process's.
    """
    for row in rows:
        if row not in grid.references:
            raise UserError(f"row {row}: expected some of {' '.join(grid.references)}")
    with owned(out, "--out"):
        records = Records(out)
        records.check_same({"study": grid.study, **grid.identity})
        tries, chosen = _tries(grid, rows, records), _chosen(grid, rows, records)
        runs = [grid.run(row, seed, **chosen.get(row, {})) for seed in seeds for row in rows]
        missing = [run for run in (*tries, *runs) if is_missing(run, records, chosen)]
        if not missing:
            print(
                f"all {len(tries) + len(runs)} runs are recorded in {out}: python -m "
                f"experiments.report {out} shows them; another --out makes them anew"
            )
            return 0
        print(_announcement(grid, missing, len(tries) + len(runs), out, jobs), flush=True)
        failures, made = [], set()
        while tries := [run for run in _tries(grid, rows, records) if run.name not in made]:
            failures += make(grid, tries, records, jobs)
            made |= {run.name for run in tries}
        chosen = _chosen(grid, rows, records)
        runs = [grid.run(row, seed, **own) for seed in seeds for row, own in chosen.items()]
        failures += make(grid, runs, records, jobs)
        for failure in failures:
            print(f"failed: {failure}", file=sys.stderr)
        if len(records.runs):
            print("\n" + report(out))
    return 1 if failures else 0


def _tries(grid: Grid, rows: Sequence[str], records: Records) -> list[Run]:
    """The runs by which each row finds its values, as far as they follow from those recorded."""
    if (tuning := grid.tuning) is None:
        return []
    best = records.best_values(grid.is_lower_better)
    values = {row: tuning.combinations() for row in rows}
    for row, own in values.items():
        tried = records.tried(row)
        if all(value in tried for value in own):
            own += tuning.beyond(best[row], tried)
    return [
        grid.run(row, tuning.seed, tuple(tuning.values), **tuning.others, **value)
        for row, own in values.items()
        for value in own
    ]


def _chosen(grid: Grid, rows: Sequence[str], records: Records) -> dict[str, dict[str, Any]]:
    """What each row changes: the best values that it tried. Rows without are left out."""
    if grid.tuning is None:
        return {row: {} for row in rows}
    best = records.best_values(grid.is_lower_better)
    return {row: best[row] for row in rows if row in best}


def is_missing(run: Run, records: Records, chosen: Collection[str]) -> bool:
    """Whether a run has no record; a ``UserError`` where it has one with other settings.

    The settings of rows that are not ``chosen`` yet are not known.
    """
    configs = records.find(run)["config"]
    for config in configs if run.tries or run.row in chosen else ():
        check_equal(f"{records.folder}, {run.name}", json.loads(config), run.settings)
    return configs.empty


def _announcement(grid: Grid, missing: Sequence[Run], total: int, out: Path, jobs: int) -> str:
    """How many runs, of about how long: from one run of each row."""
    kinds, seconds = {(run.row, run.tries): run for run in missing}, {}
    for kind, run in kinds.items():
        with suppress(Exception):  # the run itself will say so, and the others go on
            seconds[kind] = grid.seconds(run)
    times = [seconds.get((run.row, run.tries), 0.0) for run in missing]
    each = " to ".join(dict.fromkeys(duration(max(1, own)) for own in (min(times), max(times))))
    done = f" ({total - len(missing)} more are recorded)" if total > len(missing) else ""
    total_time = duration(max(1, sum(times) / jobs))
    return (
        f"{len(missing)} runs{done} of about {each}, about {total_time} in all (--jobs {jobs}); "
        f"records in {out}"
    )


def _step(value: float, way: int) -> float:
    """The next smaller (``way`` -1) or larger (1) of ..., 0.1, 0.3, 1, 3, 10, 30, ..."""
    return float(f"{10 ** ((round(2 * math.log10(value)) + way) / 2):.0e}")


def make(grid: Grid, runs: Sequence[Run], records: Records, jobs: int) -> list[str]:
    """Makes the runs that have no record, in the order given, and records each as it ends.

    The failed ones are returned, in words; the others go on. Each run's output is in ``NAME.log``,
    and its folder, in ``runs/`` beside the records. ``jobs`` are made at a time, with one thread
    each.
    """
    runs_dir = (records.folder / "runs").resolve()  # a worker may be in another folder
    missing, failures = [run for run in runs if is_missing(run, records, grid.references)], []
    runs_dir.mkdir(parents=True, exist_ok=True)
    with _stoppable(), parallel_config("loky", inner_max_num_threads=1), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*tasks", module="joblib")  # when stopped
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
                "a process that made a run died, most often for lack of memory: use fewer --jobs"
            ) from error
    return failures


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
        except Interrupted as stop:
            raise Interrupted(stop.name) from stop
        except Exception as error:  # the other runs go on
            traceback.print_exc()
            return run, f"{type(error).__name__}, see {log}"


def _end_with(parent: int) -> None:
    """Ends this worker when the command is gone, killed for example."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


@contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM raises ``Interrupted``: joblib then ends its workers, as after Ctrl-C."""

    def stop(*_: object) -> NoReturn:
        raise Interrupted("SIGTERM")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
