"""Situations that users of such layers meet, each with its right outcome.

Bipartite graphs, sparse matrices and other formats of edges are in ``test_conv``, weight decay in
``test_optim``.
"""

from __future__ import annotations

import copy
import gc
import inspect
import io
import pickle
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, jvp, vjp, vmap
from torch.utils.checkpoint import checkpoint
from torch_geometric import EdgeIndex, Index
from torch_geometric.nn import GINConv, GINEConv, MultiAggregation, SAGEConv, aggr

from pyg_ea import (
    Checkpointed,
    EAAggregation,
    EAConv,
    EAGlobalPool,
    Implicit,
    NormedMultiAggregation,
    Truncated,
    auxiliary_loss,
    collect_solutions,
    solve_backend,
)

CHANNELS, OUT, NODES = 6, 4, 7
BATCH = torch.tensor([2, 0, 0, 3, 2, 0, 3])  # unsorted, graph 1 is empty
EDGES = torch.tensor([[0, 1, 2, 3, 4, 4, 0, 2, 1], [1, 0, 1, 1, 3, 0, 3, 0, 5]])
BACKENDS = ("native", "torch", "plain")
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def nodes(dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 0.5 * torch.randn(NODES, CHANNELS, dtype=dtype, generator=generator)


def aggregation(channels: int = OUT, **settings: object) -> EAAggregation:
    torch.manual_seed(0)
    return EAAggregation(CHANNELS, channels, 8, 4, **settings).double()


def sum_of_squares(y: Tensor) -> Tensor:
    return y.square().sum()


# Index and EdgeIndex ---------------------------------------------------------------------------

SET_MODULES: dict[str, Callable[[], nn.Module]] = {
    "EAAggregation": aggregation,
    "EAGlobalPool": lambda: EAGlobalPool(CHANNELS, OUT, steps=4),
    "NormedMultiAggregation": lambda: NormedMultiAggregation(
        [aggregation(), "mean"], [OUT, CHANNELS]
    ),
    "MultiAggregation": lambda: MultiAggregation([aggregation(), "mean"]),
    "eval mode": lambda: aggregation().eval(),
    "checkpointed": lambda: aggregation(adjoint=Checkpointed()),
    "truncated": lambda: aggregation(adjoint=Truncated(2)),
}
INDICES = {
    "unsorted": Index(BATCH),
    "with size": Index(BATCH, dim_size=4),
    "sorted": Index(BATCH.sort().values, is_sorted=True),
    "sorted with size": Index(BATCH.sort().values, dim_size=4, is_sorted=True),
    "row of an EdgeIndex": EdgeIndex(torch.stack([BATCH, BATCH]))[1],
    "strided view": torch.stack([BATCH, BATCH], dim=1)[:, 0],
    "expanded": torch.tensor([3]).expand(NODES),
}


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
@pytest.mark.parametrize("build", SET_MODULES.values(), ids=SET_MODULES)
def test_kinds_of_index(build, index) -> None:
    module = build().double()
    plain = index.as_tensor() if isinstance(index, Index) else index.clone()
    results = []
    for given in (index, plain):
        x = nodes().requires_grad_()
        out = module(x, given)
        gradients = torch.autograd.grad(sum_of_squares(out), [x, *module.parameters()])
        results.append((out, *gradients))
    assert type(results[0][0]) is Tensor
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, **CLOSE)


@pytest.mark.parametrize("backend", BACKENDS)
def test_kinds_of_index_in_every_implementation(backend) -> None:
    layer = aggregation()
    expected = layer(nodes(), BATCH)
    with solve_backend(backend):
        torch.testing.assert_close(layer(nodes(), Index(BATCH)), expected, **CLOSE)


def test_diagnose_takes_an_index() -> None:
    layer = aggregation()
    expected = layer.diagnose(nodes(), BATCH)
    got = layer.diagnose(nodes(), Index(BATCH))
    torch.testing.assert_close(got.energy_after, expected.energy_after)
    assert str(got) == str(expected)


