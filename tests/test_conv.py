"""EAConv in GIN form and GCN form: what any module owes, and what a convolution owes."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch_geometric import EdgeIndex
from torch_geometric.data import Batch, Data
from torch_geometric.nn.aggr import Aggregation, SumAggregation

from pyg_ea import EAAggregation, EAConv, NesterovSolver, NormedMultiAggregation, SumEAAggregation
from pyg_ea.conv import GINForm
from pyg_ea.energy import NoPrior
from pyg_ea.potentials import MeanPotential
from pyg_ea.testing import check_module

CHANNELS = 6
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
class TestEAConv:
    @pytest.fixture(autouse=True)
    def _variant(self, form: str, edge_dim: int | None) -> None:
        self.form, self.edge_dim = form, edge_dim

    @pytest.fixture
    def module(self, _variant, device) -> EAConv:
        torch.manual_seed(0)
        return self.build()

    def test_it_passes_the_checks(self, device) -> None:
        check_module(self.build, self.run)

    def build(self) -> EAConv:
        return EAConv(CHANNELS, 5, self.form, edge_dim=self.edge_dim)

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
        received = module.aggr_module.ea.solution.y.abs().amax(dim=1)
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

    @pytest.mark.cpu
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
    return EAConv(CHANNELS, 5, request.param, edge_dim=EDGE_DIM)


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


def one_step_of_the_mean(channels: int) -> EAAggregation:
    solver = NesterovSolver(lr=0.1, gtol=0.0)
    settings = {"potential": MeanPotential(), "prior": NoPrior(), "solver": solver}
    return EAAggregation(channels, channels, steps=1, **settings)


def test_gin_form_by_hand() -> None:
    """MLP((1 + eps) x_i + y_i), where one step of the mean's potential from 0 is known."""
    torch.manual_seed(0)
    conv = EAConv(2, 2, GINForm(2, 2, nn.Identity()), aggr=one_step_of_the_mean(2))
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
    conv = EAConv(2, 3, "gcn", aggr=one_step_of_the_mean(3))
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


# Forms against OGB's layers ---------------------------------------------------------------------


