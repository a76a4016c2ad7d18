"""Scores, all of them from OGB's ``Evaluator``."""

from __future__ import annotations

import torch
from torch import Tensor

from experiments.common import UserError
from experiments.molpcba.data.ogb import Evaluator

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