CONVOLUTIONS: dict[str, Callable[[], nn.Module]] = {
    "GINConv": lambda: GINConv(nn.Linear(CHANNELS, OUT), aggr=aggregation(CHANNELS)),
    "SAGEConv": lambda: SAGEConv(CHANNELS, OUT, aggr=aggregation(CHANNELS)),
    "SAGEConv, two": lambda: SAGEConv(CHANNELS, OUT, aggr=["mean", aggregation(CHANNELS)]),
    "EAConv gin": lambda: EAConv(CHANNELS, OUT),
    "EAConv gcn": lambda: EAConv(CHANNELS, OUT, "gcn"),
    "EAConv in GINConv's place": lambda: EAConv(CHANNELS, OUT, aggr=aggregation(CHANNELS)),
}
BY_ROW, BY_COLUMN = (EDGES[:, EDGES[i].argsort(stable=True)] for i in (0, 1))
SQUARE = (NODES, NODES)
EDGE_INDICES = {
    "unsorted": EdgeIndex(EDGES),
    "with size": EdgeIndex(EDGES, sparse_size=SQUARE),
    "by row": EdgeIndex(BY_ROW, sort_order="row", sparse_size=SQUARE),
    "by column": EdgeIndex(BY_COLUMN, sort_order="col", sparse_size=SQUARE),
    "by column, cached": EdgeIndex(BY_COLUMN, sort_order="col", sparse_size=SQUARE).fill_cache_(),
}


@pytest.mark.parametrize("edges", EDGE_INDICES.values(), ids=EDGE_INDICES)
@pytest.mark.parametrize("build", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_kinds_of_edge_index(build, edges) -> None:
    conv = build().double()
    results = []
    for given in (edges, EDGES):
        x = nodes().requires_grad_()
        out = conv(x, given)
        results.append((out, *torch.autograd.grad(sum_of_squares(out), [x, *conv.parameters()])))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, **CLOSE)


def test_edge_index_with_edge_features() -> None:
    torch.manual_seed(0)
    edge_attr = torch.randn(EDGES.shape[1], 3, dtype=torch.float64)
    for conv in (
        GINEConv(nn.Linear(CHANNELS, OUT), edge_dim=3, aggr=aggregation(CHANNELS)).double(),
        EAConv(CHANNELS, OUT, edge_dim=3).double(),
    ):
        expected = conv(nodes(), EDGES, edge_attr)
        torch.testing.assert_close(conv(nodes(), EdgeIndex(EDGES), edge_attr), expected, **CLOSE)


# Kinds of elements -----------------------------------------------------------------------------


class Tagged(Tensor):
    """A subclass of Tensor that shares its memory."""


ELEMENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "parameter": nn.Parameter,
    "subclass": lambda x: x.as_subclass(Tagged),
    "column-major": lambda x: x.T.contiguous().T,
    "strided": lambda x: x.repeat_interleave(2, dim=1)[:, ::2],
    "view with offset": lambda x: torch.cat([x[:1], x])[1:],
    "conjugate view": lambda x: torch.complex(x, x).conj().real,
    "negated view": lambda x: torch.complex(x, -x).conj().imag,
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ELEMENTS.values(), ids=ELEMENTS)
def test_kinds_of_elements(kind, backend) -> None:
    layer = aggregation()
    expected = layer(nodes(), BATCH)
    with solve_backend(backend):
        torch.testing.assert_close(
            layer(kind(nodes()), BATCH).as_subclass(Tensor), expected, **CLOSE
        )


def test_one_row_for_all_elements() -> None:
    layer = aggregation()
    row = nodes()[:1]
    expected = layer(row.repeat(NODES, 1), BATCH)
    torch.testing.assert_close(layer(row.expand(NODES, -1), BATCH), expected, **CLOSE)


@pytest.mark.parametrize(
    "x",
    [nodes().numpy(), nodes().to_sparse(), nodes().tolist(), None],
    ids=["numpy", "sparse", "list", "none"],
)
def test_elements_that_are_refused(x) -> None:
    with pytest.raises((TypeError, ValueError, RuntimeError, AttributeError)) as caught:
        aggregation()(x, BATCH)
    assert str(caught.value)


# Tracing ---------------------------------------------------------------------------------------


class Network(nn.Module):
    """EA in a convolution and as readout."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = EAConv(CHANNELS, CHANNELS)
        self.pool = EAGlobalPool(CHANNELS, OUT, steps=3)
        self.head = nn.Linear(OUT, 2)

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor | None) -> Tensor:
        return self.head(self.pool(self.conv(x, edge_index).relu(), batch))


class Readout(nn.Module):
    """EA as readout of one graph."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.pool = EAGlobalPool(CHANNELS, OUT, steps=3)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x)


def by_trace(model: nn.Module, arguments: tuple[Tensor, ...]) -> None:
    torch.jit.trace(model, arguments, check_trace=False)


def by_script(model: nn.Module, arguments: tuple[Tensor, ...]) -> None:
    torch.jit.script(model)


def by_onnx(model: nn.Module, arguments: tuple[Tensor, ...]) -> None:
    torch.onnx.export(model, arguments, io.BytesIO(), dynamo=False)