class BondEncoder(nn.Module):
    """OGB's, without its package: one embedding for each of three categories."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(n, channels) for n in (5, 6, 2))

    def forward(self, edge_attr: Tensor) -> Tensor:
        return sum(emb(edge_attr[:, i]) for i, emb in enumerate(self.embeddings))


BONDS = torch.stack([torch.arange(EDGES.shape[1]) % n for n in (5, 6, 2)], dim=1)


def ogb_gin(conv: EAConv, x: Tensor, edge_index: Tensor, bonds: Tensor) -> Tensor:
    source, target = edge_index
    messages = torch.relu(x[source] + conv.edge_encoder(bonds))
    total = torch.zeros_like(x).index_add(0, target, messages)
    return conv.form.mlp((1 + conv.form.eps) * x + total)


def ogb_gcn(conv: EAConv, x: Tensor, edge_index: Tensor, bonds: Tensor) -> Tensor:
    source, target = edge_index
    h = conv.form.linear(x)
    d = target.bincount(minlength=len(x)) + 1
    norm = (d[source] * d[target]).rsqrt()[:, None]
    messages = norm * torch.relu(h[source] + conv.edge_encoder(bonds))
    total = torch.zeros_like(h).index_add(0, target, messages)
    return total + torch.relu(h + conv.form.root) / d[:, None]


@pytest.mark.parametrize("aggr", ["sum", SumAggregation()], ids=["name", "module"])
@pytest.mark.parametrize(("form", "expected"), [("gin", ogb_gin), ("gcn", ogb_gcn)])
def test_with_a_sum_it_is_ogb_s_layer(form, expected, aggr) -> None:
    torch.manual_seed(0)
    width = CHANNELS
    mlp = nn.Sequential(
        nn.Linear(width, 2 * width),
        nn.BatchNorm1d(2 * width),
        nn.ReLU(),
        nn.Linear(2 * width, width),
    )
    around = GINForm(width, width, mlp) if form == "gin" else "gcn"
    conv = EAConv(width, width, around, edge_encoder=BondEncoder(width), aggr=aggr).double()
    if form == "gin":
        nn.init.constant_(conv.form.eps, 0.3)
    x, _ = graph(torch.float64)
    torch.testing.assert_close(conv(x, EDGES, BONDS), expected(conv, x, EDGES, BONDS))
    conv.reset_parameters()
    assert form == "gcn" or conv.form.eps == 0


def test_an_empty_mlp_is_not_replaced() -> None:
    form = GINForm(3, 3, nn.Sequential())
    assert len(form.mlp) == 0


@pytest.mark.parametrize("shape", [(0, 3), (0,)])
def test_graph_without_edges_and_an_encoder_that_refuses_empty_input(shape) -> None:
    class Strict(BondEncoder):
        def forward(self, edge_attr: Tensor) -> Tensor:
            assert len(edge_attr)
            return super().forward(edge_attr)

    x, _ = graph()
    conv = EAConv(CHANNELS, 5, edge_encoder=Strict(CHANNELS))
    out = conv(x, EDGES[:, :0], torch.zeros(shape, dtype=torch.long))
    torch.testing.assert_close(out, conv.form.mlp(x))


# The aggregation -------------------------------------------------------------------------------


def test_its_aggregation_is_sum_and_ea_of_a_message_s_size() -> None:
    for form, channels in (("gin", 64), ("gcn", 96)):
        aggregation = EAConv(64, 96, form).aggr_module
        assert isinstance(aggregation, SumEAAggregation)
        ea = aggregation.ea
        sizes = ea.in_channels, ea.out_channels, ea.potential.hidden_channels, ea.steps
        assert sizes == (channels, channels, channels // 4, 5)


@pytest.mark.parametrize(
    "aggr",
    ["mean", ["mean", "mean"], EAAggregation(CHANNELS, 4, steps=2)],
    ids=["name", "wider", "narrower"],
)
def test_the_aggregation_returns_vectors_of_a_message_s_size(aggr) -> None:
    x, _ = graph()
    conv = EAConv(CHANNELS, 5, aggr=aggr)
    if aggr == "mean":
        assert conv(x, EDGES).shape == (NUM_NODES, 5)
        return
    got = 4 if isinstance(aggr, EAAggregation) else 2 * CHANNELS
    with pytest.raises(ValueError, match=rf"\[7, {got}\], but GINForm needs \[7, {CHANNELS}\]"):
        conv(x, EDGES)


# Edge features ---------------------------------------------------------------------------------


def test_edge_dim_and_edge_encoder_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="edge_dim is short for edge_encoder"):
        EAConv(3, 3, edge_dim=2, edge_encoder=nn.Linear(2, 3))


BAD_FEATURES = {  # name: (layer's settings, edge_attr, error, message)
    "missing": ({"edge_dim": 3}, None, ValueError, "edge_attr is missing"),
    "not expected": ({}, torch.ones(9, 3), ValueError, r"shape \[9, 3\], but the layer has"),
    "too few": ({"edge_dim": 3}, torch.ones(8, 3), ValueError, r"9 edges, got shape \[8, 3\]"),
    "vector": ({"edge_dim": 1}, torch.ones(9), ValueError, r"\[E, edge_dim=1\], got \[9\]"),
    "integers": ({"edge_dim": 3}, BONDS, TypeError, r"torch.int64; call edge_attr.float\(\)"),
    "narrow encoder": (
        {"edge_encoder": nn.Linear(3, 1)},
        torch.ones(9, 3),
        ValueError,
        r"edge_encoder returned shape \[9, 1\], expected \[9, 6\]",
    ),
}


@pytest.mark.parametrize(
    ("settings", "edge_attr", "error", "message"), BAD_FEATURES.values(), ids=BAD_FEATURES
)
def test_edge_features_that_do_not_fit(settings, edge_attr, error, message) -> None:
    x, _ = graph()
    with pytest.raises(error, match=message):
        EAConv(CHANNELS, 5, **settings)(x, EDGES, edge_attr)


# Bipartite graphs ------------------------------------------------------------------------------

BIPARTITE = torch.tensor([[0, 3, 2, 3], [1, 1, 1, 0]])  # from 4 sources into 3 receivers


def pair(sources: int = 4, receivers: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return tuple(torch.randn(n, CHANNELS, generator=generator) for n in (sources, receivers))


def test_gin_form_takes_a_bipartite_graph() -> None:
    torch.manual_seed(0)
    conv = EAConv(CHANNELS, 5)
    out = conv(pair(), BIPARTITE, size=(4, 3))
    assert out.shape == (3, 5)
    assert conv.aggr_module.ea.solution.y[2].abs().max() == 0
    assert torch.equal(conv(pair(), BIPARTITE), out)


@pytest.mark.parametrize(("sources", "receivers"), [(4, 3), (4, 9), (4, 2)])
def test_gcn_form_counts_degrees_on_their_own_side(sources, receivers) -> None:
    torch.manual_seed(0)
    conv = EAConv(CHANNELS, 5, "gcn", aggr="sum")
    left, right = pair(sources, receivers)
    source, target = BIPARTITE
    d_source = source.bincount(minlength=sources) + 1
    d_target = target.bincount(minlength=receivers) + 1
    h, h_right = conv.form.linear(left), conv.form.linear(right)
    messages = (d_source[source] * d_target[target]).rsqrt()[:, None] * torch.relu(h[source])
    expected = torch.zeros(receivers, 5).index_add(0, target, messages)
    expected += torch.relu(h_right + conv.form.root) / d_target[:, None]
    torch.testing.assert_close(conv((left, right), BIPARTITE), expected)
    if receivers == 3:
        without_root = expected - torch.relu(h_right + conv.form.root) / d_target[:, None]
        torch.testing.assert_close(conv((left, None), BIPARTITE, size=(4, 3)), without_root)


def test_receivers_without_features() -> None:
    """As in PyG's GINConv: no root term, and as many receivers as ``size`` says."""
    torch.manual_seed(0)
    conv = EAConv(CHANNELS, 5)
    left, _ = pair()
    out = conv((left, None), BIPARTITE, size=(4, 3))
    received = conv.aggr_module(torch.relu(left)[BIPARTITE[0]], BIPARTITE[1], dim_size=3)
    assert torch.equal(out, conv.form.mlp(received))
    assert conv((left, None), BIPARTITE).shape == (4, 5)  # without a size: as many as sources
    assert torch.equal(conv((left, None), EdgeIndex(BIPARTITE, sparse_size=(4, 3))), out)
    adj_t = torch.sparse_coo_tensor(BIPARTITE.flip(0), torch.ones(4), (3, 4), check_invariants=True)
    torch.testing.assert_close(conv((left, None), adj_t.coalesce()), out)


