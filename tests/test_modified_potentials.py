"""The closed form stands for exactly the modules that it describes; others run as they are."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from types import MethodType

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrizations, prune

from pyg_ea import (
    EAAggregation,
    L2Prior,
    NesterovSolver,
    ResNetPotential,
    collect_solutions,
    solve_backend,
)
from pyg_ea.potentials.closed_form import ClosedForm
from pyg_ea.segments import Segments


class Adapter(nn.Linear):
    """A low-rank adapter: a subclass of ``nn.Linear`` with its own forward."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__(base.in_features, base.out_features)
        self.load_state_dict(base.state_dict())
        self.down = nn.Linear(base.in_features, 2)
        self.up = nn.Linear(2, base.out_features)

    def forward(self, z: Tensor) -> Tensor:
        return super().forward(z) + self.up(self.down(z))


class Wrapper(nn.Module):
    """As PEFT wraps a layer: not a subclass, but with attributes of the layer."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base, self.extra = base, nn.Linear(base.in_features, base.out_features)

    @property
    def weight(self) -> Tensor:
        return self.base.weight

    @property
    def bias(self) -> Tensor:
        return self.base.bias

    def forward(self, z: Tensor) -> Tensor:
        return self.base(z) + self.extra(z)


class Rounding(nn.Linear):
    """Quantisation-aware training: weights rounded, gradients passed through."""

    def forward(self, z: Tensor) -> Tensor:
        rounded = self.weight + ((self.weight * 8).round() / 8 - self.weight).detach()
        return nn.functional.linear(z, rounded, self.bias)


class Scaled(Tensor):
    """A tensor subclass as the weight."""


def replaced(name: str, make: Callable[[nn.Module], nn.Module]) -> Callable[[nn.Module], None]:
    def modify(potential: nn.Module) -> None:
        setattr(potential, name, make(getattr(potential, name)).to(torch.float64))

    return modify


def quantisation_aware(potential: nn.Module) -> None:
    potential.layer2.__class__ = Rounding


def pruned(potential: nn.Module) -> None:
    for layer in (potential.layer1, potential.layer3, potential.skip2):
        prune.l1_unstructured(layer, "weight", amount=0.3)


def old_weight_norm(potential: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # deprecated, and in use
        for layer in (potential.layer1, potential.skip1):
            nn.utils.weight_norm(layer)


def old_spectral_norm(potential: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        nn.utils.spectral_norm(potential.layer2)
    potential.eval()  # in training its power iteration changes the weight at every call


def hook(potential: nn.Module) -> None:
    potential.layer1.register_forward_hook(lambda module, inputs, output: 1.5 * output)


def pre_hook(potential: nn.Module) -> None:
    potential.skip3.register_forward_pre_hook(lambda module, inputs: (0.5 * inputs[0],))


def hook_on_the_potential(potential: nn.Module) -> None:
    potential.register_forward_hook(lambda module, inputs, output: 2 * output)


def patched_forward(potential: nn.Module) -> None:
    layer = potential.layer2
    layer.forward = MethodType(lambda self, z: 0.5 * nn.Linear.forward(self, z), layer)


def other_eps(potential: nn.Module) -> None:
    potential.norm1.eps = 0.1


MODIFIED = {
    "adapter": replaced("layer1", Adapter),
    "adapter-on-skip": replaced("skip1", Adapter),
    "wrapper": replaced("layer3", Wrapper),
    "quantisation-aware": quantisation_aware,
    "pruned": pruned,
    "weight_norm": old_weight_norm,
    "spectral_norm": old_spectral_norm,
    "hook": hook,
    "pre-hook": pre_hook,
    "hook-on-the-potential": hook_on_the_potential,
    "patched-forward": patched_forward,
    "other-eps": other_eps,
    "other-norm": replaced("norm2", lambda norm: nn.RMSNorm(norm.normalized_shape)),
    "no-bias": replaced("layer2", lambda old: nn.Linear(*old.weight.shape[::-1], bias=False)),
    "no-offset": replaced("norm1", lambda norm: nn.LayerNorm(norm.normalized_shape, bias=False)),
    "sequential": replaced("layer2", lambda old: nn.Sequential(old, nn.Hardtanh(-0.1, 0.1))),
}
PARAMETRISED = {
    "weight_norm": lambda potential: parametrizations.weight_norm(potential.layer1),
    "orthogonal": lambda potential: parametrizations.orthogonal(potential.skip2),
}


def make(modify: Callable[[nn.Module], object]) -> EAAggregation:
    torch.manual_seed(0)
    layer = EAAggregation(6, 4, 8, steps=4, solver=NesterovSolver(0.02)).double()
    modify(layer.potential)
    return layer


def parameters_after_training(layer: EAAggregation) -> list[Tensor]:
    """All parameters after four steps of SGD."""
    torch.manual_seed(1)
    x, index = torch.randn(15, 6, dtype=torch.float64), torch.randint(3, (15,))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.05)
    for _ in range(4):
        optimizer.zero_grad()
        layer(x, index, dim_size=4).sin().sum().backward()
        optimizer.step()
    return [parameter.detach() for parameter in layer.parameters()]


def check_as_the_modules_compute(layer: EAAggregation, plain: EAAggregation) -> None:
    """Training equals training with the potential as a plain function, without a closed form."""
    plain.potential = Function(plain.potential)
    for one, other in zip(
        parameters_after_training(layer), parameters_after_training(plain), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


class Function(nn.Module):
    """Calls a potential; not one itself."""

    def __init__(self, potential: nn.Module) -> None:
        super().__init__()
        self.potential = potential

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.potential(x, y)


@pytest.mark.parametrize("modify", MODIFIED.values(), ids=MODIFIED)
def test_training_is_that_of_the_modules(modify) -> None:
    layer = make(modify)
    check_as_the_modules_compute(layer, make(modify))
    x = torch.randn(5, 6, dtype=torch.float64)
    y, original = layer(x), make(lambda potential: None)(x)
    assert (y - original).abs().max() > 1e-4, "the change has no effect: the test shows nothing"


@pytest.mark.parametrize("modify", PARAMETRISED.values(), ids=PARAMETRISED)
def test_parametrised_layers_keep_the_closed_form(modify) -> None:
    layer = make(modify)
    check_as_the_modules_compute(make(modify), make(modify))
    assert is_closed_form(layer)


def is_closed_form(layer: EAAggregation) -> bool:
    x = torch.randn(5, 6, dtype=next(layer.parameters()).dtype)
    return isinstance(layer.potential.bind(x, Segments(torch.zeros(5).long(), 1)), ClosedForm)


@pytest.mark.parametrize("modify", MODIFIED.values(), ids=MODIFIED)
def test_a_backend_chosen_by_name_refuses_them(modify) -> None:
    layer, x = make(modify), torch.randn(5, 6, dtype=torch.float64)
    with solve_backend("torch"), pytest.raises(RuntimeError, match="not an unmodified ResNetPot"):
        layer(x)


def doubled(module: nn.Module, y: Tensor) -> Tensor:
    return 2 * y.abs().pow(3).sum(dim=-1)


def patched_prior(prior: nn.Module) -> None:
    prior.forward = MethodType(doubled, prior)


PRIORS: dict[str, Callable[[L2Prior], object]] = {
    "subclass": lambda prior: setattr(
        prior, "__class__", type("P", (L2Prior,), {"forward": doubled})
    ),
    "patched": patched_prior,
    "hook": lambda prior: prior.register_forward_hook(lambda module, inputs, output: 9 * output),
    "pre-hook": lambda prior: prior.register_forward_pre_hook(lambda module, inputs: inputs[0] + 1),
}


@pytest.mark.parametrize("modify", PRIORS.values(), ids=PRIORS)
def test_a_modified_prior_is_what_a_call_of_it_computes(modify) -> None:
    layers = [make(lambda potential: None) for _ in range(3)]
    modify(layers[0].prior)
    modify(layers[1].prior)
    layers[1].prior = PriorFunction(layers[1].prior)
    got, expected, original = map(parameters_after_training, layers)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)
    assert (got[0] - original[0]).abs().max() > 1e-4
    with solve_backend("torch"), pytest.raises(RuntimeError, match="the prior"):
        layers[0](torch.randn(5, 6, dtype=torch.float64))


class PriorFunction(nn.Module):
    """Calls a prior; not one itself."""

    def __init__(self, prior: nn.Module) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, y: Tensor) -> Tensor:
        return self.prior(y)


def test_hooks_on_all_modules() -> None:
    x, index = torch.linspace(-1, 1, 54, dtype=torch.float64).view(9, 6), torch.arange(9) % 3
    layer, scaled = make(lambda potential: None), make(lambda potential: None)
    for name in ("layer1", "layer2", "layer3", "skip1", "skip2", "skip3"):
        linear = getattr(scaled.potential, name)
        linear.register_forward_hook(lambda module, inputs, output: 0.5 * output)
    expected, original = scaled(x, index), layer(x, index)
    handle = register_module_forward_hook(
        lambda module, inputs, output: 0.5 * output if isinstance(module, nn.Linear) else None
    )
    try:
        torch.testing.assert_close(layer(x, index), expected, rtol=0, atol=1e-12)
    finally:
        handle.remove()
    assert torch.equal(layer(x, index), original)
    assert (original - expected).abs().max() > 1e-3


def test_an_unmodified_potential_has_the_closed_form_again_once_a_hook_is_removed() -> None:
    layer = make(lambda potential: None)
    assert is_closed_form(layer)
    handle = layer.potential.layer1.register_forward_hook(lambda *_: None)
    assert not is_closed_form(layer)
    handle.remove()
    assert is_closed_form(layer)
    assert is_closed_form(copy.deepcopy(layer))


def test_a_subclass_with_its_own_forward() -> None:
    class Doubled(ResNetPotential):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return 2 * super().forward(x, y)

    torch.manual_seed(0)
    layer = EAAggregation(
        6, 4, potential=Doubled(6, 4, 8), steps=4, solver=NesterovSolver(0.02)
    ).double()
    assert not is_closed_form(layer)
    check_as_the_modules_compute(layer, copy.deepcopy(layer))


def test_a_tensor_subclass_as_a_weight() -> None:
    layer = make(lambda potential: None)
    weight = layer.potential.layer1.weight.detach().as_subclass(Scaled)
    layer.potential.layer1.weight = nn.Parameter(weight)
    assert not is_closed_form(layer)


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_dynamic_quantisation() -> None:
    """Its layers have no gradient, which the solver needs: one line says so."""
    torch.manual_seed(0)
    layer = EAAggregation(6, 4, 8, steps=4, solver=NesterovSolver(0.02)).eval()
    quantised = torch.ao.quantization.quantize_dynamic(layer, {nn.Linear}, dtype=torch.qint8)
    with torch.no_grad(), pytest.raises(ValueError, match="quantised layers"):
        quantised(torch.randn(5, 6))


def test_hooks_see_every_step() -> None:
    layer, calls = make(lambda potential: None), []
    layer.potential.layer2.register_forward_hook(lambda *_: calls.append(1))
    with collect_solutions() as solutions:
        layer(torch.randn(5, 6, dtype=torch.float64))
    assert len(calls) >= layer.steps
    assert len(solutions) == 1