def by_tensorboard(model: nn.Module, arguments: tuple[Tensor, ...]) -> None:
    tensorboard = pytest.importorskip("torch.utils.tensorboard._pytorch_graph")
    tensorboard.graph(model, arguments)  # what SummaryWriter.add_graph calls


@pytest.mark.filterwarnings("ignore")  # torch's deprecation of tracing, in several places
@pytest.mark.parametrize("called", [False, True], ids=["uncalled", "called"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("tracer", [by_trace, by_script, by_onnx, by_tensorboard])
@pytest.mark.parametrize(
    ("build", "arguments"),
    [
        (Network, (nodes(torch.float32), EDGES, BATCH)),
        (Readout, (nodes(torch.float32),)),
        (lambda: EAGlobalPool(CHANNELS, OUT), (nodes(torch.float32), BATCH)),
        (lambda: EAAggregation(CHANNELS, OUT), (nodes(torch.float32), BATCH)),
    ],
    ids=["network", "readout", "pool", "layer"],
)
def test_tracing_is_refused_in_one_line(build, arguments, tracer, training, called) -> None:
    model = build().train(training)
    if called:
        model(*arguments)
    with pytest.raises(RuntimeError) as caught:
        tracer(model, arguments)
    text = str(caught.value).strip()
    assert "\n" not in text, text
    assert "torch.export" in text
    assert "torch.compile" in text
    assert model(*arguments).isfinite().all()  # the model goes on working


# Inspecting a layer ----------------------------------------------------------------------------


@pytest.mark.parametrize("called", [False, True])
def test_a_layer_can_be_inspected(called) -> None:
    layer = aggregation()
    if called:
        layer(nodes(), BATCH)
    members = dict(inspect.getmembers(layer))
    assert (members["solution"] is None) is not called
    assert (layer.solution is None) is not called
    assert hasattr(layer, "solution")
    assert not hasattr(layer, "no_such_attribute")
    assert repr(layer)
    assert dir(layer)


def test_the_solution_is_returned_on_demand() -> None:
    layer = aggregation()
    y, solution = layer(nodes(), BATCH, return_solution=True)
    assert torch.equal(y, layer(nodes(), BATCH))
    assert torch.equal(solution.y, y)
    for name in (
        "gradient_mean_square",
        "path_mean_square",
        "first_gradient_max",
        "gradient_max",
        "steps",
        "converged",
        "diverged",
    ):
        assert getattr(solution, name).shape == (4,), name
    assert solution.velocity.shape == y.shape
    assert auxiliary_loss([solution, solution]) == 2 * auxiliary_loss(solution)
    for field, kept in zip(solution, layer.solution, strict=True):
        assert torch.equal(field, kept)
        assert not kept.requires_grad
    layer.eval()
    y, solution = layer(nodes().requires_grad_(), BATCH, return_solution=True)
    assert y.requires_grad


# Copies ----------------------------------------------------------------------------------------


def saved_and_loaded(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), saved_and_loaded],
    ids=["deepcopy", "pickle", "save"],
)
def test_copies_after_a_call_with_a_graph(duplicate) -> None:
    model = Network().double()
    with collect_solutions() as solutions:
        out = model(nodes().requires_grad_(), EDGES, BATCH)
    twin = duplicate(model)
    with collect_solutions() as of_twin:
        assert torch.equal(twin(nodes(), EDGES, BATCH), out)
    assert auxiliary_loss(of_twin) == auxiliary_loss(solutions)
    (sum_of_squares(out) + auxiliary_loss(solutions)).backward()
    assert all(p.grad is None for p in twin.parameters())


# Memory ----------------------------------------------------------------------------------------


