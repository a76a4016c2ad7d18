"""Measures of a run: scores by OGB's ``Evaluator``, means over an epoch, the inner loops of EA."""

from __future__ import annotations

from collections import defaultdict

import torch
from ogb.graphproppred import Evaluator
from torch import Tensor, nn

from experiments.common import UserError
from experiments.molpcba.parallel import gather
from pyg_ea import EAAggregation

EVALUATORS = {"ap": "ogbg-molpcba", "rocauc": "ogbg-molhiv", "rmse": "ogbg-molesol"}
"""Metric -> the OGB data set whose evaluator computes it."""
TITLES = {"ap": "AP", "rocauc": "ROC-AUC", "rmse": "RMSE"}


def score(metric: str, labels: Tensor, outputs: Tensor) -> float:
    """The mean score over tasks of ``outputs [G, tasks]``; ``labels`` are NaN where missing."""
    evaluator = Evaluator(EVALUATORS[metric])
    evaluator.num_tasks = labels.shape[1]  # OGB's evaluator has that of its own set
    return float(evaluator.eval({"y_true": labels, "y_pred": outputs.float()})[metric])


def chance(metric: str, part: str, labels: Tensor) -> float:
    """The score of the best constant: for AP, the mean share of positives.

    Raises ``UserError`` where nothing can be scored.
    """
    if metric == "rmse":
        scored = labels.isfinite().any(dim=0)
    else:
        scored = (labels == 1).any(dim=0) & (labels == 0).any(dim=0)
    if not (scored.all() if metric == "rmse" else scored.any()):
        raise UserError(
            f"the {part} part ({len(labels)} molecules) cannot be scored: it needs a task with a "
            "positive and a negative label, or, in a regression, a label in each task; use more "
            "molecules or another --split"
        )
    if metric == "rmse":
        return float((labels - labels.nanmean(dim=0)).square().nanmean(dim=0).sqrt().nanmean())
    return 0.5 if metric == "rocauc" else float(labels[:, scored].nanmean(dim=0).mean())


def is_higher_better(metric: str) -> bool:
    """Whether a larger score of that metric is the better one."""
    return metric != "rmse"


class EpochMeans:
    """Means over an epoch and over all processes, by name; a device is not waited for before."""

    def __init__(self) -> None:
        self.steps: defaultdict[str, list[Tensor]] = defaultdict(list)

    def add(self, terms: dict[str, tuple[Tensor, Tensor]]) -> None:
        """Adds the sums of a step, and how many values each is a sum of."""
        for name, pair in terms.items():
            self.steps[name].append(torch.stack([value.detach().float() for value in pair]))

    def compute(self) -> dict[str, float]:
        """The means; starts again."""
        own = [torch.stack(steps).cpu().double().sum(dim=0) for steps in self.steps.values()]
        sums, counts = torch.stack(gather(torch.stack(own))).sum(dim=0).T
        means = dict(zip(self.steps, (sums / counts.clamp(min=1)).tolist(), strict=True))
        self.steps.clear()
        return means


def ea_layers(network: nn.Module) -> dict[str, EAAggregation]:
    """The EA layers by short name: ``readout``, ``conv0``, ``conv1``, ..."""
    layers = {}
    for path, module in network.named_modules():
        if isinstance(module, EAAggregation):
            part, number, *_ = path.split(".")
            layers[f"conv{number}" if part == "convs" else part] = module
    return layers


@torch.no_grad()
def inner_loops(layers: dict[str, EAAggregation]) -> dict[str, tuple[Tensor, Tensor]]:
    """What the inner loops just did, summed over segments, and the number of segments.

    ``gradient`` is the mean square of the last inner step's gradient, ``steps`` the number of steps
    in which y moved; ``converged`` and ``diverged`` become shares of segments.
    """
    terms: dict[str, tuple[Tensor, Tensor]] = {}
    for name, layer in layers.items():
        solution = layer.solution
        assert solution is not None
        measures = {"gradient": solution.gradient_mean_square, "steps": solution.steps}
        measures |= {"converged": solution.converged, "diverged": solution.diverged}
        occupied = solution.occupied.float()
        for key, value in measures.items():
            terms[f"{name}_{key}"] = value.float() @ occupied, occupied.sum()
    return terms