@pytest.mark.parametrize("form", ["gin", "gcn"])
@pytest.mark.parametrize(
    ("x", "size", "message"),
    [
        (pair(3, 3), None, "source numbers from 0 to 3, but there are 3|receiver numbers .* 3"),
        (pair(4, 1), None, "receiver numbers from 0 to 1, but there are 1 such nodes"),
        (pair(), (4, 2), "says 2 receivers, but x has 3"),
        (pair(), (5, 3), "says 5 sources, but x has 4"),
        ((None, pair()[1]), None, "got NoneType"),
    ],
)
def test_pairs_that_do_not_fit(form, x, size, message) -> None:
    conv = EAConv(CHANNELS, 5, form)
    with pytest.raises((ValueError, TypeError), match=message):
        conv(x, BIPARTITE, size=size)


# Formats of edges ------------------------------------------------------------------------------


class SparseTensorOfAnotherPackage:
    """The part of ``torch_sparse.SparseTensor`` that convolutions read."""

    def __init__(self, edges: Tensor, values: Tensor | None = None) -> None:
        self.edges, self.values = edges, values

    def coo(self) -> tuple[Tensor, Tensor, Tensor | None]:
        return self.edges[1], self.edges[0], self.values

    def size(self, dim: int) -> int:
        return NUM_NODES