class Saved:
    """A saved tensor that can be referred to weakly."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


@pytest.mark.parametrize("adjoint", [None, Checkpointed(), Truncated(2)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_of_the_graph_stays_in_eval_mode(backend, adjoint) -> None:
    model = nn.ModuleDict({"pool": EAGlobalPool(CHANNELS, OUT, steps=4, adjoint=adjoint)}).eval()
    references = []

    def pack(tensor: Tensor) -> Saved:
        saved = Saved(tensor.detach())  # an output would refer to itself
        references.append(weakref.ref(saved))
        return saved

    with solve_backend(backend), torch.autograd.graph.saved_tensors_hooks(pack, lambda s: s.tensor):
        out = model["pool"](nodes(torch.float32).requires_grad_(), BATCH)
    assert out.requires_grad
    del out
    gc.collect()
    assert references or adjoint == Checkpointed()
    assert not [reference for reference in references if reference() is not None]
    assert not model["pool"].aggr.solution.y.requires_grad


def test_a_training_step_frees_what_it_saved() -> None:
    layer = aggregation()
    references = []

    def pack(tensor: Tensor) -> Saved:
        saved = Saved(tensor.detach())  # an output would refer to itself
        references.append(weakref.ref(saved))
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda s: s.tensor):
        out, solution = layer(nodes(), BATCH, return_solution=True)
        (sum_of_squares(out) + auxiliary_loss(solution)).backward()
    del out, solution
    gc.collect()
    assert not [reference for reference in references if reference() is not None]


def test_a_training_step_keeps_neither_its_input_nor_the_model_alive() -> None:
    model = nn.ModuleDict({"readout": Readout()})
    x = nodes(torch.float32)
    references = [weakref.ref(x), weakref.ref(model)]
    with collect_solutions() as solutions:
        out = model["readout"](x)
    (sum_of_squares(out) + auxiliary_loss(solutions)).backward()
    del out, solutions
    gc.disable()
    try:
        del x
        assert references[0]() is None
        del model
        assert references[1]() is None
    finally:
        gc.enable()


# The auxiliary loss ----------------------------------------------------------------------------


class Twice(nn.Module):
    """One layer used twice in a forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = aggregation()
        self.other = aggregation()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, BATCH) + self.layer(2 * x, BATCH) + self.other(x, BATCH)


def loss_of(layer: EAAggregation, x: Tensor) -> Tensor:
    return auxiliary_loss(layer(x, BATCH, return_solution=True)[1])


def test_a_layer_used_twice_counts_twice() -> None:
    model = Twice()
    x = nodes()
    expected = loss_of(model.layer, x) + loss_of(model.layer, 2 * x) + loss_of(model.other, x)
    gradients = torch.autograd.grad(expected, list(model.parameters()))
    for _ in range(2):  # a new block starts anew
        with collect_solutions() as solutions:
            model(x)
        total = auxiliary_loss(solutions)
        torch.testing.assert_close(total, expected, **CLOSE)
        got = torch.autograd.grad(total, list(model.parameters()))
        for mine, theirs in zip(got, gradients, strict=True):
            torch.testing.assert_close(mine, theirs, **CLOSE)
    with collect_solutions() as solutions:
        model(x)
        with collect_solutions() as inner:
            model(x)
    assert (len(inner), len(solutions)) == (3, 6)
    torch.testing.assert_close(auxiliary_loss(solutions), 2 * expected, **CLOSE)


def test_two_convolutions_share_one_aggregation() -> None:
    shared = aggregation(CHANNELS)
    first, second = (GINConv(nn.Identity(), aggr=shared) for _ in range(2))

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = nn.ModuleList([first, second])

        def forward(self, x: Tensor) -> Tensor:
            return self.convs[1](self.convs[0](x, EDGES), EDGES)

    model, x = Shared(), nodes()
    with collect_solutions() as solutions:
        model(x)
    total = auxiliary_loss(solutions)
    hidden = first(x, EDGES)
    parts = []
    for given in (x, hidden):
        solution = shared(given[EDGES[0]], EDGES[1], dim_size=NODES, return_solution=True)[1]
        parts.append(auxiliary_loss(solution))
    torch.testing.assert_close(total, parts[0] + parts[1], **CLOSE)


def test_threads_gather_their_own_solutions() -> None:
    layers = [aggregation() for _ in range(4)]
    inside = threading.Barrier(len(layers))

    def run(layer: nn.Module) -> tuple[int, Tensor]:
        with collect_solutions() as solutions:
            inside.wait()
            layer(nodes(), BATCH)
            inside.wait()
        return len(solutions), auxiliary_loss(solutions)

    with collect_solutions() as outside, ThreadPoolExecutor(len(layers)) as pool:
        results = list(pool.map(run, layers))
    assert not outside
    for layer, (number, loss) in zip(layers, results, strict=True):
        assert number == 1
        torch.testing.assert_close(loss, loss_of(layer, nodes()), **CLOSE)


def test_an_error_in_a_block_closes_it() -> None:
    with pytest.raises(RuntimeError, match="boom"), collect_solutions() as solutions:
        raise RuntimeError("boom")
    aggregation()(nodes(), BATCH)
    assert not solutions


