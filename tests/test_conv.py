"""EAConv in GIN form and GCN form: what any module owes, and what a convolution owes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

from pyg_ea import EAAggregation, EAConv, GINForm, MeanPotential, NesterovSolver, NoPrior
from tests.conformance import CHANNELS, Module

NUM_NODES = 7
EDGES = torch.tensor([[0, 1, 2, 3, 4, 4, 0, 2, 1], [1, 0, 1, 1, 3, 0, 3, 0, 5]])  # 2, 4, 6 get none
EDGE_DIM = 3
ROUNDING = 1e-12


def graph(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(NUM_NODES, CHANNELS, dtype=torch.float64, generator=generator)
    edge_attr = torch.randn(EDGES.shape[1], EDGE_DIM, dtype=torch.float64, generator=generator)
    return (0.5 * x).to(dtype), edge_attr.to(dtype)


@pytest.mark.parametrize("edge_dim", [None, EDGE_DIM], ids=["bare", "bond-features"])
@pytest.mark.parametrize("form", ["gin", "gcn"])
class TestEAConv(Module):
    @pytest.fixture(autouse=True)
    def _variant(self, form: str, edge_dim: int | None) -> None:
        self.form, self.edge_dim = form, edge_dim

    def build(self) -> EAConv:
        return EAConv(CHANNELS, 5, self.form, self.edge_dim, hidden_channels=8, steps=6)

    def call(self, module: nn.Module, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        return module(x, edge_index) if self.edge_dim is None else module(x, edge_index, edge_attr)

    def run(self, module: nn.Module, dtype: torch.dtype = torch.float32) -> Tensor:
        x, edge_attr = graph(dtype)
        return self.call(module, x, EDGES, edge_attr)

    def test_order_of_edges_does_not_matter(self, module) -> None:
        module = module.double()
        x, edge_attr = graph(torch.float64)
        order = torch.randperm(EDGES.shape[1], generator=torch.Generator().manual_seed(1))
        out = self.call(module, x, EDGES[:, order], edge_attr[order])
        torch.testing.assert_close(out, self.run(module, torch.float64), rtol=0, atol=ROUNDING)

    def test_order_of_nodes_is_that_of_the_output(self, module) -> None:
        module = module.double()
        x, edge_attr = graph(torch.float64)
        order = torch.randperm(NUM_NODES, generator=torch.Generator().manual_seed(1))
        out = self.call(module, x[order.argsort()], order[EDGES], edge_attr)
        torch.testing.assert_close(
            out[order], self.run(module, torch.float64), rtol=0, atol=ROUNDING
        )

    def test_a_graph_does_not_see_its_batch(self, module) -> None:
        module = module.double()
        x, edge_attr = graph(torch.float64)
        data = Data(x=x, edge_index=EDGES, edge_attr=edge_attr)
        other = Data(x=3 * x, edge_index=EDGES.flip(0), edge_attr=-edge_attr)
        both = Batch.from_data_list([other, data, other])
        out = self.call(module, both.x, both.edge_index, both.edge_attr)
        torch.testing.assert_close(
            out[both.batch == 1], self.run(module, torch.float64), rtol=0, atol=ROUNDING
        )

    def test_nodes_without_neighbours_receive_zero(self, module) -> None:
        out = self.run(module)
        assert out.isfinite().all()
        received = module.aggr_module.solution.y.abs().amax(dim=1)
        assert (received[[2, 4, 6]] == 0).all()
        assert (received[[0, 1, 3, 5]] > 0).all()

    def test_graph_without_edges(self, module) -> None:
        x, edge_attr = graph()
        out = self.call(module, x, EDGES[:, :0], edge_attr[:0])
        assert out.shape == (NUM_NODES, 5)
        assert out.isfinite().all()
        out.sum().backward()

    def test_neighbours_and_their_number_matter(self, module) -> None:
        x, edge_attr = graph()
        out = self.run(module)
        doubled = self.call(module, x, EDGES.repeat(1, 2), edge_attr.repeat(2, 1))
        assert (doubled - out)[[0, 1, 3, 5]].abs().amax(dim=1).min() > 1e-4

    def test_missing_or_unexpected_bond_features_are_an_error(self, module) -> None:
        x, edge_attr = graph()
        with pytest.raises(ValueError, match="edge_dim"):
            module(x, EDGES) if self.edge_dim else module(x, EDGES, edge_attr)

    def test_a_wrong_number_of_channels_is_an_error(self, module) -> None:
        _, edge_attr = graph()
        with pytest.raises(ValueError, match="channels"):
            self.call(module, torch.randn(NUM_NODES, CHANNELS + 1), EDGES, edge_attr)

    def test_an_edge_to_no_node_is_an_error(self, module) -> None:
        x, edge_attr = graph()
        edges = EDGES.clone()
        edges[1, 0] = NUM_NODES
        with pytest.raises((ValueError, IndexError), match=r"edge_index|index"):
            self.call(module, x, edges, edge_attr)

    def test_repr_tells_sizes(self, module) -> None:
        assert repr(module).startswith(f"EAConv({CHANNELS}, 5")


@pytest.fixture(params=["gin", "gcn"])
def with_bonds(request) -> EAConv:
    torch.manual_seed(0)
    return EAConv(CHANNELS, 5, request.param, EDGE_DIM, hidden_channels=8, steps=6)


def test_bond_features_matter_to_their_receiver_only(with_bonds) -> None:
    x, edge_attr = graph()
    changed = edge_attr.clone()
    changed[-1] += 1.0  # the edge into node 5
    difference = with_bonds(x, EDGES, changed) - with_bonds(x, EDGES, edge_attr)
    assert difference[5].abs().max() > 1e-4
    assert difference[[0, 1, 2, 3, 4, 6]].abs().max() == 0


def test_a_wrong_number_of_bond_features_is_an_error(with_bonds) -> None:
    x, edge_attr = graph()
    with pytest.raises(ValueError, match=r"edge_attr|edge_dim"):
        with_bonds(x, EDGES, edge_attr[:, :-1])


def test_gin_form_by_hand() -> None:
    """MLP((1 + eps) x_i + y_i), where one step of the mean's potential from 0 is known."""
    torch.manual_seed(0)
    conv = EAConv(
        2,
        2,
        GINForm(2, 2, nn.Identity()),
        steps=1,
        potential=MeanPotential(),
        prior=NoPrior(),
        solver=NesterovSolver(lr=0.1, gtol=0.0),
    )
    nn.init.constant_(conv.form.eps, 0.5)
    x = torch.tensor([[1.0, -2.0], [3.0, 4.0], [0.5, 1.0]])
    edge_index = torch.tensor([[0, 2], [1, 1]])
    messages = torch.relu(x[[0, 2]])
    received = torch.zeros_like(x)
    scale = torch.log2(torch.tensor(3.0)) / 2
    received[1] = 0.1 * scale * 2 * messages.sum(dim=0)
    torch.testing.assert_close(conv(x, edge_index), 1.5 * x + received)


