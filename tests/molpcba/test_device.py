"""A training step reads nothing from its device: it runs on `meta` tensors, which have no data."""

from __future__ import annotations

import torch

from experiments.molpcba.config import Config, resolve
from experiments.molpcba.training import MoleculeTraining


def test_batch_loss_and_gradient_are_made_without_reading_the_device(tiny_data):
    config = resolve(Config(width=8, layers=2, readout="sum", gradient_clip=0.1), "tiny")
    module, meta = MoleculeTraining(config, tiny_data).to("meta"), torch.device("meta")
    index = tiny_data.splits["train"][:10]
    whole = tiny_data.graphs.batch(index)
    sizes = [(whole.num_nodes, whole.num_edges)]
    batch = next(tiny_data.graphs.to(meta).in_batches([index], sizes))
    for name in ("x", "edge_index", "edge_attr", "y", "batch", "ptr"):
        assert batch[name].shape == whole[name].shape
        assert batch[name].device == meta
    loss = module.training_step(batch, 0)
    loss.backward()
    module.on_before_optimizer_step(module.optimizers)
    assert loss.device == module.measures[0]["gradient_norm"].device == meta
