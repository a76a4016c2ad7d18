"""Measures of a run: scores, all of them from OGB's ``Evaluator``, and the inner loops of EA."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from experiments.common import UserError
from experiments.molpcba.data.ogb import Evaluator
from experiments.molpcba.parallel import sum_over_processes
from pyg_ea import EAAggregation, L2Prior, Solution

EVALUATORS = {"ap": "ogbg-molpcba", "rocauc": "ogbg-molhiv", "rmse": "ogbg-molesol"}
"""Metric -> the OGB data set whose evaluator computes it."""
TITLES = {"ap": "AP", "rocauc": "ROC-AUC", "rmse": "RMSE"}


class Metric:
    """OGB's average precision, ROC-AUC or root mean squared error, the mean over tasks.

    Args:
        name: ``"ap"``, ``"rocauc"`` or ``"rmse"``.
        num_tasks: number of label columns.
    """

    def __init__(self, name: str, num_tasks: int) -> None:
        self.name, self.title = name, TITLES[name]
        self.evaluator = Evaluator(EVALUATORS[name])
        self.evaluator.num_tasks = num_tasks  # OGB's evaluator has that of its own set

    def __call__(self, labels: Tensor, outputs: Tensor) -> float:
        """The score of ``outputs [G, tasks]``; ``labels`` are NaN where missing."""
        scores = self.evaluator.eval({"y_true": labels, "y_pred": outputs.float()})
        return float(scores[self.name])

    def chance(self, labels: Tensor) -> float:
        """The score of the best constant: for AP, the mean share of positives."""
        if self.name == "rocauc":
            return 0.5
        if self.name == "rmse":
            centred = labels - labels.nanmean(dim=0)
            return float(centred.square().nanmean(dim=0).sqrt().nanmean())
        return float(labels[:, scored_tasks(labels)].nanmean(dim=0).mean())


def is_higher_better(metric: str) -> bool:
    """Whether a larger score of that metric is the better one."""
    return metric != "rmse"


def scored_tasks(labels: Tensor) -> Tensor:
    """Which tasks have both a positive and a negative label: ``[tasks]``, bool."""
    return (labels == 1).any(dim=0) & (labels == 0).any(dim=0)


def check_scorable(labels: Tensor, part: str, metric: str) -> None:
    """Raises ``UserError`` when no task of this part of the data can be scored."""
    if metric == "rmse":
        scorable = bool((~torch.isnan(labels)).any(dim=0).all())
        needed = "a label in each of the tasks"
    else:
        scorable = bool(scored_tasks(labels).any())
        needed = "a task with both a positive and a negative label"
    if not scorable:
        raise UserError(
            f"the {part} part ({len(labels)} molecules) does not have {needed}, so nothing can be "
            "scored: use more molecules or another --split"
        )


MEASURES = ("gradient", "steps", "converged", "diverged")


def ea_layers(network: nn.Module) -> dict[str, EAAggregation]:
    """The EA layers by short name: ``readout``, ``conv0``, ``conv1``, ..."""
    layers = {}
    for path, module in network.named_modules():
        if isinstance(module, EAAggregation):
            part, _, rest = path.partition(".")
            layers[f"conv{rest.split('.')[0]}" if part == "convs" else part] = module
    return layers


def solution_of(layer: EAAggregation) -> Solution:
    """The solution of the layer's last forward pass."""
    assert layer.solution is not None
    return layer.solution


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
            solution = solution_of(layer)
            gradient = solution.gradient_mean_square
            columns = (gradient, solution.steps, solution.converged, solution.diverged)
            occupied = solution.occupied.to(torch.float32 if gradient.is_mps else torch.float64)
            sums = torch.stack(
                [occupied.sum(), *(c.to(occupied.dtype) @ occupied for c in columns)]
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
