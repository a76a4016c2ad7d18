"""``pyg_ea.testing``: every check sees the mistake it is for, and passes what the library has."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.nn import SumAggregation

from pyg_ea import ResNetPotential
from pyg_ea.potentials import (
    AttentionPotential,
    MaxPotential,
    MeanPotential,
    Potential,
    QuantilePotential,
    SumPotential,
)
from pyg_ea.testing import check_aggregation, check_potential
from pyg_ea.testing.modules import AGGREGATION_CHECKS
from tests.problems import GaussianLikelihood, PrintedAttentionPotential

D = 4


@pytest.mark.parametrize(
    ("potential", "y_channels"),
    [
        (ResNetPotential(D, 3, 5), 3),
        (AttentionPotential(D), D + 1),
        (PrintedAttentionPotential(D), D + 1),
        (MaxPotential(8, smoothing=0.5), D),
        (MeanPotential(), D),
        (QuantilePotential([0.2, 0.5, 0.7, 0.9], smoothing=0.5), D),
        (SumPotential(), D),
        (GaussianLikelihood(0.8), D),
        (lambda x, y: (x - y).cosh().sum(dim=1), D),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_potentials_pass(potential, y_channels) -> None:
    check_potential(potential, D, y_channels)


class WithGradient(Potential):
    """``|x - y|^2``, with the gradient ``factor * (y - x)``."""

    def __init__(self, factor: float, value: float = 1.0, detached: bool = False) -> None:
        super().__init__()
        self.factor, self.scale, self.detached = factor, value, detached

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (x - y).square().sum(dim=1)

    def bind(self, x, segments):
        self.x, self.segments = x, segments
        return self

    def value(self, y: Tensor) -> Tensor:
        return self.scale * self.segments.sum(self(self.x, self.segments.gather(y)))

    def gradient(self, y: Tensor) -> Tensor:
        x = self.x.detach() if self.detached else self.x
        return self.segments.sum(self.factor * (self.segments.gather(y) - x))


def test_a_closed_form_passes() -> None:
    check_potential(WithGradient(2.0), D, D)


@pytest.mark.parametrize(
    ("potential", "message"),
    [
        (lambda x, y: (x - y).square(), r"shape \[11, 4\]"),
        (lambda x, y: (x - y).sum(dim=1).log(), "not finite"),
        (lambda x, y: (x - y).square().sum(dim=1) + x.sum(), "depends on the other elements"),
        (lambda x, y: x.sum(dim=1) if len(x) else x.new_zeros(1), "for no element"),
        (lambda x, y: x.sum(dim=1), "does not depend on y"),
        (lambda x, y: (x - y).square().sum(dim=1) * 0, "no gradient in y"),
        (WithGradient(2.0, value=2.0), "not the sum over each set"),
        (WithGradient(1.0), "not the derivative of the value"),
        (WithGradient(2.0, detached=True), "derivatives are wrong"),
    ],
)
def test_mistakes_in_a_potential_are_seen(potential, message) -> None:
    with pytest.raises(AssertionError, match=message):
        check_potential(potential, D, D)


class Layer(nn.Module):
    """A sum of linear maps, whose output ``spoil`` changes; it breaks what ``fault`` names."""

    def __init__(self, fault: str = "", spoil: Callable[..., Tensor] | None = None) -> None:
        super().__init__()
        self.fault, self.spoil = fault, spoil
        self.linear = nn.Linear(D, 3, bias=False)
        self.unused = nn.Parameter(torch.ones(1), requires_grad=fault == "gradients")

    def reset_parameters(self) -> None:
        self.linear.reset_parameters()
        if self.fault != "reset_parameters":
            nn.init.ones_(self.unused)

    def __deepcopy__(self, memo: object) -> Layer:
        twin = Layer()
        twin.load_state_dict(self.state_dict())
        if self.fault == "deepcopy":
            twin.linear = self.linear
        return twin

    def __reduce__(self) -> tuple[object, ...]:
        return (Layer, ()) if self.fault == "pickle" else super().__reduce__()

    def state_dict(self, **arguments: object) -> dict[str, Tensor]:
        factor = 2 if self.fault == "state_dict" else 1
        return {name: factor * value for name, value in super().state_dict(**arguments).items()}

    def forward(
        self, x: Tensor, index: Tensor | None = None, dim_size: int | None = None
    ) -> Tensor:
        of_sets = torch.zeros(len(x), dtype=torch.long) if index is None else index
        out = SumAggregation()(self.linear(x), of_sets, dim_size=dim_size)
        return self.spoil(self, out, x, index, dim_size) if self.spoil else out


def twice_where(condition: Callable[[nn.Module, Tensor], bool]) -> Callable[..., Tensor]:
    return lambda layer, out, x, *_: out * (2 if condition(layer, x) else 1)


MISTAKES: dict[str, Callable[..., Tensor] | None] = {
    **dict.fromkeys(["gradients", "reset_parameters", "deepcopy", "pickle", "state_dict"]),
    "output": lambda layer, out, *_: out.double(),
    "no_grad": twice_where(lambda layer, x: not torch.is_grad_enabled()),
    "inference_mode": twice_where(lambda layer, x: torch.is_inference_mode_enabled()),
    "train_and_eval": twice_where(lambda layer, x: layer.training),
    "float64": twice_where(lambda layer, x: x.dtype == torch.float64),
    "bfloat16": twice_where(lambda layer, x: x.dtype == torch.bfloat16),
    "autocast": twice_where(lambda layer, x: torch.is_autocast_enabled("cpu")),
    "empty_sets": lambda layer, out, *_: out + 1,
    "num_sets": lambda layer, out, x, index, num_sets: out if num_sets else out[:-1],
    "no_element": lambda layer, out, x, *_: out if len(x) else out + 1,
    "one_element": lambda layer, out, x, *_: out * (len(x) > 1),
    "no_index": lambda layer, out, x, index, _: out * (index is not None),
    "order_of_elements": lambda layer, out, x, *_: out * x[0].sum(),
    "order_of_sets": lambda layer, out, *_: out * torch.arange(len(out))[:, None],
    "multiplicity": lambda layer, out, x, *_: out / len(x),
    "other_sets": lambda layer, out, x, *_: out * x.sum(),
}


def test_a_layer_without_mistakes_passes() -> None:
    check_aggregation(Layer, D)


@pytest.mark.parametrize("name", AGGREGATION_CHECKS)
def test_mistakes_in_an_aggregation_are_seen(name) -> None:
    others = [other for other in AGGREGATION_CHECKS if other != name]
    with pytest.raises(AssertionError, match=f"check '{name}': "):
        check_aggregation(lambda: Layer(name, MISTAKES[name]), D, skip=others)


def test_an_unknown_check_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"no check is named \['bf16'\]; the names are \['auto"):
        check_aggregation(Layer, D, skip=["bf16"])


def test_the_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    check_potential(MeanPotential(), D, D)
    check_aggregation(Layer, D)
    assert torch.equal(torch.get_rng_state(), before)
