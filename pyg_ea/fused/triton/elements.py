r"""Kernels over the elements.

Notation is that of :mod:`pyg_ea.fused.torch.elements`. Weights and ``fixed`` are centred (see
:func:`pyg_ea.fused.triton.steps.centred`), so :math:`u` and :math:`\dot u` have mean 0 over a row.
With :math:`n = u / \sigma`, :math:`\sigma^2 = \overline{u^2} + \epsilon` and
:math:`a = \overline{n \dot u}`:

.. math::
    J(g) &= (g - n \, \overline{g n}) / \sigma, \qquad \dot n = J(\dot u) \\
    w &= \gamma (1 - t^2) d, \quad q = (1 - t^2)(e - 2 t \gamma \dot n d) \\
    \mathrm{pull}(d) &= J(w) \\
    \mathrm{pull}(e, d) &= J(\gamma q) - \tfrac{a}{\sigma} J(w)
        - (\overline{w n} \, \dot n + \overline{w \dot n} \, n) / \sigma

With tangents, a buffer holds the values' rows followed by the tangents' rows, or cotangents of the
values followed by cotangents of the tangents. A program takes a block of rows through all columns.
It sums them over segments by a product with the matrix that says which rows share a segment.
Elements are sorted by segment, so ``block + segment`` is a different row of ``partial`` for each
pair of a block and a segment.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from pyg_ea.fused.triton.work import ROWS, Work, ceil_div, power_of_2
from pyg_ea.potentials.closed_form import OUTPUTS
from pyg_ea.potentials.tanh_norm import EPS

OUT = tl.constexpr(OUTPUTS)
EPSILON = tl.constexpr(EPS)
SIZES = ["elements", "segments", "blocks"]  # differ from batch to batch: one compilation for all


def stage1(w: Work) -> None:
    """See :func:`pyg_ea.fused.triton.plain.stage1`."""
    rows = 4
    launch(
        w, _stage1, (ceil_div(w.elements, rows), 1, 1),
        w.from_y, w.fixed, w.index, w.gamma1, w.beta1, w.t1, w.elements,
        w.segments, H=w.hidden, P1=w.wide, P=w.width, ROWS=rows,
        COLS=_columns(2 * w.hidden, 256), TANGENTS=w.tangents,
    )  # fmt: skip


def stage2(w: Work) -> None:
    """See :func:`pyg_ea.fused.triton.plain.stage2`."""
    launch(
        w, _stage2, (w.blocks, 1, 1),
        w.from_y, w.fixed, w.index, w.gamma2, w.beta2, w.w3, w.v, w.d23, w.t2, w.partial,
        w.d_fixed, w.d_norm2, w.elements, w.segments,
        H=w.hidden, P1=w.wide, P=w.width, PH=w.w3.shape[1], ROWS=ROWS,
        COLS=_columns(w.hidden, 128 // w.fixed.element_size()), TANGENTS=w.tangents,
        PRECISION=w.precision,
    )  # fmt: skip


def stage3(w: Work) -> None:
    """See :func:`pyg_ea.fused.triton.plain.stage3`."""
    launch(
        w, _stage3, (w.blocks, 1, 1),
        w.from_y, w.fixed, w.index, w.gamma1, w.beta1, w.to_t1, w.partial, w.d_fixed, w.d_norm1,
        w.elements, w.segments,
        H=w.hidden, P1=w.wide, P=w.width, ROWS=ROWS, COLS=_columns(2 * w.hidden, 64),
        TANGENTS=w.tangents, PRECISION=w.precision,
    )  # fmt: skip


def launch(
    w: Work, kernel: Any, grid: tuple[int, int, int], *arguments: object, **constants: object
) -> None:
    """Launches a kernel whose parameters are ``arguments``, then ``constants`` in their order.

    Triton looks up the compiled kernel by the types and alignments of the arguments, which takes
    longer than all else. They are the same in all steps of a solve, so it does this once.
    """
    key = kernel.__name__, *constants.values()
    run = w.launchers.get(key)
    if run is not None:
        run(*arguments, *constants.values())
        return
    # products and sums of one expression are fused, whatever the default of this version
    compiled = kernel[grid](*arguments, enable_fp_fusion=True, **constants)
    if compiled is not None:  # None where Triton interprets kernels
        w.launchers[key] = compiled[grid]


def _columns(width: int, most: int) -> int:
    """Number of columns that a program holds at a time."""
    return max(16, min(power_of_2(width), most))


@triton.jit(do_not_specialize=SIZES)
def _stage1(
    from_y, fixed, index, gamma, beta, t1, elements, segments,
    H: tl.constexpr, P1: tl.constexpr, P: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr, TANGENTS: tl.constexpr,
):  # fmt: skip
    _block, rows, inside, segment = _rows(index, elements, ROWS)
    at_y = from_y + segment[:, None] * P
    at_dy = at_y + segments.to(tl.int64) * P
    at = at_y, at_dy, fixed + rows[:, None] * (3 * H + OUT), at_y, at_y
    inv, a = _statistics(at, inside, 2 * H, ROWS, COLS, False, TANGENTS)
    at_t = t1 + rows[:, None] * P1
    at_dt = at_t + elements.to(tl.int64) * P1
    for start in range(0, 2 * H, COLS):
        c = (start + tl.arange(0, COLS))[None, :]
        mask = inside[:, None] & (c < 2 * H)
        _n, dn, t, scale = _point(at, gamma, beta, inv, a, c, mask, 2 * H, False, TANGENTS)
        _store(at_t + c, t, mask)
        if TANGENTS:
            _store(at_dt + c, (1 - t * t) * scale * dn, mask)


@triton.jit(do_not_specialize=SIZES)
def _stage2(
    from_y, fixed, index, gamma, beta, w3, v, d23, t2, partial, d_fixed, d_norm,
    elements, segments,
    H: tl.constexpr, P1: tl.constexpr, P: tl.constexpr, PH: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr, TANGENTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    block, rows, inside, segment = _rows(index, elements, ROWS)
    same, first = _shared(index, rows, inside, segment, ROWS)
    at_y = from_y + segment[:, None] * P + P1 + OUT  # the outputs' columns precede the norm's
    at_dy = at_y + segments.to(tl.int64) * P
    at_fixed = fixed + rows[:, None] * (3 * H + OUT) + 2 * H  # and follow them here
    at_v = v + rows[:, None] * (P - P1) + OUT
    at_dv = at_v + elements.to(tl.int64) * (P - P1)
    at = at_y, at_dy, at_fixed, at_v, at_dv
    inv, a = _statistics(at, inside, H, ROWS, COLS, True, TANGENTS)

    o = tl.arange(0, OUT)[None, :]
    mask3 = inside[:, None] & (o < OUT)
    d3 = _load(at_y - OUT + o, mask3) + _load(at_fixed + H + o, mask3)
    d3 += _load(at_v - OUT + o, mask3)
    h3 = d3
    if TANGENTS:
        h3 = _load(at_dy - OUT + o, mask3) + _load(at_dv - OUT + o, mask3)
    at_t2 = t2 + rows[:, None] * PH, t2 + (elements + rows)[:, None] * PH
    d3, h3 = _outputs(
        at, gamma, beta, inv, a, inside, w3, at_t2, d3, h3, H, PH, COLS, TANGENTS, PRECISION
    )

    at_h23 = d23 + rows[:, None] * (P - P1) + OUT
    at_h = partial + (block + segment)[:, None] * P + P1 + OUT
    at_d23, at_d, at_d_fixed = at_h23, at_h, at_fixed
    if TANGENTS:
        at_d23 += elements.to(tl.int64) * (P - P1)
        at_d += (tl.num_programs(0).to(tl.int64) + segments) * P
        at_d_fixed = d_fixed + rows[:, None] * (3 * H + OUT) + 2 * H
        _store(at_h23 - OUT + o, h3, mask3)
        of_h3 = _finite(same, _mean(tl.abs(h3), OUT))
        _sum_rows(at_h - OUT + o, same, of_h3, h3, first[:, None] & (o < OUT))
        _add(at_d_fixed + H + o, h3, mask3)
    _store(at_d23 - OUT + o, d3, mask3)
    of_d3 = _finite(same, _mean(tl.abs(d3), OUT))
    _sum_rows(at_d - OUT + o, same, of_d3, d3, first[:, None] & (o < OUT))
    given = d3.to(w3.dtype.element_ty), h3.to(w3.dtype.element_ty), w3
    to = at_d, at_h, at_d_fixed, at_d23, at_h23, d_norm + block * (2 * H)
    _pull(at, gamma, beta, inv, a, inside, same, first, given, to,
          H, PH, ROWS, COLS, True, TANGENTS, PRECISION)  # fmt: skip


@triton.jit(do_not_specialize=SIZES)
def _stage3(
    from_y, fixed, index, gamma, beta, to_t1, partial, d_fixed, d_norm, elements, segments,
    H: tl.constexpr, P1: tl.constexpr, P: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr, TANGENTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    block, rows, inside, segment = _rows(index, elements, ROWS)
    same, first = _shared(index, rows, inside, segment, ROWS)
    at_y = from_y + segment[:, None] * P
    at_dy = at_y + segments.to(tl.int64) * P
    at_fixed = fixed + rows[:, None] * (3 * H + OUT)
    at = at_y, at_dy, at_fixed, at_y, at_y
    inv, a = _statistics(at, inside, 2 * H, ROWS, COLS, False, TANGENTS)
    e = to_t1 + rows[:, None] * P1
    at_h = partial + (block + segment)[:, None] * P
    d, at_d, at_d_fixed = e, at_h, at_fixed
    if TANGENTS:
        d += elements.to(tl.int64) * P1
        at_d += (tl.num_programs(0).to(tl.int64) + segments) * P
        at_d_fixed = d_fixed + rows[:, None] * (3 * H + OUT)
    to = at_d, at_h, at_d_fixed, at_y, at_y, d_norm + block * (4 * H)
    _pull(at, gamma, beta, inv, a, inside, same, first, (d, e, to_t1), to,
          2 * H, P1, ROWS, COLS, False, TANGENTS, PRECISION)  # fmt: skip


@triton.jit
def _rows(index, elements, ROWS: tl.constexpr):
    """Number of the block, its rows, which of them there are, and their segments."""
    block = tl.program_id(0).to(tl.int64)
    rows = block * ROWS + tl.arange(0, ROWS)
    inside = rows < elements
    return block, rows, inside, tl.load(index + rows, mask=inside, other=-1)


@triton.jit
def _shared(index, rows, inside, segment, ROWS: tl.constexpr):
    """Which rows share a segment, ``[ROWS, ROWS]``, and which are the first of theirs."""
    local = tl.arange(0, ROWS)
    before = tl.load(index + rows - 1, mask=inside & (local > 0), other=-1)
    same = (segment[:, None] == segment[None, :]).to(tl.float32)
    return same, inside & (before != segment)


@triton.jit
def _value(at, c, mask, V: tl.constexpr):
    """Columns ``c`` of u; with ``V`` from a product too."""
    at_y, _, at_fixed, at_v, _ = at
    u = _load(at_y + c, mask) + _load(at_fixed + c, mask)
    if V:
        u += _load(at_v + c, mask)
    return u


@triton.jit
def _tangent(at, c, mask, V: tl.constexpr):
    """Columns ``c`` of the tangent of u."""
    _, at_dy, _, _, at_dv = at
    du = _load(at_dy + c, mask)
    if V:
        du += _load(at_dv + c, mask)
    return du


@triton.jit
def _statistics(
    at, inside, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, V: tl.constexpr,
    TANGENTS: tl.constexpr,
):  # fmt: skip
    """1 / sigma and a of each row, ``[ROWS, 1]``."""
    uu = tl.zeros([ROWS, COLS], tl.float32)
    ud = tl.zeros([ROWS, COLS], tl.float32)
    for start in range(0, WIDTH, COLS):
        c = (start + tl.arange(0, COLS))[None, :]
        mask = inside[:, None] & (c < WIDTH)
        u = _value(at, c, mask, V)
        uu += u * u
        if TANGENTS:
            ud += u * _tangent(at, c, mask, V)
    inv = tl.rsqrt(_mean(uu, WIDTH) + EPSILON)
    return inv, _mean(ud, WIDTH) * inv


@triton.jit
def _point(
    at, gamma, beta, inv, a, c, mask, WIDTH: tl.constexpr, V: tl.constexpr, TANGENTS: tl.constexpr
):  # fmt: skip
    """Columns ``c`` of n, its tangent, t and gamma."""
    n = inv * _value(at, c, mask, V)
    scale = _load(gamma + c, c < WIDTH)
    t = _tanh(scale * n + _load(beta + c, c < WIDTH))
    dn = n
    if TANGENTS:
        dn = inv * (_tangent(at, c, mask, V) - n * a)
    return n, dn, t, scale


@triton.jit
def _outputs(
    at, gamma, beta, inv, a, inside, w3, at_t2, d3, h3,
    H: tl.constexpr, PH: tl.constexpr, COLS: tl.constexpr, TANGENTS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """The cotangents of the output and of its tangent; with tangents stores t2 and its tangent."""
    at_t, at_dt = at_t2
    o = tl.arange(0, OUT)[None, :]
    for start in range(0, H, COLS):
        column = start + tl.arange(0, COLS)
        c = column[None, :]
        mask = inside[:, None] & (c < H)
        _n, dn, t, scale = _point(at, gamma, beta, inv, a, c, mask, H, True, TANGENTS)
        weight = tl.load(w3 + o * PH + column[:, None], mask=column[:, None] < H, other=0.0)
        d3 = tl.dot(t.to(weight.dtype), weight, d3, input_precision=PRECISION)
        if TANGENTS:
            dt = (1 - t * t) * scale * dn
            h3 = tl.dot(dt.to(weight.dtype), weight, h3, input_precision=PRECISION)
            _store(at_t + c, t, mask)
            _store(at_dt + c, dt, mask)
    return d3 * (2 / OUT), h3 * (2 / OUT)


@triton.jit
def _cotangents(
    given, c, mask, WIDTH: tl.constexpr, P: tl.constexpr, V: tl.constexpr, TANGENTS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Columns ``c`` of d and e: products of the outputs' cotangents with ``V``, else loaded."""
    given_d, given_e, w3 = given
    if V:
        row = tl.arange(0, OUT)[:, None]
        weight = tl.load(w3 + row * P + c, mask=(row < OUT) & (c < WIDTH), other=0.0)
        d = tl.dot(given_d, weight, input_precision=PRECISION)
        e = d
        if TANGENTS:
            e = tl.dot(given_e, weight, input_precision=PRECISION)
    else:
        d = _load(given_d + c, mask)
        e = _load(given_e + c, mask)
    return d, e