def test_gcn_form_by_hand() -> None:
    """y_i + relu(W x_i + r) / d_i with messages relu(W x_j) / sqrt(d_i d_j), d = 1 + neighbours."""
    torch.manual_seed(0)
    conv = EAConv(
        2,
        3,
        "gcn",
        steps=1,
        potential=MeanPotential(),
        prior=NoPrior(),
        solver=NesterovSolver(lr=0.1, gtol=0.0),
    )
    x = torch.tensor([[1.0, -2.0], [3.0, 4.0], [0.5, 1.0]])
    edge_index = torch.tensor([[0, 2, 1], [1, 1, 0]])
    d = torch.tensor([2.0, 3.0, 1.0])
    h = conv.form.linear(x)
    weights = (d[edge_index[0]] * d[edge_index[1]]).rsqrt()
    messages = weights[:, None] * torch.relu(h[edge_index[0]])
    received = torch.zeros(3, 3)
    received[0] = 0.1 * 2 * messages[2]
    received[1] = 0.1 * torch.log2(torch.tensor(3.0)) / 2 * 2 * messages[:2].sum(dim=0)
    expected = received + torch.relu(h + conv.form.root) / d[:, None]
    torch.testing.assert_close(conv(x, edge_index), expected)


def test_gin_form_takes_a_bipartite_graph() -> None:
    torch.manual_seed(0)
    conv = EAConv(CHANNELS, 5, steps=3)
    sources, receivers = torch.randn(4, CHANNELS), torch.randn(2, CHANNELS)
    edge_index = torch.tensor([[0, 3, 2], [1, 1, 1]])
    out = conv((sources, receivers), edge_index, size=(4, 2))
    assert out.shape == (2, 5)
    assert conv.aggr_module.solution.y[0].abs().max() == 0


def test_unknown_form_is_an_error() -> None:
    with pytest.raises(ValueError, match="'gat'"):
        EAConv(3, 3, form="gat")


def test_its_aggregation_is_an_ea_aggregation() -> None:
    assert isinstance(EAConv(3, 3).aggr_module, EAAggregation)
