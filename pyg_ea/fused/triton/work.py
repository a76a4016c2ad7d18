"""Buffers of a solve, and its weights as kernels and products read them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from pyg_ea.fused.problem import Problem, Settings
from pyg_ea.potentials.closed_form import OUTPUTS

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

    def a_y(self, matrix: Tensor) -> Tensor:
        """``[3H+32, D] -> [P, Dp]``."""
        first, second, output = matrix.split([2 * self.hidden, self.hidden, OUTPUTS])
        parts = [_pad(first, self.wide), _pad(torch.cat([output, second]), self.tail)]
        return F.pad(torch.cat(parts), (0, padded(self.channels) - self.channels))

    def of_a_y(self, matrix: Tensor) -> Tensor:
        """``[P, Dp] -> [3H+32, D]``."""
        first, tail = matrix[: 2 * self.hidden, : self.channels], matrix[self.wide :]
        return torch.cat([first, self._of_tail(tail[:, : self.channels])])

    def b(self, matrix: Tensor) -> Tensor:
        """``[H+32, 2H] -> [P - P1, P1]``."""
        swapped = torch.cat([matrix[self.hidden :], matrix[: self.hidden]])
        return F.pad(_pad(swapped, self.tail), (0, self.wide - 2 * self.hidden))

    def of_b(self, matrix: Tensor) -> Tensor:
        """``[P - P1, P1] -> [H+32, 2H]``."""
        return self._of_tail(matrix[:, : 2 * self.hidden])

    def w3(self, matrix: Tensor) -> Tensor:
        """``[32, H] -> [32, Hp]``."""
        return F.pad(matrix, (0, padded(self.hidden) - self.hidden))

    def of_w3(self, matrix: Tensor) -> Tensor:
        """``[32, Hp] -> [32, H]``."""
        return matrix[:, : self.hidden].contiguous()

    def _of_tail(self, matrix: Tensor) -> Tensor:
        return torch.cat([matrix[OUTPUTS : OUTPUTS + self.hidden], matrix[:OUTPUTS]])


def _pad(matrix: Tensor, rows: int) -> Tensor:
    return F.pad(matrix, (0, 0, 0, rows - len(matrix)))


class Work:
    r"""All that the kernels of a solve read and write.

    Args:
        problem: of the solve.
        settings: its constants.
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

    def __init__(self, problem: Problem, settings: Settings, tangents: bool) -> None:
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
        self.a_y = packing.a_y(weights.a_y.to(fixed.dtype))
        self.b = packing.b(weights.b.to(fixed.dtype))
        self.w3 = packing.w3(weights.w3.to(fixed.dtype))
        self.a_y_t, self.b_t = self.a_y.T, self.b.T
        self.wide, self.width, self.padded = packing.wide, *self.a_y.shape

        self.launchers: dict[tuple[object, ...], Callable[..., None]] = {}

        copies = 2 if tangents else 1
        n, s = copies * self.elements, copies * self.segments
        # what products read of the padding must be 0, and kernels do not write there
        self.ahead = fixed.new_zeros(s, self.padded)
        self.t1, self.d23 = fixed.new_zeros(n, self.wide), fixed.new_zeros(n, packing.tail)
        self.t2 = fixed.new_zeros(n if tangents else 0, len(self.w3[0]))
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
        super().__init__(problem, settings, tangents=False)
        self.stats = self.scale.new_zeros(4, self.segments)
        self.counts = self.index.new_zeros(self.segments)
        self.flags = torch.zeros(2, self.segments, dtype=torch.int8, device=self.index.device)


class Backward(Work):
    """Adds cotangents and gradients.

    Args:
        states: ``[steps, 3, S, Dp]``, y, velocity and gradient of each step.
        cotangents: of y and velocity ``[S, D]``, and of both mean squares ``[S]``.

    Shapes:
        - **to_y**, **to_v:** ``[S, Dp]``, cotangents of y and velocity
        - **d_scalars:** ``[3, S]``; **d_fixed:** ``[N, 3H+32]``
        - **d_norm1:** ``[blocks, 2, 2H]``, scale and offset; **d_norm2:** ``[blocks, 2, H]``
    """

    def __init__(
        self, problem: Problem, settings: Settings, states: Tensor, cotangents: Sequence[Tensor]
    ) -> None:
        super().__init__(problem, settings, tangents=True)
        to_y, to_v, to_last, to_path = cotangents
        self.states = states
        # a copy, since all steps' arguments must have the same alignment
        self.squares = [*[to_path.clone()] * (settings.last - 1), to_path + to_last]
        self.to_y, self.to_v = (
            F.pad(cotangent, (0, self.padded - self.channels)).contiguous()
            for cotangent in (to_y, to_v)
        )
        zeros = self.scale.new_zeros
        self.d_scalars, self.d_fixed = zeros(3, self.segments), zeros(self.fixed.shape)
        self.d_norm1 = zeros(self.blocks, 2, 2 * self.hidden)
        self.d_norm2 = zeros(self.blocks, 2, self.hidden)
