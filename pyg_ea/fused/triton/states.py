"""Kernels over the segments: sums of partial sums, and the solver's update and its derivative.

A program of the last two takes a few rows whole.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from pyg_ea.fused.triton.elements import OUT, SIZES, _store, launch
from pyg_ea.fused.triton.work import ROWS, Backward, Forward, Work, ceil_div, power_of_2


def reduce(w: Work) -> None:
    """See :func:`pyg_ea.fused.triton.plain.reduce`."""
    columns = 256
    launch(
        w, _reduce, (w.segments, ceil_div(w.width, columns), 1 + w.tangents),
        w.partial, w.ptr, w.total, w.blocks, w.segments,
        H=w.hidden, P1=w.wide, P=w.width, ROWS=ROWS, SLICE=4, COLS=columns,
    )  # fmt: skip


def update(w: Forward, state: Tensor, after: Tensor) -> None:
    """See :func:`pyg_ea.fused.triton.plain.update`."""
    rows, columns = _tile(w)
    launch(
        w, _update, (ceil_div(w.segments, rows), 1, 1),
        state, after, w.to_ahead, w.ahead, w.scale, w.scalars, w.stats, w.counts, w.flags,
        w.segments, w.gtol, w.clip, D=w.channels, DP=w.padded, ROWS=rows, COLS=columns,
        CLIP=w.clip > 0,
    )  # fmt: skip


def turn(w: Backward, t: int) -> None:
    """See :func:`pyg_ea.fused.triton.plain.turn`."""
    rows, columns = _tile(w)
    steps = len(w.squares)
    done, state = min(t, steps - 1), max(t - 1, 0)
    launch(
        w, _turn, (ceil_div(w.segments, rows), 1, 1),
        w.states[done], w.states[state], w.to_ahead, w.ahead, w.to_y, w.to_v, w.scale, w.scalars,
        w.d_scalars, w.squares[done], w.squares[state], w.segments, w.gtol, w.clip,
        D=w.channels, DP=w.padded, ROWS=rows, COLS=columns, CLIP=w.clip > 0, AFTER=t < steps,
        BEFORE=t > 0,
    )  # fmt: skip


def _tile(w: Work) -> tuple[int, int]:
    """Rows and columns of a program."""
    columns = power_of_2(w.padded)
    return max(1, 2048 // columns), columns


@triton.jit(do_not_specialize=SIZES)
def _reduce(
    partial, ptr, total, blocks, segments, H: tl.constexpr, P1: tl.constexpr, P: tl.constexpr,
    ROWS: tl.constexpr, SLICE: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    segment = tl.program_id(0).to(tl.int64)
    which = tl.program_id(2).to(tl.int64)
    c = tl.program_id(1) * COLS + tl.arange(0, COLS)
    used = (c < 2 * H) | ((c >= P1) & (c < P1 + OUT + H))
    begin = tl.load(ptr + segment)
    end = tl.load(ptr + segment + 1)
    first = begin // ROWS
    stop = tl.where(end > begin, (end - 1) // ROWS + 1, first)
    start = partial + (which * (blocks + segments) + segment) * P + c[None, :]
    sums = tl.zeros([SLICE, COLS], tl.float32)
    for block in range(first, stop, SLICE):
        row = block + tl.arange(0, SLICE)[:, None]
        sums += tl.load(start + row * P, mask=(row < stop) & used[None, :], other=0.0)
    _store(total + (which * segments + segment) * P + c, tl.sum(sums, 0), c < P)


@triton.jit(do_not_specialize=SIZES)
def _update(
    state, after, to_ahead, ahead, scale, scalars, stats, counts, flags, segments, gtol, clip,
    D: tl.constexpr, DP: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, CLIP: tl.constexpr,
):  # fmt: skip
    lr, mu, prior = tl.load(scalars), tl.load(scalars + 1), tl.load(scalars + 2)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = rows < segments
    at, mask, size = _cells(rows, segments, D, DP, ROWS, COLS)
    y = tl.load(state + at, mask=mask, other=0.0)
    v = tl.load(state + size + at, mask=mask, other=0.0)
    by_scale = tl.load(scale + rows, mask=inside, other=0.0)[:, None]
    product = tl.load(to_ahead + at, mask=mask, other=0.0).to(tl.float32)
    g = by_scale * (2 * prior * (y + mu * v) + product)
    largest = _largest(g)
    v = mu * v - lr * g
    y += tl.where((largest < gtol)[:, None], 0.0, v)
    if CLIP:
        y = tl.where(y > clip, clip, tl.where(y < -clip, -clip, y))  # NaN stays
    tl.store(state + 2 * size + at, g, mask=mask)
    tl.store(after + at, y, mask=mask)
    tl.store(after + size + at, v, mask=mask)
    _store(ahead + at, y + mu * v, mask)

    square = tl.sum(g * g, 1) / D
    first = tl.load(stats + 2 * segments + rows, mask=inside, other=0.0)
    path = tl.load(stats + segments + rows, mask=inside, other=0.0)
    count = tl.load(counts + rows, mask=inside, other=0)
    finite = tl.min((tl.abs(y) < float("inf")).to(tl.int32), 1)
    tl.store(stats + rows, square, mask=inside)
    tl.store(stats + segments + rows, path + square, mask=inside)
    tl.store(stats + 2 * segments + rows, tl.where(first > 0, first, largest), mask=inside)
    tl.store(stats + 3 * segments + rows, largest, mask=inside)
    tl.store(counts + rows, count + 1 - (largest < gtol).to(tl.int64), mask=inside)
    tl.store(flags + rows, (largest < gtol).to(tl.int8), mask=inside)
    tl.store(flags + segments + rows, (1 - finite).to(tl.int8), mask=inside)


@triton.jit(do_not_specialize=SIZES)
def _turn(
    done, state, to_ahead, ahead, to_y, to_v, scale, scalars, d_scalars, square_done, square,
    segments, gtol, clip, D: tl.constexpr, DP: tl.constexpr, ROWS: tl.constexpr,
    COLS: tl.constexpr, CLIP: tl.constexpr, AFTER: tl.constexpr, BEFORE: tl.constexpr,
):  # fmt: skip
    lr, mu, prior = tl.load(scalars), tl.load(scalars + 1), tl.load(scalars + 2)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = rows < segments
    at, mask, size = _cells(rows, segments, D, DP, ROWS, COLS)
    by_scale = tl.load(scale + rows, mask=inside, other=0.0)[:, None]
    of_y = tl.load(to_y + at, mask=mask, other=0.0)
    of_v = tl.load(to_v + at, mask=mask, other=0.0)
    if AFTER:
        v = tl.load(done + size + at, mask=mask, other=0.0)
        g = tl.load(done + 2 * size + at, mask=mask, other=0.0)
        dy = _direction(by_scale, square_done, g, lr, of_v, rows, inside, D)
        of_ahead = 2 * prior * dy + tl.load(to_ahead + at, mask=mask, other=0.0).to(tl.float32)
        of_v += of_ahead
        _add_row(d_scalars + segments + rows, of_v * v, inside)
        of_y += of_ahead
        of_v *= mu
    if BEFORE:
        y = tl.load(state + at, mask=mask, other=0.0)
        v = tl.load(state + size + at, mask=mask, other=0.0)
        g = tl.load(state + 2 * size + at, mask=mask, other=0.0)
        still = (_largest(g) < gtol)[:, None]
        if CLIP:
            free = y + tl.where(still, 0.0, mu * v - lr * g)
            of_y = tl.where(tl.abs(free) <= clip, of_y, 0.0)
        of_v += tl.where(still, 0.0, of_y)
        dy = _direction(by_scale, square, g, lr, of_v, rows, inside, D)
        look = y + mu * v
        _add_row(d_scalars + rows, -of_v * g, inside)
        _add_row(d_scalars + 2 * segments + rows, 2 * dy * look, inside)
        _store(ahead + at, look, mask)
        _store(ahead + size + at, dy, mask)
    tl.store(to_y + at, of_y, mask=mask)
    tl.store(to_v + at, of_v, mask=mask)


@triton.jit
def _cells(rows, segments, D: tl.constexpr, DP: tl.constexpr, ROWS: tl.constexpr,
           COLS: tl.constexpr):  # fmt: skip
    """Offsets of the cells of ``[S, DP]``, which of them there are, and the size of the whole."""
    c = tl.arange(0, COLS)[None, :]
    at = rows.to(tl.int64)[:, None] * DP + c
    return at, (rows < segments)[:, None] & (c < D), segments.to(tl.int64) * DP


@triton.jit
def _direction(scale, square, g, lr, of_v, rows, inside, D: tl.constexpr):
    """The cotangent of the unscaled gradient."""
    of_square = tl.load(square + rows, mask=inside, other=0.0)[:, None]
    return scale * (2 / D * of_square * g - lr * of_v)


@triton.jit
def _largest(g):
    """Largest magnitude of each row, NaN where one is."""
    largest = tl.max(tl.abs(g), 1)
    return tl.where(tl.max((g != g).to(tl.int32), 1) > 0, float("nan"), largest)


@triton.jit
def _add_row(pointer, values, mask):
    tl.store(pointer, tl.load(pointer, mask=mask, other=0.0) + tl.sum(values, 1), mask=mask)
