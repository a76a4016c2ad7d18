"""Potentials whose minimiser is a classic pooling operation, known in closed form."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pyg_ea.checks import positive_integer
from pyg_ea.potentials.base import Potential


class MeanPotential(Potential):
    r""":math:`F(x, y) = \|x - y\|^2`: without a prior the minimiser is the mean.

    The energy's curvature is :math:`2 n_s \cdot \mathrm{scale}(n_s)`, for the default scaling
    :math:`2 \log_2(n_s + 1)`.
    """

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """``[N, D], [N, D] -> [N]``."""
        _check_sizes(self, x, y)
        return (x - y).square().sum(dim=-1)


class SumPotential(Potential):
    r""":math:`F(x, y) = -2 w \langle x, y \rangle`: with :math:`R(y) = w \|y\|^2` the minimiser
    is the sum.

    Completing the square, :math:`R + \sum_i F = w \|y - \sum_i x_i\|^2 + \text{const}`. Its
    curvature :math:`2 w \cdot \mathrm{scale}(n_s)` falls with the size of the set unless the
    scale's count is undone, so use it with ``prior=L2Prior(w, trainable=False)`` and
    ``scaling=unit_scaling``.

    Args:
        weight: :math:`w > 0`, the weight of the prior it is used with.
    """

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """``[N, D], [N, D] -> [N]``."""
        _check_sizes(self, x, y)
        return -2 * self.weight * (x * y).sum(dim=-1)


class QuantilePotential(Potential):
    r"""Smoothed pinball loss, channel by channel: the minimiser is the ``quantile``.

    One quantile for all channels, or one for each: on copies of the data several quantiles are read
    off in one pass.

    With :math:`u = x - y` and Huber's :math:`h_\delta(u) = u^2 / 2\delta` for
    :math:`|u| \le \delta`, else :math:`|u| - \delta/2`,

    .. math::
        F(x, y) = \sum_d (q - \tfrac12) u_d + \tfrac12 h_\delta(u_d).

    As :math:`\delta \to 0` this is :math:`\sum_d \max(q u_d, (q - 1) u_d)`, whose minimiser is any
    :math:`q`-quantile. Where :math:`q n_s` is whole there are many, and the loss is flat between
    them: for the median of an even set, take the two quantiles beside it. For :math:`\delta > 0`
    the minimiser lies within :math:`\delta` of one: at distance :math:`\delta` all elements on one
    side already pull at full strength. The curvature is at most
    :math:`n_s \mathrm{scale}(n_s) / 2\delta`: a smaller ``smoothing`` needs a smaller step size.

    Args:
        quantile: :math:`q` in (0, 1), or one for each channel, ``[D]``; 0.5 is the median.
        smoothing: :math:`\delta > 0`, in units of the data.
    """

    quantile: float | Tensor

    def __init__(self, quantile: float | Iterable[float] = 0.5, smoothing: float = 0.01) -> None:
        super().__init__()
        quantiles = [float(q) for q in quantile] if isinstance(quantile, Iterable) else [quantile]
        if not (quantiles and all(0 < q < 1 for q in quantiles)):
            raise ValueError(f"quantile must lie in (0, 1), got {quantile}")
        if not smoothing > 0:
            raise ValueError(f"smoothing must be positive, got {smoothing}")
        self.initial_quantiles, self.smoothing = quantiles, smoothing
        if isinstance(quantile, Iterable):
            self.register_buffer("quantile", torch.tensor(quantiles), persistent=False)
        else:
            self.quantile = quantiles[0]  # not a tensor: exact in whatever dtype the data has

    def reset_parameters(self) -> None:
        """Sets the quantiles, which are in no state dict, once ``to_empty`` has made room."""
        if isinstance(self.quantile, Tensor):
            self.quantile.copy_(torch.tensor(self.initial_quantiles))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """``[N, D], [N, D] -> [N]``."""
        _check_sizes(self, x, y)
        if isinstance(self.quantile, Tensor) and len(self.quantile) != x.shape[-1]:
            raise ValueError(
                f"{type(self).__name__} has {len(self.quantile)} quantiles for {x.shape[-1]} "
                "channels: give one for each, or a single number for all"
            )
        u = x - y
        huber = nn.functional.huber_loss(x, y, reduction="none", delta=self.smoothing)
        return ((self.quantile - 0.5) * u + huber / (2 * self.smoothing)).sum(dim=-1)

    def extra_repr(self) -> str:
        """Settings, for ``repr``."""
        q = self.quantile.tolist() if isinstance(self.quantile, Tensor) else self.quantile
        return f"quantile={q}, smoothing={self.smoothing}"


class MaxPotential(QuantilePotential):
    r"""The maximum, as a quantile high enough that no set is large enough to fall below it.

    With :math:`q = 1 - 1 / (2 n_{\max})` the minimiser lies within ``smoothing`` of the maximum of
    every set of at most ``max_count`` elements. From below the pull is strong; from above, where
    it is the prior that :math:`y` should not exceed the set, only :math:`n_s / 2 n_{\max}` of it.

    Args:
        max_count: :math:`n_{\max}`, the size of the largest set.
        smoothing: largest distance of the minimiser from the maximum, in units of the data.
    """

    def __init__(self, max_count: int, smoothing: float = 0.01) -> None:
        super().__init__(1 - 0.5 / positive_integer("max_count", max_count), smoothing)


class AttentionPotential(Potential):
    r"""Attention with one learned query :math:`h` (appendix B), for :math:`y = [y_r, y_s]`.

    .. math::
        F(x, y) = e^{h^T x} \|x - y_r\|^2 + (y_s - e^{h^T x})^2

    Without a prior the minimiser is :math:`y_r = \sum_i e^{h^T x_i} x_i / \sum_i e^{h^T x_i}`, the
    output of softmax attention, and :math:`y_s = \frac1n \sum_i e^{h^T x_i}`. (The appendix prints
    :math:`y_r = \frac1n \sum_i e^{h^T x_i} x_i` and divides by :math:`y_s` afterwards; that is the
    minimiser of :math:`\|e^{h^T x} x - y_r\|^2 + (y_s - e^{h^T x})^2`, another potential.)

    The curvature grows with :math:`e^{h^T x}`: keep :math:`h^T x` of order one.

    Args:
        in_channels: size :math:`D` of an element; the layer's ``out_channels`` must be ``D + 1``.

    Shapes:
        - **x:** :math:`(N, D)`, **y:** :math:`(N, D + 1)`, **output:** :math:`(N)`
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.in_channels = positive_integer("in_channels", in_channels)
        self.query = nn.Parameter(torch.empty(in_channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        r"""Draws the query from a normal of standard deviation :math:`1/\sqrt{D}`."""
        nn.init.normal_(self.query, std=self.in_channels**-0.5)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """``[N, D], [N, D+1] -> [N]``."""
        _check_sizes(self, x, y, extra=1)
        weight = torch.exp(x @ self.query)  # [N]
        y_r, y_s = y[..., :-1], y[..., -1]
        return weight * (x - y_r).square().sum(dim=-1) + (y_s - weight).square()

    def extra_repr(self) -> str:
        """Sizes, for ``repr``."""
        return f"{self.in_channels}"


def _check_sizes(potential: Potential, x: Tensor, y: Tensor, extra: int = 0) -> None:
    if y.shape[-1] != x.shape[-1] + extra:
        raise ValueError(
            f"{type(potential).__name__} needs out_channels = in_channels"
            + (f" + {extra}" if extra else "")
            + f", got in_channels={x.shape[-1]} and out_channels={y.shape[-1]}"
        )
