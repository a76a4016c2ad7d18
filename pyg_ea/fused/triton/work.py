"""Buffers of a solve, and its weights as kernels and products read them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from pyg_ea.fused.problem import Problem, Settings
from pyg_ea.potentials.closed_form import OUTPUTS, Weights

ROWS = 16
"""Elements of a block: the fewest rows of a matrix instruction."""
ALIGNMENT = 64
"""Widths of products are padded to multiples of this, as a GPU's fastest products require."""


def ceil_div(number: int, size: int) -> int:
    """How many blocks of ``size`` hold ``number`` rows."""
    return -(-number // size)  # triton.cdiv takes ten times as long


def power_of_2(number: int) -> int:
    """The least power of 2 that is at least ``number``."""
    return 1 << (number - 1).bit_length()


def padded(width: int) -> int:
    """``width`` rounded up to a multiple of ``ALIGNMENT``."""
    return ceil_div(width, ALIGNMENT) * ALIGNMENT


class Packing:
    """Padded widths, and the weights' rows and columns in them.

    A row of width ``P`` holds 2H values of the first stage, padded to ``P1``, then 32 of the output
    and H of the second stage, padded together to ``P - P1``. Padding is 0.

    Args:
        hidden: H.
        channels: D, padded to ``Dp``.
    """

    def __init__(self, hidden: int, channels: int) -> None:
        self.hidden, self.channels = hidden, channels
        self.wide, self.tail = padded(2 * hidden), padded(hidden + OUTPUTS)
        self.shapes = (
            (self.wide + self.tail, padded(channels)),  # a_y
            (self.tail, self.wide),  # b
            (OUTPUTS, padded(hidden)),  # w3
        )

    def pack(self, weights: Weights, like: Tensor) -> list[Tensor]:
        """``a_y [P, Dp]``, ``b [P - P1, P1]`` and ``w3 [32, Hp]`` in the dtype of ``like``."""
        packed = zeros(like, *self.shapes)
        pairs = zip(
            self._views(packed), self._parts(weights.a_y, weights.b, weights.w3), strict=True
        )
        for view, part in pairs:
            view.copy_(part)
        return packed

    def unpack(self, packed: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """``a_y [3H+32, D]``, ``b [H+32, 2H]`` and ``w3 [32, H]``."""
        first, second, output, *of_b, w3 = self._views(packed)
        return torch.cat([first, second, output]), torch.cat(of_b), w3.contiguous()

    def _views(self, packed: Sequence[Tensor]) -> list[Tensor]:
        """Where the parts of the weights lie."""
        (a_y, b, w3), wide, hidden = packed, 2 * self.hidden, self.hidden
        a_y, b, end = a_y[:, : self.channels], b[:, :wide], OUTPUTS + hidden
        tail = a_y[self.wide :]
        parts = [a_y[:wide], tail[OUTPUTS:end], tail[:OUTPUTS]]
        return [*parts, b[OUTPUTS:end], b[:OUTPUTS], w3[:, :hidden]]

    def _parts(self, a_y: Tensor, b: Tensor, w3: Tensor) -> list[Tensor]:
        hidden = self.hidden
        return [*a_y.split([2 * hidden, hidden, OUTPUTS]), *b.split([hidden, OUTPUTS]), w3]


class Work:
    r"""All that the kernels of a solve read and write.

    Args:
        problem: of the solve.
        settings: its constants.
        packed: the weights, see :meth:`Packing.pack`.
        tangents: whether buffers hold a second block of rows, for backward.

    Shapes, with :math:`k = 2` for tangents, else 1:
        - **ahead:** ``[kS, Dp]``, look-ahead points; **from_y:** ``[kS, P]``, times :math:`A_y`
        - **t1:** ``[kN, P1]``, output of the first stage; **v:** ``[kN, P-P1]``, times :math:`B`
        - **t2:** ``[kN, Hp]``, output of the second stage, saved only for backward
        - **d23:** ``[kN, P-P1]``, cotangents of v; **to_t1:** ``[kN, P1]``, times :math:`B^T`
        - **partial:** ``[k(blocks+S), P]``, sums over the elements of a block and a segment
        - **total:** ``[kS, P]``, sums over segments; **to_ahead:** ``[S, Dp]``, times
          :math:`A_y^T`
    """

    def __init__(
        self, problem: Problem, settings: Settings, packed: list[Tensor], tangents: bool
    ) -> None:
        (start, scalars, fixed, weights), segments = problem.inputs, problem.segments
        assert segments.ptr is not None
        self.segments, self.channels = start.shape
        self.elements, self.hidden = len(fixed), len(weights.gamma2)
        self.blocks = ceil_div(self.elements, ROWS)
        self.tangents = tangents
        self.gtol, self.clip = settings.gtol, settings.clip or 0.0
        self.precision = "tf32" if _uses_tf32() else "ieee"

        self.packing = packing = Packing(self.hidden, self.channels)
        self.fixed, self.scale = fixed.contiguous(), problem.scale.contiguous()
        self.index, self.ptr = segments.index.contiguous(), segments.ptr.contiguous()
        self.scalars = torch.stack(list(scalars))
        self.gamma1, self.beta1 = weights.gamma1.contiguous(), weights.beta1.contiguous()
        self.gamma2, self.beta2 = weights.gamma2.contiguous(), weights.beta2.contiguous()
        self.a_y, self.b, self.w3 = packed
        self.a_y_t, self.b_t = self.a_y.T, self.b.T
        self.wide, self.width, self.padded = packing.wide, *self.a_y.shape

        self.launchers: dict[tuple[object, ...], Callable[..., None]] = {}

        copies = 2 if tangents else 1
        n, s = copies * self.elements, copies * self.segments
        # what products read of the padding must be 0, and kernels do not write there
        self.ahead, self.t1, self.d23, self.t2 = zeros(
            fixed,
            (s, self.padded),
            (n, self.wide),
            (n, packing.tail),
            (n if tangents else 0, self.w3.shape[1]),
        )
        self.from_y, self.total = scratch(fixed, s, self.width), scratch(fixed, s, self.width)
        self.v, self.to_t1 = scratch(fixed, n, packing.tail), scratch(fixed, n, self.wide)
        self.partial = scratch(start, copies * (self.blocks + self.segments), self.width)
        self.to_ahead = scratch(fixed, self.segments, self.padded)
        self.d_fixed = self.d_norm1 = self.d_norm2 = self.partial  # written in backward only


def _uses_tf32() -> bool:
    """Whether products of float32 on a CUDA device run in TF32."""
    settings = torch.backends.cuda.matmul  # the older attribute raises where the newer was set
    if hasattr(settings, "fp32_precision"):
        return settings.fp32_precision == "tf32"
    return settings.allow_tf32  # torch 2.8


def zeros(like: Tensor, *shapes: tuple[int, ...]) -> list[Tensor]:
    """Buffers of 0 in the dtype of ``like``: parts of one, each aligned."""
    numbers = [math.prod(shape) for shape in shapes]
    sizes = [padded(number) for number in numbers]
    parts = like.new_zeros(sum(sizes)).split(sizes)
    return [p[:n].view(s) for p, n, s in zip(parts, numbers, shapes, strict=True)]


def scratch(like: Tensor, *shape: int) -> Tensor:
    """An uninitialised buffer, written before it is read."""
    return like.new_empty(shape)


class Forward(Work):
    """Adds what a step forward writes of the solution.

    Shapes:
        - **stats:** ``[4, S]``, mean square of the gradient, its sum over steps, largest entry of
          the first step and of the last; **counts:** ``[S]``, steps taken
        - **flags:** ``[2, S]``, converged and diverged
    """

    def __init__(self, problem: Problem, settings: Settings) -> None:
        inputs = problem.inputs
        packing = Packing(len(inputs.weights.gamma2), inputs.start.shape[1])
        packed = packing.pack(inputs.weights, inputs.fixed)
        super().__init__(problem, settings, packed, tangents=False)
        self.stats = self.scale.new_zeros(4, self.segments)
        self.counts = self.index.new_zeros(self.segments)
        self.flags = torch.zeros(2, self.segments, dtype=torch.int8, device=self.index.device)


class Backward(Work):
    """Adds cotangents and gradients.

    Args:
        saved: ``[steps, 3, S, Dp]``, y, velocity and gradient of each step, and packed weights.
        cotangents: of y and velocity ``[S, D]``, and of both mean squares ``[S]``.

    Shapes:
        - **to_y**, **to_v:** ``[S, Dp]``, cotangents of y and velocity
        - **d_scalars:** ``[3, S]``; **d_fixed:** ``[N, 3H+32]``
        - **d_norm1:** ``[blocks, 2, 2H]``, scale and offset; **d_norm2:** ``[blocks, 2, H]``
        - **totals:** gradients of the packed weights
    """

    def __init__(
        self,
        problem: Problem,
        settings: Settings,
        saved: Sequence[Tensor],
        cotangents: Sequence[Tensor],
    ) -> None:
        self.states, *packed = saved
        super().__init__(problem, settings, packed, tangents=True)
        to_y, to_v, to_last, to_path = cotangents
        # a copy, since all steps' arguments must have the same alignment
        self.squares = [*[to_path.clone()] * (settings.last - 1), to_path + to_last]
        self.to_y, self.to_v = (
            F.pad(cotangent, (0, self.padded - self.channels)).contiguous()
            for cotangent in (to_y, to_v)
        )
        self.d_scalars, self.d_fixed, self.d_norm1, self.d_norm2, *self.totals = zeros(
            self.scale,
            (3, self.segments),
            tuple(self.fixed.shape),
            (self.blocks, 2, 2 * self.hidden),
            (self.blocks, 2, self.hidden),
            *self.packing.shapes,
        )