@triton.jit
def _pull(
    at, gamma, beta, inv, a, inside, same, first, given, to,
    WIDTH: tl.constexpr, P: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, V: tl.constexpr,
    TANGENTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Stores pull(d) and its sums; with tangents also pull(e, d) and the gradients of the norm."""
    at_d, at_h, at_d_fixed, at_d23, at_h23, d_norm = to
    wn = tl.zeros([ROWS, COLS], tl.float32)
    wd = tl.zeros([ROWS, COLS], tl.float32)
    qn = tl.zeros([ROWS, COLS], tl.float32)
    for start in range(0, WIDTH, COLS):
        c = (start + tl.arange(0, COLS))[None, :]
        mask = inside[:, None] & (c < WIDTH)
        n, dn, t, scale = _point(at, gamma, beta, inv, a, c, mask, WIDTH, V, TANGENTS)
        d, e = _cotangents(given, c, mask, WIDTH, P, V, TANGENTS, PRECISION)
        w = scale * (1 - t * t) * d
        wn += w * n
        if TANGENTS:
            wd += w * dn
            qn += scale * _q(t, dn, scale, d, e) * n
    mean_wn, mean_wd, mean_qn = _mean(wn, WIDTH), _mean(wd, WIDTH), _mean(qn, WIDTH)
    of_d = _finite(same, inv + tl.abs(mean_wn))
    of_h = _finite(same, inv + tl.abs(mean_wn) + tl.abs(a) + tl.abs(mean_wd) + tl.abs(mean_qn))
    for start in range(0, WIDTH, COLS):
        column = start + tl.arange(0, COLS)
        c = column[None, :]
        mask = inside[:, None] & (c < WIDTH)
        n, dn, t, scale = _point(at, gamma, beta, inv, a, c, mask, WIDTH, V, TANGENTS)
        d, e = _cotangents(given, c, mask, WIDTH, P, V, TANGENTS, PRECISION)
        w = scale * (1 - t * t) * d
        pulled = inv * (w - n * mean_wn)
        _sum_rows(at_d + c, same, of_d, pulled, first[:, None] & (c < WIDTH))
        if V:
            _store(at_d23 + c, pulled, mask)
        if TANGENTS:
            q = _q(t, dn, scale, d, e)
            both = inv * (scale * q - n * mean_qn - a * pulled - mean_wn * dn - mean_wd * n)
            _sum_rows(at_h + c, same, of_h, both, first[:, None] & (c < WIDTH))
            _add(at_d_fixed + c, both, mask)
            if V:
                _store(at_h23 + c, both, mask)
            of_gamma = tl.where(mask, q * n + (1 - t * t) * d * dn, 0.0)
            _add(d_norm + column, tl.sum(of_gamma, 0), column < WIDTH)
            _add(d_norm + WIDTH + column, tl.sum(tl.where(mask, q, 0.0), 0), column < WIDTH)


@triton.jit
def _q(t, dn, gamma, d, e):
    return (1 - t * t) * (e - 2 * t * gamma * dn * d)


@triton.jit
def _tanh(x):
    return 1 - 2 / (1 + tl.exp(2 * x))  # 1 and -1 where exp overflows and underflows


@triton.jit
def _mean(x, WIDTH: tl.constexpr):
    return (tl.sum(x, 1) / WIDTH)[:, None]


@triton.jit
def _load(pointer, mask):
    return tl.load(pointer, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _store(pointer, values, mask):
    tl.store(pointer, values.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def _add(pointer, values, mask):
    tl.store(pointer, tl.load(pointer, mask=mask, other=0.0) + values, mask=mask)


@triton.jit
def _finite(same, size):
    """Whether each row is finite, and whether all rows of its segment are, from its size."""
    finite = size < float("inf")
    infinite = tl.reshape(tl.where(finite, 0.0, 1.0), [1, same.shape[1]])
    return finite, (tl.sum(same * infinite, 1) == 0)[:, None]


@triton.jit
def _sum_rows(pointer, same, finite, values, mask):
    """Stores sums over segments. A row that is not finite makes NaN of its own segment alone.

    ``same`` is exact in TF32 and the values are the sum of two TF32 numbers, to 22 bits.
    """
    of_row, of_segment = finite
    total = tl.dot(same, tl.where(of_row, values, 0.0), input_precision="tf32x3")
    tl.store(pointer, tl.where(of_segment, total, float("nan")), mask=mask)
