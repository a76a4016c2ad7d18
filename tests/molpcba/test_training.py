"""The loss, and that networks can learn a set by heart."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from experiments.molpcba.config import Config
from experiments.molpcba.presets import resolve
from experiments.molpcba.training import MoleculeTraining, masked_errors
from pyg_ea import auxiliary_loss

CONFIG = resolve(
    Config(width=16, layers=2, steps=3, dropout=0.0, aux_weight=0.5, local_aux_weight=0.25), "tiny"
)


def task(data, **settings) -> MoleculeTraining:
    torch.manual_seed(0)
    return MoleculeTraining(replace(CONFIG, **settings), data)


def test_unknown_labels_count_for_nothing():
    logits = torch.tensor([[1.0, -2.0], [0.5, 3.0]], requires_grad=True)
    labels = torch.tensor([[1.0, float("nan")], [0.0, 1.0]])
    errors = masked_errors(logits, labels)
    known = F.binary_cross_entropy_with_logits(
        torch.tensor([1.0, 0.5, 3.0]), torch.tensor([1.0, 0.0, 1.0]), reduction="sum"
    )
    torch.testing.assert_close(errors.sum(), known)
    errors.sum().backward()
    assert logits.grad[0, 1] == 0
    assert (logits.grad != 0).sum() == 3


@pytest.mark.parametrize("local", ["sum", "ea"])
@pytest.mark.parametrize("readout", ["mean", "ea"])
def test_loss_is_the_sum_of_its_terms(readout, local, tiny_data):
    module = task(tiny_data, readout=readout, local=local)
    batch = tiny_data.graphs.batch(torch.arange(20))
    loss = module.training_step(batch, 0)
    logits = module.network(batch)
    expected = masked_errors(logits, batch.y).sum() / (~batch.y.isnan()).sum()
    if readout == "ea":
        expected = expected + 0.5 * auxiliary_loss(module.network.readout)
    if local == "ea":
        expected = expected + 0.25 * auxiliary_loss(module.network.convs)
    torch.testing.assert_close(loss, expected)


def test_a_batch_without_known_labels_has_no_loss(tiny_data):
    module = task(tiny_data, readout="mean")
    batch = tiny_data.graphs.batch(torch.arange(5))
    batch.y = torch.full_like(batch.y, float("nan"))
    loss = module.training_step(batch, 0)
    loss.backward()
    assert loss == 0
    assert all(p.grad is None or (p.grad == 0).all() for p in module.parameters())


@pytest.mark.parametrize(
    ("readout", "local", "model"),
    [("ea", "sum", "gin"), ("mean", "ea", "gcn"), ("sum", "sum", "gcn")],
)
def test_learns_a_tiny_set_by_heart(readout, local, model, tiny_data):
    module = task(tiny_data, readout=readout, local=local, model=model, aux_weight=0.01)
    batch = tiny_data.graphs.batch(torch.arange(0, 90, 3))
    optimiser = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(120):
        optimiser.zero_grad()
        module.training_step(batch, 0).backward()
        optimiser.step()
    logits = module.eval()(batch)
    known = ~batch.y.isnan()
    assert ((logits > 0) == (batch.y > 0.5))[known].all()
