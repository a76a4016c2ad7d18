"""The inner loops of a network over an epoch: what metrics.csv records of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from experiments.molpcba.parallel import sum_over_processes
from pyg_ea import EAAggregation, L2Prior

MEASURES = ("gradient", "steps", "converged", "diverged")


def ea_layers(network: nn.Module) -> dict[str, EAAggregation]:
    """The EA layers by short name: ``readout``, ``conv0``, ``conv1``, ..."""
    layers = {}
    for path, module in network.named_modules():
        if isinstance(module, EAAggregation):
            part, _, rest = path.partition(".")
            layers[f"conv{rest.split('.')[0]}" if part == "convs" else part] = module
    return layers


class InnerLoopMeter:
    """Sums over an epoch's segments, read from each EA layer's last solution.

    Args:
        network: the network whose EA layers are watched.
    """

    def __init__(self, network: nn.Module) -> None:
        self.layers = ea_layers(network)
        self.sums: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self) -> None:
        """Adds the forward pass just done, without a synchronisation with a GPU."""
        for name, layer in self.layers.items():
            solution, occupied = layer.solution, layer.occupied
            gradient = solution.final_norm.detach()
            columns = [solution.steps, solution.converged, solution.diverged]
            wide = torch.float32 if occupied.device.type == "mps" else torch.float64
            sums = torch.stack(
                [(c.to(wide) * occupied).sum() for c in (occupied, gradient, *columns)]
            )
            self.sums[name] = self.sums[name] + sums if name in self.sums else sums

    @torch.no_grad()
    def compute(self) -> dict[str, float]:
        """One column for each layer and measure, and starts again.

        ``gradient`` is the root mean square of the last inner step's gradient; ``steps`` the mean
        number of steps in which y moved; ``converged`` and ``diverged`` are shares of segments;
        ``step_size``, ``momentum`` and ``regulariser`` are the trained parameters (Figure C.1).
        """
        row: dict[str, float] = {}
        for name, layer in self.layers.items():
            row[f"{name}_step_size"] = float(layer.solver.lr)
            row[f"{name}_momentum"] = float(layer.solver.momentum)
            if isinstance(layer.prior, L2Prior):
                row[f"{name}_regulariser"] = float(layer.prior.weight)
            count, *means = sum_over_processes(self.sums[name]).tolist()
            values = [value / max(count, 1) for value in means]
            values[0] = values[0] ** 0.5
            row |= {f"{name}_{key}": v for key, v in zip(MEASURES, values, strict=True)}
        self.sums = {}
        return row
