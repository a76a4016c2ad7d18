"""First and second derivatives of the whole layer against finite differences.

Plain ``gradcheck`` passes for segment operations whose second derivative is silently wrong, so
``gradgradcheck`` runs on every layout of segments as well.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from pyg_ea import Checkpointed, EAAggregation, Unrolled
from tests.reference import listing1
from tests.test_reference import Setting, make_layer

WIDTHS = (2, 2, 2)  # the first skip is the identity, the others are projected
NEVER_STOP = 0.0  # finite differences must not cross a stopping threshold

LAYOUTS = {  # name: (index, number of segments)
    "sorted": ([0, 0, 1, 1, 1], 2),
    "unsorted": ([1, 0, 1, 0, 1], 2),
    "empty-inside": ([0, 2, 2, 0], 3),
    "trailing-empty": ([1, 0, 1], 4),
    "single-element": ([0], 1),
    "singles": ([2, 0, 1], 3),
    "no-element": ([], 2),
}

pytestmark = pytest.mark.usefixtures("device")
layouts = pytest.mark.parametrize(("index", "num_segments"), LAYOUTS.values(), ids=LAYOUTS)
forms = pytest.mark.parametrize("user", [False, True], ids=["closed-form", "user-potential"])


class PlainListing(nn.Module):
    """Listing 1 as a user's own potential, in ops that torch differentiates rightly thrice.

    The second derivative of the layer holds a third one of the potential, and that of
    ``nn.LayerNorm`` is silently wrong (pytorch issue 175754).
    """

    def __init__(self, resnet: nn.Module) -> None:
        super().__init__()
        self.resnet = resnet  # holds the parameters

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        named = {
            f"potential.{name}.{kind}": getattr(layer, kind)
            for name, layer in self.resnet.named_children()
            if not isinstance(layer, nn.Identity)
            for kind in ("weight", "bias")
        }
        return listing1(named, x, y)


def make(setting: Setting, user: bool, adjoint: object | None = None) -> EAAggregation:
    layer = make_layer(WIDTHS, setting, adjoint=adjoint)
    if user:
        layer.potential = PlainListing(layer.potential)
    return layer


def as_function(
    layer: EAAggregation, index: list[int], num_segments: int
) -> tuple[Callable[..., tuple[Tensor, ...]], tuple[Tensor, Tensor]]:
    """The layer as a function of x and of all its parameters as one vector, and inputs for it."""
    names, parameters = zip(*layer.named_parameters(), strict=True)
    sizes = [p.numel() for p in parameters]
    vector = torch.cat([p.detach().flatten() for p in parameters])
    generator = torch.Generator().manual_seed(11)
    x = torch.randn(len(index), WIDTHS[0], dtype=torch.float64, generator=generator)
    segments = torch.tensor(index, dtype=torch.long)

    def function(x: Tensor, vector: Tensor) -> tuple[Tensor, ...]:
        fresh = copy.deepcopy(layer)  # stays as it is until backward, which may run it again
        for name, part, parameter in zip(names, vector.split(sizes), parameters, strict=True):
            owner = fresh.get_submodule(name.rpartition(".")[0])
            delattr(owner, name.rpartition(".")[2])
            setattr(owner, name.rpartition(".")[2], part.view_as(parameter))
        y, solution = fresh(x, segments, dim_size=num_segments, return_solution=True)
        return y, solution.gradient_mean_square, solution.path_mean_square

    return function, (x.requires_grad_(), vector.requires_grad_())


@layouts
@forms
@pytest.mark.parametrize("adjoint", [Unrolled(), Checkpointed()], ids=["unrolled", "checkpointed"])
def test_first_and_second_derivatives(index, num_segments, user, adjoint) -> None:
    """Along random directions of x and of all parameters together."""
    torch.manual_seed(0)
    layer = make(Setting(steps=3, gtol=NEVER_STOP), user, adjoint)
    function, inputs = as_function(layer, index, num_segments)
    assert gradcheck(function, inputs, fast_mode=True)
    assert gradgradcheck(function, inputs, fast_mode=True)


@layouts
@forms
@pytest.mark.parametrize("adjoint", [Unrolled(), Checkpointed()], ids=["unrolled", "checkpointed"])
def test_first_derivatives_are_the_same_where_they_are_to_be_differentiated_again(
    index, num_segments, user, adjoint
) -> None:
    """``gradgradcheck`` cannot see this: it checks the derivative of whatever comes first."""
    layer = make(Setting(steps=3, gtol=NEVER_STOP), user, adjoint)
    function, inputs = as_function(layer, index, num_segments)
    inputs = [tensor.requires_grad_() for tensor in inputs]
    once = torch.autograd.grad(function(*inputs)[0].square().sum(), inputs)
    again = torch.autograd.grad(function(*inputs)[0].square().sum(), inputs, create_graph=True)
    for one, other in zip(again, once, strict=True):
        torch.testing.assert_close(one.detach(), other, rtol=1e-10, atol=1e-12)


@forms
def test_every_entry_of_the_derivatives_in_x(user) -> None:
    torch.manual_seed(0)
    layer = make(Setting(steps=2, gtol=NEVER_STOP), user)
    function, (x, vector) = as_function(layer, [1, 0, 1], 3)
    vector.requires_grad_(False)
    assert gradcheck(function, (x, vector))
    assert gradgradcheck(function, (x, vector))


def test_stopped_segments_and_clipped_entries_have_the_right_derivatives() -> None:
    torch.manual_seed(0)
    layer = make(Setting(steps=6, gtol=0.3, clip=0.5), user=False)
    function, inputs = as_function(layer, [1, 0, 1, 2, 0, 1, 3], 5)
    layer(inputs[0], torch.tensor([1, 0, 1, 2, 0, 1, 3]), dim_size=5)
    solution = layer.solution
    moved = solution.steps[:4]
    assert moved.min() < 6, "no segment stopped: change gtol"
    assert moved.max() == 6, "every segment stopped: change gtol"
    assert (solution.y.abs() == 0.5).any(), "no entry is clipped: change clip"
    assert (solution.gradient_max[:4] - 0.3).abs().min() > 1e-4, "too near the threshold"
    assert gradcheck(function, inputs, fast_mode=True)
    assert gradgradcheck(function, inputs, fast_mode=True)
