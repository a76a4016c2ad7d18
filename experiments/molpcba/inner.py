"""What the inner loops of a network did over an epoch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from experiments.molpcba.distributed import sum_over_processes
from pyg_ea import EAAggregation, L2Prior

MEASURES = ("gradient", "steps", "converged", "diverged")
PARAMETERS = ("step_size", "momentum", "regulariser")


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

    def update(self) -> None:
        """Takes in the forward pass just done. No waiting for a GPU."""
        for name, layer in self.layers.items():
            sums = _sums(layer)
            self.sums[name] = self.sums[name] + sums if name in self.sums else sums

    def compute(self) -> dict[str, float]:
        """One column for each layer and measure, and starts again.

        ``gradient`` is the root mean square of the last inner step's gradient; ``steps`` the mean
        number of steps in which y moved; ``converged`` and ``diverged`` are shares of segments.
        """
        row: dict[str, float] = {}
        for name, layer in self.layers.items():
            row |= {f"{name}_{key}": value for key, value in inner_parameters(layer).items()}
            count, *means = sum_over_processes(self.sums[name]).tolist()
            values = [value / max(count, 1) for value in means]
            values[0] = values[0] ** 0.5
            row |= {f"{name}_{key}": v for key, v in zip(MEASURES, values, strict=True)}
        self.sums = {}
        return row


@torch.no_grad()
def _sums(layer: EAAggregation) -> Tensor:
    solution, occupied = layer.solution, layer.solution.occupied
    columns = [
        torch.ones_like(solution.gradient_mean_square),
        solution.gradient_mean_square.detach(),
        solution.steps,
        solution.converged,
        solution.diverged,
    ]
    wide = torch.float32 if occupied.device.type == "mps" else torch.float64
    return torch.stack([(column.to(wide) * occupied).sum() for column in columns])


@torch.no_grad()
def inner_parameters(layer: EAAggregation) -> dict[str, float]:
    """Effective step size, momentum and regulariser weight (Figure C.1)."""
    values = {
        "step_size": float(layer.solver.lr),
        "momentum": float(layer.solver.momentum),
    }
    if isinstance(layer.prior, L2Prior):
        values["regulariser"] = float(layer.prior.weight)
    return values
