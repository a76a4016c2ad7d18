"""Making the runs of a study: which are missing, several at a time, each recorded as it ends."""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from types import FrameType

from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky.process_executor import TerminatedWorkerError

from experiments.common import Interrupted, UserError
from experiments.studies.records import Outcome, Records, Run

Perform = Callable[[Run, Path], Outcome]
"""Makes a run, or the rest of it, in a folder of its own."""


def make(
    study: str,
    runs: Sequence[Run],
    perform: Perform,
    records: Records,
    runs_dir: Path,
    rows: Sequence[str],
    jobs: int = 1,
) -> None:
    """Makes the runs that have no record, in the order given, and records each as it ends.

    A run that fails is recorded too; the others go on. Each run's output is in ``NAME.log``, and
    its folder, in ``runs_dir``. ``jobs`` are made at a time, with one thread each; ``perform`` must
    then be importable, for it runs in worker processes. ``rows`` is the order of the tables.
    ``Interrupted`` is raised when the command was asked to stop.
    """
    missing = [run for run in runs if not records.has(run)]
    runs_dir.mkdir(parents=True, exist_ok=True)
    with _sigterm_raises(), parallel_config("loky", inner_max_num_threads=1):
        pool = Parallel(jobs, return_as="generator_unordered", pre_dispatch=jobs)
        parent = os.getpid() if jobs > 1 else None
        ended = pool(delayed(_one)(perform, run, runs_dir, parent) for run in missing)
        try:
            with closing(ended):
                for number, (run, result) in enumerate(ended, 1):
                    if isinstance(result, Outcome):
                        records.add(study, run, result)
                        text = f"score {result.score:.4g}"
                    else:
                        records.fail(run, result)
                        text = f"failed: {result}"
                    records.write(rows)
                    print(f"[{number}/{len(missing)}] {run.name}: {text}", flush=True)
        except TerminatedWorkerError as error:
            raise UserError(
                "a process that made a run died, most often for lack of memory: free some, or use "
                "fewer --jobs, and call the same command again"
            ) from error


def _one(
    perform: Perform, run: Run, runs_dir: Path, parent: int | None
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


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """SIGTERM stops the command as Ctrl-C does; joblib then ends its workers."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted(signal.Signals(number).name)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
