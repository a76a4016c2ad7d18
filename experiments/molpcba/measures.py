"""Measures of training: means over an epoch, and the inner loops of EA."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from experiments.molpcba.parallel import gather
from pyg_ea import EAAggregation


def epoch_means(steps: Sequence[dict[str, Tensor]]) -> dict[str, float]:
    """Means over steps and processes, by name, from the sum and the count ``[2]`` of each step."""
    own = torch.stack([torch.stack(list(step.values())) for step in steps])  # [steps, names, 2]
    sums, counts = torch.stack(gather(own.cpu().double().sum(dim=0))).sum(dim=0).T
    return dict(zip(steps[0], (sums / counts.clamp(min=1)).tolist(), strict=True))


def ea_layers(network: nn.Module) -> dict[str, EAAggregation]:
    """The EA layers by short name: ``readout``, ``conv0``, ``conv1``, ..."""
    layers = {}
    for path, module in network.named_modules():
        if isinstance(module, EAAggregation):
            part, number, *_ = path.split(".")
            layers[f"conv{number}" if part == "convs" else part] = module
    return layers


@torch.no_grad()
def inner_loops(layers: dict[str, EAAggregation]) -> dict[str, Tensor]:
    """What the inner loops just did, summed over segments, and the number of segments: ``[2]``.

    ``gradient`` is the mean square of the last inner step's gradient, ``steps`` the number of steps
    in which y moved; ``converged`` and ``diverged`` become shares of segments.
    """
    terms = {}
    for name, layer in layers.items():
        solution = layer.solution
        assert solution is not None
        measures = {"gradient": solution.gradient_mean_square, "steps": solution.steps}
        measures |= {"converged": solution.converged, "diverged": solution.diverged}
        occupied = solution.occupied.float()
        for key, value in measures.items():
            terms[f"{name}_{key}"] = torch.stack([value.float() @ occupied, occupied.sum()])
    return terms
