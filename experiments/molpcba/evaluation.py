"""Scores by OGB's ``Evaluator``."""

from __future__ import annotations

from ogb.graphproppred import Evaluator
from torch import Tensor

from experiments.common import UserError
from experiments.molpcba.data import MoleculeData

EVALUATORS = {"ap": "ogbg-molpcba", "rocauc": "ogbg-molhiv", "rmse": "ogbg-molesol"}
"""Metric -> the OGB data set whose evaluator computes it."""


def score(metric: str, labels: Tensor, outputs: Tensor, scale: Tensor | float = 1.0) -> float:
    """The mean score over tasks of ``outputs [G, tasks]``; ``labels`` are NaN where missing.

    ``scale`` is the unit of real values.
    """
    evaluator = Evaluator(EVALUATORS[metric])
    evaluator.num_tasks = labels.shape[1]  # OGB's evaluator counts the tasks of its own set
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