@pytest.mark.parametrize("adjoint", [None, Checkpointed(), Truncated(2)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_dropped_output_leaves_no_graph_behind(backend, adjoint) -> None:
    """Also in training mode: outside of a block no layer keeps its solution's graph."""
    layer, references = aggregation(adjoint=adjoint), []

    def pack(tensor: Tensor) -> Saved:
        saved = Saved(tensor.detach())
        references.append(weakref.ref(saved))
        return saved

    with solve_backend(backend), torch.autograd.graph.saved_tensors_hooks(pack, lambda s: s.tensor):
        layer(nodes().requires_grad_(), BATCH)
    gc.collect()
    assert references
    assert not [reference for reference in references if reference() is not None]


def test_tied_weights_get_the_sum_of_their_gradients() -> None:
    tied = nn.ModuleList([aggregation(), aggregation()])
    tied[1].potential = tied[0].potential
    separate = nn.ModuleList([copy.deepcopy(layer) for layer in tied])
    for layers in (tied, separate):
        with collect_solutions() as solutions:
            loss = sum(
                sum_of_squares(layer((i + 1) * nodes(), BATCH)) for i, layer in enumerate(layers)
            )
        (loss + auxiliary_loss(solutions)).backward()
    for name, parameter in tied[0].potential.named_parameters():
        parts = [layer.potential.get_parameter(name).grad for layer in separate]
        torch.testing.assert_close(parameter.grad, parts[0] + parts[1], **CLOSE)


# Activation checkpointing ----------------------------------------------------------------------


def gradients_through(
    run: Callable[[nn.Module, Tensor], Tensor], auxiliary: bool, adjoint: object = None
) -> list[Tensor]:
    layer = aggregation(adjoint=adjoint)
    x = nodes().requires_grad_()
    with collect_solutions() as solutions:
        loss = sum_of_squares(run(layer, x))
    if auxiliary:
        loss = loss + auxiliary_loss(solutions)
    return list(torch.autograd.grad(loss, [x, *layer.parameters()], allow_unused=True))


@pytest.mark.parametrize("adjoint", [None, Checkpointed(), Truncated(2)])
@pytest.mark.parametrize("auxiliary", [False, True], ids=["task", "task and auxiliary"])
def test_activation_checkpointing(auxiliary, adjoint) -> None:
    def run(layer: nn.Module, x: Tensor) -> Tensor:
        return checkpoint(layer, x, BATCH, use_reentrant=False)

    expected = gradients_through(lambda layer, x: layer(x, BATCH), auxiliary, adjoint)
    for got, wanted in zip(gradients_through(run, auxiliary, adjoint), expected, strict=True):
        torch.testing.assert_close(got, wanted, **CLOSE)


def reentrant_gradients(auxiliary: bool) -> list[Tensor]:
    layer = aggregation()
    x = nodes().requires_grad_()
    with collect_solutions() as solutions:
        loss = sum_of_squares(checkpoint(layer, x, BATCH, use_reentrant=True))
    if auxiliary:
        loss = loss + auxiliary_loss(solutions)
    loss.backward()
    return [x.grad, *(p.grad for p in layer.parameters())]


def test_reentrant_checkpointing_has_the_same_gradients() -> None:
    expected = gradients_through(lambda layer, x: layer(x, BATCH), auxiliary=False)
    for got, wanted in zip(reentrant_gradients(auxiliary=False), expected, strict=True):
        torch.testing.assert_close(got, wanted, **CLOSE)


def test_reentrant_checkpointing_makes_the_auxiliary_loss_a_constant_and_says_so() -> None:
    with pytest.warns(UserWarning, match="auxiliary loss"):
        reentrant_gradients(auxiliary=True)


def test_a_constant_auxiliary_loss_is_said_where_gradients_are_enabled() -> None:
    layer = aggregation()
    with torch.no_grad():
        solution = layer(nodes(), BATCH, return_solution=True)[1]
        assert auxiliary_loss(solution) > 0  # no warning: gradients are disabled
    solution = layer.eval()(nodes(), BATCH, return_solution=True)[1]
    assert auxiliary_loss(solution).requires_grad  # no warning: it has a graph
    layer.train().requires_grad_(False)
    solution = layer(nodes(), BATCH, return_solution=True)[1]
    with pytest.warns(UserWarning, match="auxiliary loss"):
        auxiliary_loss(solution)


# torch.func ------------------------------------------------------------------------------------


def parameters_of(layer: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in layer.named_parameters()}


def value(layer: nn.Module, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
    return sum_of_squares(functional_call(layer, parameters, (x, BATCH)))


def autograd_gradients(layer: nn.Module, x: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*layer.named_parameters(), strict=True)
    gradients = torch.autograd.grad(sum_of_squares(layer(x, BATCH)), parameters)
    return dict(zip(names, gradients, strict=True))


def close(got: object, expected: object) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-10)


class OwnPotential(nn.Module):
    """A potential without a closed form."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(CHANNELS + OUT, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(torch.cat([x, y], dim=-1)))).square().sum(dim=-1)


def with_own_potential() -> EAAggregation:
    torch.manual_seed(0)
    return EAAggregation(CHANNELS, OUT, steps=4, potential=OwnPotential()).double()


LAYERS: dict[str, Callable[[], EAAggregation]] = {
    "unrolled": aggregation,
    "truncated": lambda: aggregation(adjoint=Truncated(2)),
    "own potential": with_own_potential,
    "own prior": lambda: aggregation(prior=lambda y: y.cosh().log().sum(dim=-1)),
}


@pytest.fixture(params=LAYERS.values(), ids=LAYERS)
def layer(request) -> EAAggregation:
    return request.param()


def test_functional_call(layer) -> None:
    parameters = {name: p.clone().requires_grad_() for name, p in parameters_of(layer).items()}
    total = value(layer, parameters, nodes())
    gradients = torch.autograd.grad(total, list(parameters.values()))
    close(dict(zip(parameters, gradients, strict=True)), autograd_gradients(layer, nodes()))
    halved = {name: 0.5 * p for name, p in parameters_of(layer).items()}
    twin = copy.deepcopy(layer)
    twin.load_state_dict(halved)
    close(value(layer, halved, nodes()), sum_of_squares(twin(nodes(), BATCH)).detach())


def test_func_grad(layer) -> None:
    got = grad(lambda p: value(layer, p, nodes()))(parameters_of(layer))
    close(got, autograd_gradients(layer, nodes()))


def test_func_vjp(layer) -> None:
    out, pull = vjp(lambda x: layer(x, BATCH), nodes())
    x = nodes().requires_grad_()
    expected = layer(x, BATCH)
    close(out, expected.detach())
    close(pull(torch.ones_like(out))[0], torch.autograd.grad(expected.sum(), x)[0])


def test_func_hessian_vector_product(layer) -> None:
    direction = torch.linspace(-1, 1, NODES * CHANNELS, dtype=torch.float64).view(NODES, CHANNELS)
    _, pull = vjp(grad(lambda x: sum_of_squares(layer(x, BATCH))), nodes())
    x = nodes().requires_grad_()
    (first,) = torch.autograd.grad(sum_of_squares(layer(x, BATCH)), x, create_graph=True)
    close(pull(direction)[0], torch.autograd.grad((first * direction).sum(), x)[0])


def test_func_jacrev(layer) -> None:
    expected = torch.autograd.functional.jacobian(lambda x: layer(x, BATCH), nodes())
    close(jacrev(lambda x: layer(x, BATCH))(nodes()), expected)


def test_func_vmap(layer) -> None:
    stack = torch.stack([nodes(), -nodes(), 0.1 * nodes()])
    close(vmap(lambda x: layer(x, BATCH, dim_size=4))(stack), layer(stack, BATCH).detach())


def test_func_ensemble_by_vmap(layer) -> None:
    members = [parameters_of(layer), {n: 1.1 * p for n, p in parameters_of(layer).items()}]
    stacked = {name: torch.stack([m[name] for m in members]) for name in members[0]}
    x = nodes()
    got = vmap(lambda p: functional_call(layer, p, (x, BATCH), {"dim_size": 4}))(stacked)
    for parameters, out in zip(members, got, strict=True):
        close(out, functional_call(layer, parameters, (nodes(), BATCH)).detach())


def test_func_gradients_of_each_sample(layer) -> None:
    samples = torch.stack([nodes(), -nodes(), 0.1 * nodes()])
    parameters = parameters_of(layer)
    got = vmap(grad(lambda p, x: value(layer, p, x)), in_dims=(None, 0))(parameters, samples)
    for i, x in enumerate(samples):
        close({name: g[i] for name, g in got.items()}, autograd_gradients(layer, x))


def test_func_jvp(layer) -> None:
    """Forward mode against the product of the Jacobian with the direction."""
    direction = torch.ones_like(nodes())
    jacobian = torch.autograd.functional.jacobian(lambda x: layer(x, BATCH), nodes())
    expected = (jacobian * direction).sum(dim=(-2, -1))
    out, tangent = jvp(lambda x: layer(x, BATCH), (nodes(),), (direction,))
    close(out, layer(nodes(), BATCH).detach())
    close(tangent, expected)


def test_func_vmap_over_indices(layer) -> None:
    x, stack = nodes(), torch.stack([BATCH, BATCH.flip(0)])
    expected = torch.stack([layer(x, index, dim_size=4) for index in stack])
    close(vmap(lambda index: layer(x, index, dim_size=4))(stack), expected)


def test_func_of_something_else_beside_a_call(layer) -> None:
    """The layer sees no tensor of the transform, only that there is one."""
    x, weights = nodes(), torch.eye(OUT, dtype=torch.float64)
    y = layer(x, BATCH)
    close(vmap(lambda w: layer(x, BATCH) @ w)(weights), y.T)
    close(grad(lambda w: (layer(x, BATCH) @ w).sum())(weights[0]), y.sum(dim=0))


def test_func_auxiliary_loss_of_each_sample(layer) -> None:
    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        with collect_solutions() as solutions:
            functional_call(layer, parameters, (x, BATCH), {"dim_size": 4})
        return auxiliary_loss(solutions)

    samples = torch.stack([nodes(), -nodes()])
    got = vmap(grad(loss), in_dims=(None, 0))(parameters_of(layer), samples)
    for i, x in enumerate(samples):
        expected = torch.autograd.grad(loss_of(layer, x), list(layer.parameters()))
        close([g[i] for g in got.values()], list(expected))


@pytest.mark.parametrize("adjoint", [None, Checkpointed(), Truncated(2)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_batch_of_cotangents(backend, adjoint) -> None:
    """As ``jacobian(vectorize=True)`` passes them."""
    layer = aggregation(adjoint=adjoint)
    with solve_backend(backend):
        rows = torch.autograd.functional.jacobian(lambda x: layer(x, BATCH), nodes())
        got = torch.autograd.functional.jacobian(lambda x: layer(x, BATCH), nodes(), vectorize=True)
    close(got, rows)


def test_forward_mode_without_func() -> None:
    """Works in plain PyTorch, which the refusal of the fused solve names."""
    layer = aggregation()
    direction = torch.ones_like(nodes())
    expected = jvp(lambda x: layer(x, BATCH), (nodes(),), (direction,))[1]
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(nodes(), direction)
        with pytest.raises(RuntimeError, match=r'solve_backend\("plain"\)'):
            layer(dual, BATCH)
        with solve_backend("plain"):
            got = torch.autograd.forward_ad.unpack_dual(layer(dual, BATCH)).tangent
    close(got, expected)


@pytest.mark.filterwarnings("ignore::pyg_ea.adjoints.ImplicitGradientWarning")
@pytest.mark.parametrize("adjoint", [Checkpointed(), Implicit()], ids=["checkpointed", "implicit"])
@pytest.mark.parametrize(
    "transform",
    [
        lambda layer: grad(lambda x: sum_of_squares(layer(x, BATCH)))(nodes()),
        lambda layer: vmap(lambda x: layer(x, BATCH, dim_size=4))(nodes()[None]),
        lambda layer: jvp(lambda x: layer(x, BATCH), (nodes(),), (nodes(),)),
        lambda layer: grad(lambda p: value(layer, p, nodes()))(parameters_of(layer)),
    ],
    ids=["grad", "vmap", "jvp", "functional_call"],
)
def test_func_with_the_other_adjoints_works_or_is_refused_in_one_line(adjoint, transform) -> None:
    layer = aggregation(adjoint=adjoint)
    plain = aggregation(adjoint=None if isinstance(adjoint, Checkpointed) else adjoint)
    try:
        got = transform(layer)
    except (RuntimeError, ValueError, TypeError) as error:
        text = str(error)
        assert "\n" not in text, text
        assert type(adjoint).__name__ in text or "torch.func" in text or "vmap" in text, text
    else:
        close(got, transform(plain))


# torch.export ----------------------------------------------------------------------------------


class OfGraphs(nn.Module):
    """A network for a batch of graphs, of which something is known besides."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Network()

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor, known: Tensor) -> Tensor:
        h = self.network.conv(x, edge_index).relu()
        pooled = self.network.pool(h, batch, known.shape[0])
        return torch.cat([self.network.head(pooled), known], dim=1)


def random_graphs(num_nodes: int, num_edges: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(num_nodes)
    x = torch.randn(num_nodes, CHANNELS, dtype=torch.float64, generator=generator)
    return x, torch.randint(num_nodes, (2, num_edges), generator=generator)


NUM_NODES, NUM_EDGES, NUM_GRAPHS = map(torch.export.Dim, ("nodes", "edges", "graphs"))


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_export_with_dynamic_sizes(training) -> None:
    model = OfGraphs().double().train(training)
    shapes = ({0: NUM_NODES}, {1: NUM_EDGES}, {0: NUM_NODES}, {0: NUM_GRAPHS})
    arguments = nodes(), EDGES, BATCH, torch.ones(5, 1, dtype=torch.float64)
    exported = torch.export.export(model, arguments, dynamic_shapes=shapes).module()
    for num_nodes, num_edges, graphs in ((7, 9, 4), (11, 30, 2), (40, 100, 9)):
        x, edges = random_graphs(num_nodes, num_edges)
        batch = torch.arange(num_nodes) * graphs // num_nodes
        arguments = x, edges, batch, torch.ones(graphs, 1, dtype=torch.float64)
        torch.testing.assert_close(exported(*arguments), model(*arguments), **CLOSE)


def test_export_for_one_graph_with_dynamic_sizes() -> None:
    model = Network().double().eval()
    shapes = {"x": {0: NUM_NODES}, "edge_index": {1: NUM_EDGES}, "batch": None}
    exported = torch.export.export(model, (nodes(), EDGES, None), dynamic_shapes=shapes).module()
    for num_nodes, num_edges in ((7, 9), (11, 30), (40, 100)):
        x, edges = random_graphs(num_nodes, num_edges)
        torch.testing.assert_close(exported(x, edges, None), model(x, edges, None), **CLOSE)


def test_export_of_a_readout_beside_others() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            parts = [EAAggregation(CHANNELS, OUT, steps=3), aggr.SumAggregation()]
            self.pool = NormedMultiAggregation(parts, [OUT, CHANNELS])

        def forward(self, x: Tensor, batch: Tensor, size: int) -> Tensor:
            return self.pool(x, batch, dim_size=size)

    model = Model().double().eval()
    exported = torch.export.export(
        model, (nodes(), BATCH, 4), dynamic_shapes=({0: NUM_NODES}, {0: NUM_NODES}, None)
    ).module()
    x, batch = nodes()[:5], BATCH[:5]
    torch.testing.assert_close(exported(x, batch, 4), model(x, batch, 4), **CLOSE)


def test_export_refuses_a_gradient_by_autograd_in_one_line() -> None:
    layer = with_own_potential().eval()
    with pytest.raises(TypeError, match=r"gradient of their own, as ResNetPotential") as caught:
        torch.export.export(layer, (nodes(), BATCH), {"dim_size": 4}, strict=False)
    assert "\n" not in str(caught.value)


# Changes between forward and backward ----------------------------------------------------------

CHANGED = {  # what the C code and the torch backend read again in backward
    "index": lambda index, ptr, scale: index.zero_(),
    "ptr": lambda index, ptr, scale: ptr[1:-1].fill_(NODES),
    "scale": lambda index, ptr, scale: scale.mul_(5),
}


@pytest.mark.parametrize("change", CHANGED.values(), ids=CHANGED)
@pytest.mark.parametrize("backend", ["native", "torch"])
def test_a_change_in_place_before_backward_is_an_error(backend, change) -> None:
    index, ptr = BATCH.sort().values, torch.tensor([0, 3, 3, 5, 7])
    scale = torch.ones(4, dtype=torch.float64)
    layer = aggregation(scaling=lambda count: scale)
    with solve_backend(backend):
        y = layer(nodes(), index) + layer(nodes(), None, ptr)
    change(index, ptr, scale)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


# Implementations -------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_another_default_device(backend) -> None:
    layer, x = aggregation(), nodes().requires_grad_()
    expected = layer(x, BATCH)
    gradients = torch.autograd.grad(expected.sum(), [x, *layer.parameters()])
    with torch.device("meta"), solve_backend(backend):
        y = layer(x, BATCH)
        got = torch.autograd.grad(y.sum(), [x, *layer.parameters()])
    close((y, *got), (expected, *gradients))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_weight_that_is_a_negated_view(backend) -> None:
    layer = aggregation()
    weight = layer.potential.norm1.weight.detach()
    negated = {"potential.norm1.weight": torch._neg_view(-weight)}
    with solve_backend(backend):
        close(functional_call(layer, negated, (nodes(), BATCH)), layer(nodes(), BATCH))


def test_an_unknown_implementation_is_refused() -> None:
    with pytest.raises(ValueError, match="native"), solve_backend("cuda"):
        pass


@pytest.mark.parametrize("backend", BACKENDS)
def test_implementations_agree(backend) -> None:
    results = []
    for name in ("plain", backend):
        layer = aggregation()
        x = nodes().requires_grad_()
        with solve_backend(name):
            out, solution = layer(x, BATCH, return_solution=True)
            loss = sum_of_squares(out) + auxiliary_loss(solution) + auxiliary_loss(solution, "path")
            results.append((out, *torch.autograd.grad(loss, [x, *layer.parameters()])))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, **CLOSE)
