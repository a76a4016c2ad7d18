"""Scores, all of them from OGB's ``Evaluator``."""

from __future__ import annotations

from torch import Tensor

from experiments.molpcba.data.ogb_api import Evaluator
from experiments.molpcba.errors import UserError

EVALUATORS = {"ap": "ogbg-molpcba", "rocauc": "ogbg-molhiv"}
"""Metric -> the OGB data set whose evaluator computes it."""

TITLES = {"ap": "AP", "rocauc": "ROC-AUC"}


class Metric:
    """OGB's average precision or ROC-AUC, the mean over tasks with both labels present.

    Args:
        name: ``"ap"`` or ``"rocauc"``.
        num_tasks: number of label columns; OGB's evaluator is told so for sets other than its own.
    """

    def __init__(self, name: str, num_tasks: int) -> None:
        self.name = name
        self.title = TITLES[name]
        self.evaluator = Evaluator(EVALUATORS[name])
        self.evaluator.num_tasks = num_tasks

    def __call__(self, labels: Tensor, logits: Tensor) -> float:
        """The score of ``logits [G, tasks]``; ``labels`` are 0, 1, or NaN where unknown."""
        scores = self.evaluator.eval({"y_true": labels, "y_pred": logits.float()})
        return float(scores[self.name])

    def chance(self, labels: Tensor) -> float:
        """What constant predictions score on average: for AP, the mean share of positives."""
        if self.name == "rocauc":
            return 0.5
        scored = labels[:, scored_tasks(labels)]
        return float(scored.nanmean(dim=0).mean())


def scored_tasks(labels: Tensor) -> Tensor:
    """Which tasks have both a positive and a negative label: ``[tasks]``, bool."""
    return (labels == 1).any(dim=0) & (labels == 0).any(dim=0)


def check_scorable(labels: Tensor, part: str) -> None:
    """Raises ``UserError`` when no task of this part of the data can be scored."""
    if not scored_tasks(labels).any():
        raise UserError(
            f"the {part} part ({len(labels)} molecules) has no task with both a positive and a "
            "negative label, so nothing can be scored: use more molecules or another --split"
        )
