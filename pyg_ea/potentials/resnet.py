"""The potential of the paper (Listing 1)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations

from pyg_ea.potentials.base import AutogradPotential, BoundPotential, Potential, is_unchanged
from pyg_ea.potentials.closed_form import OUTPUTS, Affine, ClosedForm
from pyg_ea.potentials.tanh_norm import EPS, TanhNorm
from pyg_ea.segments import Segments

LINEAR, SKIP, NORM = (nn.Linear,), (nn.Linear, nn.Identity), (nn.LayerNorm,)
KINDS: dict[str, tuple[type[nn.Module], ...]] = {
    **dict.fromkeys(("layer1", "layer2", "layer3"), LINEAR),
    **dict.fromkeys(("skip1", "skip2", "skip3"), SKIP),
    **dict.fromkeys(("norm1", "norm2"), NORM),
}
"""Classes of the modules that the closed form describes."""


class ResNetPotential(Potential):
    r"""The learned potential of "Equilibrium Aggregation" (arXiv 2202.12795, Listing 1).

    A residual network on :math:`z_0 = [x, y]` with widths :math:`2H, H, 32`:

    .. math::
        z_1 &= R_1 z_0 + \tanh(\mathrm{LN}(L_1 z_0)) \\
        z_2 &= R_2 z_1 + \tanh(\mathrm{LN}(L_2 z_1)) \\
        z_3 &= R_3 z_2 + L_3 z_2, \qquad F(x, y) = \frac{1}{32} \sum_{c=1}^{32} z_{3,c}^2

    Every :math:`L` and :math:`R` is affine; :math:`R` is the identity where widths agree
    (:math:`D_x + D_y = 2H` for the first). :math:`F \ge 0`, so the energy is bounded below. Weights
    start as a normal of standard deviation :math:`1/\sqrt{\text{fan-in}}` truncated at two of them,
    biases at zero.

    The gradient in y has a closed form, ``ClosedForm``, which avoids autograd inside the
    solver's loop. It is used while the layers are exactly ``nn.Linear``, ``nn.LayerNorm`` and
    ``nn.Identity``, parametrised or not. If you replace one (adapters, quantised layers) or hook
    into it (pruning, ``weight_norm``), ``forward`` is differentiated by autograd instead,
    which is slower.

    Args:
        in_channels: size :math:`D_x` of an element.
        out_channels: size :math:`D_y` of the output.
        hidden_channels: :math:`H`; the potential has about :math:`2H(D_x + D_y) + 4H^2` weights,
            and :math:`2H(D_x + D_y)` more where the first skip is projected.

    Shapes:
        - **x:** :math:`(N, D_x)`, **y:** :math:`(N, D_y)`
        - **output:** :math:`(N)`
    """

    def __init__(self, in_channels: int, out_channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.hidden_channels = hidden_channels
        widths = [in_channels + out_channels, 2 * hidden_channels, hidden_channels, OUTPUTS]
        self.layer1, self.layer2, self.layer3 = (nn.Linear(n, m) for n, m in pairwise(widths))
        self.skip1, self.skip2, self.skip3 = (
            nn.Identity() if n == m else nn.Linear(n, m) for n, m in pairwise(widths)
        )
        self.norm1 = nn.LayerNorm(2 * hidden_channels)
        self.norm2 = nn.LayerNorm(hidden_channels)
        self._shapes = _shapes([_affine(getattr(self, name)) for name in KINDS])
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Re-initialises all parameters as the paper's framework does."""
        for module in self.children():
            if isinstance(module, nn.Linear):
                std = module.in_features**-0.5
                nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The potential of each element, layer by layer: ``[N, Dx], [N, Dy] -> [N]``."""
        z = torch.cat([x, y], dim=-1)
        z = self.skip1(z) + _tanh_norm(self.layer1(z), self.norm1)
        z = self.skip2(z) + _tanh_norm(self.layer2(z), self.norm2)
        z = self.skip3(z) + self.layer3(z)
        return z.square().mean(dim=-1)

    def bind(self, x: Tensor, segments: Segments) -> BoundPotential:
        """Fixes the elements, with the gradient in closed form where it describes the modules."""
        if type(self).forward is ResNetPotential.forward and is_unchanged(self):
            children = dict(self.named_children())
            modules = [children.get(name) for name in KINDS]
            if all(map(_is_exactly, modules, KINDS.values())):
                maps: list[Any] = [_affine(module) for module in modules]
                if _shapes(maps) == self._shapes:
                    return ClosedForm(x, segments, *maps)
        return AutogradPotential(self, x, segments)

    def extra_repr(self) -> str:
        """Sizes, for ``repr``."""
        return f"{self.in_channels}, {self.out_channels}, hidden_channels={self.hidden_channels}"


def _tanh_norm(u: Tensor, norm: Any) -> Tensor:
    """In plain operations where they are what ``norm`` computes; see :class:`TanhNorm`."""
    if not _is_exactly(norm, (nn.LayerNorm,)) or norm.bias is None:
        return torch.tanh(norm(u))
    return TanhNorm(u, norm.weight, norm.bias).output.to(u.dtype)


def _is_exactly(module: Any, kinds: tuple[type[nn.Module], ...]) -> bool:
    """Whether it computes what one of ``kinds`` does; parametrisations only change weights."""
    kind = type(module)
    if kind not in kinds and (module is None or type_before_parametrizations(module) not in kinds):
        return False
    has_other_eps = isinstance(module, nn.LayerNorm) and module.eps != EPS
    return not has_other_eps and is_unchanged(module)


def _affine(module: Any) -> Affine | None:
    return None if isinstance(module, nn.Identity) else Affine(module.weight, module.bias)


def _shapes(maps: Sequence[Affine | None]) -> list[list[torch.Size | None]]:
    """Shapes of matrices and offsets, None for what is not a plain tensor: no bias, or an instance
    of a subclass of Tensor, such as quantised and sharded ones.
    """
    compiling = torch.compiler.is_compiling()  # tensors are then of other classes
    return [
        [t.shape if compiling or type(t) in (Tensor, nn.Parameter) else None for t in pair or ()]
        for pair in maps
    ]
