"""EAGlobalPool: the checks of an aggregation, and its readings of ``batch`` and ``size``."""

import torch
from torch import nn
from torch_geometric.data import Batch, Data

from pyg_ea import EAGlobalPool
from pyg_ea.testing import check_aggregation


def test_it_passes_the_checks(device) -> None:
    check_aggregation(
        lambda: EAGlobalPool(6, 4, hidden_channels=8, steps=6),
        channels=6,
        call=lambda pool, x, index, num_sets: pool(x, index, num_sets),
    )


def test_repr_tells_sizes() -> None:
    assert repr(EAGlobalPool(6, 4)).startswith("EAGlobalPool(")
    assert "6, 4" in repr(EAGlobalPool(6, 4))


def test_pools_the_nodes_of_each_graph() -> None:
    torch.manual_seed(0)
    graphs = [Data(x=torch.randn(n, 3)) for n in (2, 5, 1)]
    together = Batch.from_data_list(graphs)
    pool = EAGlobalPool(3, 4, steps=5).double()
    out = pool(together.x.double(), together.batch)
    one_by_one = torch.cat([pool(graph.x.double()) for graph in graphs])
    torch.testing.assert_close(out, one_by_one, rtol=0, atol=1e-13)


def test_leading_dimensions_are_further_batches() -> None:
    torch.manual_seed(0)
    pool = EAGlobalPool(3, 4, 8, steps=2).double()
    x, batch = (
        0.5 * torch.randn(2, 5, 7, 3, dtype=torch.float64),
        torch.tensor([0, 2, 2, 0, 2, 3, 3]),
    )
    for graphs in (batch, None):
        expected = torch.stack([torch.stack([pool(x, graphs) for x in row]) for row in x])
        torch.testing.assert_close(pool(x, graphs), expected, rtol=0, atol=1e-13)


def test_a_batch_norm_is_over_graphs_whatever_the_shape() -> None:
    torch.manual_seed(0)
    pool = EAGlobalPool(3, 4, steps=2, norm=nn.BatchNorm1d)
    x, batch = torch.randn(5, 8, 3), torch.arange(4).repeat_interleave(2)  # as many as channels
    rows = pool.aggr(x, batch).reshape(-1, 4)
    expected = nn.BatchNorm1d(4)(rows).reshape(5, 4, 4)
    torch.testing.assert_close(pool(x, batch), expected)


def test_steps_of_training_and_evaluation_are_passed_on() -> None:
    pool = EAGlobalPool(3, 4, steps=2, eval_steps=9)
    assert (pool.aggr.steps, pool.aggr.eval_steps) == (2, 9)