def sorted_by_receiver(edges: Tensor) -> Tensor:
    return edges[:, edges[1].argsort(stable=True)]


def adjacency(
    edges: Tensor, values: Tensor | None = None, layout: torch.layout = torch.sparse_coo
) -> Tensor:
    """The transposed adjacency matrix, as PyG's ``adj_t``."""
    values = torch.ones(edges.shape[1]) if values is None else values
    size = (NUM_NODES, NUM_NODES, *values.shape[1:])
    coo = torch.sparse_coo_tensor(edges.flip(0), values, size, check_invariants=True).coalesce()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is in beta state")
        return coo if layout == torch.sparse_coo else coo.to_sparse(layout=layout)


SYMMETRIC = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
FORMATS = {
    "int32": EDGES.int(),
    "uint8": EDGES.byte(),
    "not contiguous": EDGES.T.contiguous().T,
    "EdgeIndex": EdgeIndex(EDGES),
    "EdgeIndex with size": EdgeIndex(EDGES, sparse_size=(NUM_NODES, NUM_NODES)),
    "EdgeIndex int32": EdgeIndex(EDGES.int()),
    "EdgeIndex by row": EdgeIndex(EDGES[:, EDGES[0].argsort(stable=True)], sort_order="row"),
    "EdgeIndex by col": EdgeIndex(sorted_by_receiver(EDGES), sort_order="col"),
    "EdgeIndex with inferred size": EdgeIndex(
        sorted_by_receiver(EDGES), sort_order="col"
    ).fill_cache_(),
    "COO": adjacency(EDGES),
    "CSR": adjacency(EDGES, layout=torch.sparse_csr),
    "CSC": adjacency(EDGES, layout=torch.sparse_csc),
    "SparseTensor": SparseTensorOfAnotherPackage(EDGES),
}


