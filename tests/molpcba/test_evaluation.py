"""Scores are OGB's, whatever the number of tasks."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from experiments.molpcba.errors import UserError
from experiments.molpcba.evaluation import Metric, check_scorable

NAN = float("nan")


@pytest.mark.parametrize(
    ("name", "score"), [("ap", average_precision_score), ("rocauc", roc_auc_score)]
)
def test_mean_over_scorable_tasks_of_known_labels(name, score):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (40, 4), generator=generator).float()
    logits = torch.randn(40, 4, generator=generator)
    labels[::3, 0] = NAN
    labels[:, 2] = 0.0  # no positives: left out of the mean
    expected = []
    for task in (0, 1, 3):
        known = ~labels[:, task].isnan()
        expected.append(score(labels[known, task], logits[known, task]))
    assert Metric(name, 4)(labels, logits) == pytest.approx(sum(expected) / 3, abs=1e-12)


def test_chance_is_the_share_of_positives_among_known_labels():
    labels = torch.tensor([[1.0, 0.0], [0.0, 0.0], [NAN, 0.0], [0.0, 0.0]])
    assert Metric("ap", 2).chance(labels) == pytest.approx(1 / 3)
    assert Metric("rocauc", 2).chance(labels) == 0.5


def test_a_part_without_both_labels_is_refused():
    with pytest.raises(UserError, match=r"valid part \(2 molecules\)"):
        check_scorable(torch.tensor([[1.0, 0.0], [NAN, 0.0]]), "valid")
    check_scorable(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), "valid")


def test_bfloat16_logits_are_scored():
    labels = torch.tensor([[1.0], [0.0]])
    assert Metric("ap", 1)(labels, torch.tensor([[2.0], [1.0]], dtype=torch.bfloat16)) == 1.0
