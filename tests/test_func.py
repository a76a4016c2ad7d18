"""``torch.func``: transforms of a layer against plain autograd."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, jvp, vjp, vmap

from pyg_ea import (
    Checkpointed,
    EAAggregation,
    Implicit,
    Truncated,
    auxiliary_loss,
    collect_solutions,
    solve_backend,
)
from tests.small_layer import (
    BACKENDS,
    BATCH,
    CHANNELS,
    NODES,
    OUT,
    aggregation,
    close,
    loss_of,
    nodes,
    sum_of_squares,
    with_own_potential,
)

# torch.func ------------------------------------------------------------------------------------


def parameters_of(layer: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in layer.named_parameters()}


def value(layer: nn.Module, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
    return sum_of_squares(functional_call(layer, parameters, (x, BATCH)))


def autograd_gradients(layer: nn.Module, x: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*layer.named_parameters(), strict=True)
    gradients = torch.autograd.grad(sum_of_squares(layer(x, BATCH)), parameters)
    return dict(zip(names, gradients, strict=True))


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
