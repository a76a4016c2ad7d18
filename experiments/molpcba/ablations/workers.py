"""Making runs, several at a time, each in a process that keeps its imports."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import FrameType

import torch

from experiments.molpcba.config import Config
from experiments.molpcba.data import DataError
from experiments.molpcba.data.parallel import tie_to_parent
from experiments.molpcba.errors import Interrupted, UserError
from experiments.molpcba.run import run
from experiments.molpcba.runs import RunFolder


def folder_of(config: Config) -> RunFolder:
    """Where the run of a named configuration lies."""
    return RunFolder(Path(config.runs_dir) / str(config.name))


def perform(config: Config) -> str | None:
    """Makes a run, or the rest of it, its output in ``NAME.log``; what went wrong, if anything.

    Raises:
        Interrupted: when it was asked to stop.
    """
    path = folder_of(config).path
    path.parent.mkdir(parents=True, exist_ok=True)
    log = path.with_name(f"{path.name}.log")
    with log.open("a") as file, redirect_stdout(file), redirect_stderr(file):
        try:
            run(replace(config, resume=path.exists()))
        except (UserError, DataError) as error:
            return str(error)
        except Interrupted:
            raise
        except Exception as error:  # the other runs go on
            traceback.print_exc()
            return f"{type(error).__name__}, see {log}"
    return None


def carry_out(configs: Sequence[Config], jobs: int) -> Generator[tuple[Config, str | None]]:
    """Makes runs, ``jobs`` at a time, and yields each as it ends, with what went wrong or None.

    One at a time they are made in this process; otherwise each process has one thread. Left early,
    by Ctrl-C for example, the runs that are going on stop after their batch.

    Raises:
        UserError: when a process dies.
        Interrupted: when a run was asked to stop.
    """
    if jobs == 1:
        for config in configs:
            yield config, perform(config)
        return
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _prepare)
    waiting, running = iter(configs), dict[Future[str | None], Config]()
    try:
        while True:
            # No more than is worked on: what the pool has taken on cannot be taken back.
            for config in islice(waiting, jobs - len(running)):
                running[pool.submit(_work, config)] = config
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "a process that made a run died, most often for lack of memory: free some, or take "
            "fewer --jobs, and call the same command again"
        ) from error
    finally:
        if running:
            for process in multiprocessing.active_children():
                process.terminate()
        pool.shutdown(cancel_futures=True)


_told_to_end = threading.Event()


def _prepare() -> None:
    """Of a worker: one thread, no Ctrl-C from the terminal, and an end with its parent.

    SIGTERM stops its run only: an idle worker that died of it would take along the lock on the
    queue, and the others would wait for that lock instead of ending.
    """
    torch.set_num_threads(1)
    os.setpgrp()
    tie_to_parent()
    signal.signal(signal.SIGTERM, lambda number, frame: _told_to_end.set())


def _work(config: Config) -> str | None:
    """What a worker does: :func:`perform`, which SIGTERM ends at any moment."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted(signal.Signals(number).name)

    idle = signal.signal(signal.SIGTERM, stop)
    try:
        if _told_to_end.is_set():
            raise Interrupted("SIGTERM")
        return perform(config)
    finally:
        signal.signal(signal.SIGTERM, idle)
