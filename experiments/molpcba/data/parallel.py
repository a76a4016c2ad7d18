"""An ordered, bounded map over worker processes that never outlive their parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from .errors import DataError

T = TypeVar("T")
R = TypeVar("R")

AHEAD = 4
"""Items handed out per worker before their results are taken: bounds the memory."""


def default_workers() -> int:
    """Number of processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ordered_map(function: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """Yield `function(item)` in the order of `items`, worked out in `workers` processes.

    `workers=0` works in this process: for little work, where starting processes costs more.
    Processes are forked off a clean server process, not off this one: the caller may hold threads
    (torch, Lightning) that a fork would leave in an undefined state. The server imports the main
    module once, for all workers. `function` has to be importable and its results picklable.

    Raises:
        DataError: when a worker dies, most often because the machine is out of memory.
    """
    if workers == 0:
        yield from map(function, items)
        return
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    pool = ProcessPoolExecutor(workers, context, initializer=tie_to_parent)
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise DataError(
            "a worker process of the preparation died, most often for lack of memory; "
            "free some memory or use fewer workers, and run the same command again"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def tie_to_parent() -> None:
    """End this worker when its parent is gone, and leave Ctrl-C to the parent.

    A worker waits on a queue whose other end it holds itself, so it would never notice that its
    parent was killed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_after_parent, daemon=True).start()


def _exit_after_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