@pytest.mark.parametrize("edges", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("form", ["gin", "gcn"])
def test_formats_of_edges(form, edges) -> None:
    torch.manual_seed(0)
    conv = EAConv(CHANNELS, 5, form).double()
    x, _ = graph(torch.float64)
    x.requires_grad_()
    out, expected = conv(x, edges), conv(x, EDGES)
    torch.testing.assert_close(out, expected, rtol=0, atol=ROUNDING)
    assert type(out) is Tensor
    gradients = [torch.autograd.grad(y.square().sum(), x)[0] for y in (out, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("sort_order", [None, "row", "col"])
def test_an_undirected_edge_index(sort_order) -> None:
    torch.manual_seed(0)
    edges = SYMMETRIC
    if sort_order == "col":
        edges = sorted_by_receiver(edges)
    wrapped = EdgeIndex(edges, is_undirected=True, sort_order=sort_order)
    x, _ = graph(torch.float64)
    for form in ("gin", "gcn"):
        conv = EAConv(CHANNELS, 5, form).double()
        torch.testing.assert_close(conv(x, wrapped), conv(x, SYMMETRIC), rtol=0, atol=ROUNDING)


def test_edge_features_are_the_values_of_a_sparse_matrix() -> None:
    torch.manual_seed(0)
    conv = EAConv(CHANNELS, 5, edge_dim=EDGE_DIM).double()
    x, edge_attr = graph(torch.float64)
    expected = conv(x, EDGES, edge_attr)
    for adj_t in (
        adjacency(EDGES, edge_attr),
        SparseTensorOfAnotherPackage(EDGES, edge_attr),
    ):
        torch.testing.assert_close(conv(x, adj_t), expected, rtol=0, atol=ROUNDING)
    with pytest.raises(ValueError, match="edge_attr is missing"):
        conv(x, adjacency(EDGES))


BAD_EDGES = {  # name: (edge_index, error, message)
    "numpy": (EDGES.numpy(), TypeError, r"got ndarray; use torch.as_tensor\(edge_index\)"),
    "list": (EDGES.tolist(), TypeError, "got list"),
    "none": (None, TypeError, "got NoneType"),
    "E x 2": (EDGES.T, ValueError, r"\[2, E\], got \[9, 2\]; call edge_index.t\(\)"),
    "vector": (EDGES[0], ValueError, r"\[2, E\], got \[9\]"),
    "three rows": (EDGES[[0, 1, 0]], ValueError, r"\[2, E\], got \[3, 9\]"),
    "floats": (EDGES.float(), TypeError, r"got torch.float32; call edge_index.long\(\)"),
    "booleans": (EDGES.bool(), TypeError, "got torch.bool"),
    "negative": (EDGES - 1, ValueError, "numbers from -1 to 4, but there are 7 such nodes"),
    "too large": (EDGES + 2, ValueError, "numbers from 2 to 7, but there are 7 such nodes"),
    "adj_t of another size": (
        torch.sparse_coo_tensor(EDGES.flip(0), torch.ones(9), (7, 8), check_invariants=True),
        ValueError,
        "says 8 sources, but x has 7",
    ),
    "EdgeIndex of another size": (
        EdgeIndex(EDGES, sparse_size=(9, 9)),
        ValueError,
        "says 9 sources, but x has 7",
    ),
    "weights": (
        adjacency(EDGES, torch.linspace(0.5, 2, 9)),
        ValueError,
        "values of adj_t must be 1, since edges have no weights",
    ),
}


@pytest.mark.parametrize(("edges", "error", "message"), BAD_EDGES.values(), ids=BAD_EDGES)
@pytest.mark.parametrize("form", ["gin", "gcn"])
def test_edges_that_are_refused(form, edges, error, message) -> None:
    x, _ = graph()
    with pytest.raises(error, match=message) as caught:
        EAConv(CHANNELS, 5, form)(x, edges)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (graph()[0].numpy(), TypeError, "got ndarray"),
        (graph()[0].long(), TypeError, "floating-point tensor, got torch.int64"),
        (graph()[0][None], ValueError, r"in_channels=6\], got \[1, 7, 6\]"),
    ],
)
def test_nodes_that_are_refused(x, error, message) -> None:
    with pytest.raises(error, match=message):
        EAConv(CHANNELS, 5)(x, EDGES)


# Checks that read values -----------------------------------------------------------------------


class CountedReads(TorchDispatchMode):
    """Counts the operations that read a value into Python."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("validate", "reads"), [(None, 2), (True, 2), (False, 0)])
@pytest.mark.parametrize("form", ["gin", "gcn"])
def test_node_numbers_are_read_where_they_are_validated(form, validate, reads) -> None:
    x, _ = graph()
    conv = EAConv(CHANNELS, 5, form, aggr=Identity(), validate=validate)
    with CountedReads() as counted:
        conv(x, EDGES)
    assert counted.count == reads


class Identity(Aggregation):
    """An aggregation that reads no value."""

    def __call__(self, x, index=None, ptr=None, dim_size=None, dim=-2):
        return x.new_zeros(dim_size, x.shape[1])


def test_fake_and_meta_tensors_are_not_read() -> None:
    conv = EAConv(CHANNELS, 5, aggr=Identity())
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert conv(torch.ones(7, CHANNELS), torch.zeros(2, 3).long()).shape == (7, 5)
    meta = conv.to("meta")
    assert meta(graph()[0].to("meta"), EDGES.to("meta")).shape == (7, 5)


def test_validate_reaches_the_aggregation() -> None:
    assert EAConv(3, 3, validate=False).aggr_module.ea.validate is False
    assert EAConv(3, 3).aggr_module.ea.validate is None
    for given, expected in ((None, False), (True, True)):
        own = EAAggregation(3, 3, validate=given)
        assert EAConv(3, 3, aggr=own, validate=False).aggr_module.validate is expected
        beside = [EAAggregation(3, 3, validate=given), "sum"]
        multi = NormedMultiAggregation(beside, 3, validate=False)
        assert multi.aggrs[0].validate is expected


def test_unknown_form_is_an_error() -> None:
    with pytest.raises(ValueError, match="'gat'"):
        EAConv(3, 3, form="gat")
