"""Solutions of all layers called in a block of code."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pyg_ea.solver import Solution


class _Open(threading.local):
    """The list that the calling thread gathers in, None outside of all blocks."""

    solutions: list[Solution] | None = None


_open = _Open()


@contextmanager
def collect_solutions() -> Iterator[list[Solution]]:
    """Gathers the solution of every call of :class:`EAAggregation` in a block of code::

        with collect_solutions() as solutions:
            out = model(x, edge_index, batch)
        loss = task_loss(out, y) + 0.01 * auxiliary_loss(solutions)
        loss.backward()

    Outside such a block no layer keeps a graph. A layer called twice contributes two solutions, in
    the order of the calls. Solutions of a nested block belong to the outer block as well. Layers
    called in other threads are left out.

    Call ``backward`` after the block: activation checkpointing calls layers again in backward.

    Yields:
        The list of solutions, each with its graph where gradients are enabled.
    """
    outer = _open.solutions
    solutions = _open.solutions = []
    try:
        yield solutions
    finally:
        _open.solutions = outer
        if outer is not None:
            outer.extend(solutions)


def collect(solution: Solution) -> None:
    """Adds a solution to the open block, if there is one."""
    if _open.solutions is not None:
        _open.solutions.append(solution)
