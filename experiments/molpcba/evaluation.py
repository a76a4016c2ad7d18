"""Measures of a run: scores by OGB's ``Evaluator``, means over an epoch, the inner loops of EA."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from ogb.graphproppred import Evaluator
from torch import Tensor, nn

from experiments.common import UserError
from experiments.molpcba.data import MoleculeData
from experiments.molpcba.parallel import gather
from pyg_ea import EAAggregation

EVALUATORS = {"ap": "ogbg-molpcba", "rocauc": "ogbg-molhiv", "rmse": "ogbg-molesol"}
"""Metric -> the OGB data set whose evaluator computes it."""
TITLES = {"ap": "AP", "rocauc": "ROC-AUC", "rmse": "RMSE"}
LOWER_IS_BETTER = ("rmse",)


def score(metric: str, labels: Tensor, outputs: Tensor, scale: Tensor | float = 1.0) -> float:
    """The mean score over tasks of ``outputs [G, tasks]``; ``labels`` are NaN where missing.

    ``scale`` is the unit of real values.
    """
    evaluator = Evaluator(EVALUATORS[metric])
    evaluator.num_tasks = labels.shape[1]  # OGB's evaluator has that of its own set
    pair = {"y_true": labels.double() * scale, "y_pred": outputs.double() * scale}
    return float(evaluator.eval(pair)[metric])


def chance(data: MoleculeData) -> float:
    """The test score of the best constant; a ``UserError`` where a part cannot be scored."""
    for part in data.splits:
        labels = data.labels(part)
        both = (labels == 1).any(dim=0) & (labels == 0).any(dim=0)
        if not (labels.isfinite().any(dim=0).all() if data.metric == "rmse" else both.any()):
            raise UserError(
                f"the {part} part ({len(labels)} molecules) cannot be scored: it needs a task with "
                "a positive and a negative label, or, in a regression, a label in each task; use "
                "more molecules or another --split"
            )
    labels = data.labels("test")
    best = labels.double().nanmean(dim=0).expand_as(labels)
    return score(data.metric, labels, best, data.scale)


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
