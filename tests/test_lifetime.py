"""What a call keeps and for how long: the solution, copies, memory, what backward needs."""

from __future__ import annotations

import copy
import gc
import inspect
import io
import pickle
import weakref

import pytest
import torch
from torch import Tensor, nn

from pyg_ea import (
    Checkpointed,
    EAGlobalPool,
    Truncated,
    auxiliary_loss,
    collect_solutions,
    solve_backend,
)
from tests.small_layer import (
    BACKENDS,
    BATCH,
    CHANNELS,
    EDGES,
    NODES,
    OUT,
    Network,
    Readout,
    aggregation,
    nodes,
    sum_of_squares,
)

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
