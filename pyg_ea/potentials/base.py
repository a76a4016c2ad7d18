"""What a potential is, and how the energy sees it once its elements are fixed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torch_geometric.nn.inits import reset

from pyg_ea.checks import one_each
from pyg_ea.segments import Segments
from pyg_ea.tensors import in_transform, state_dtype


class BoundPotential(Protocol):
    r"""A potential with its elements fixed: :math:`\Phi_s(y) = \sum_{i \in s} F(x_i, y_s)`.

    Both methods are differentiable with respect to ``y``, the elements and the parameters.
    """

    def value(self, y: Tensor) -> Tensor:
        r""":math:`\Phi_s(y_s)`: ``[S, Dy] -> [S]``."""

    def gradient(self, y: Tensor) -> Tensor:
        r""":math:`\partial \Phi_s / \partial y_s`: ``[S, Dy] -> [S, Dy]``."""


class Potential(nn.Module):
    r"""Base class of potentials :math:`F(x, y)`.

    Only :meth:`forward` is needed. A subclass with a closed-form gradient overrides :meth:`bind`.
    Any other module, or plain function, with the signature of :meth:`forward` serves as well. It
    must see each element alone: a ``BatchNorm`` in training would mix the sets of a batch.

    Training differentiates :meth:`forward` twice, which torch does right for its own layers. For
    second derivatives of the whole layer it takes three, and there ``nn.LayerNorm`` is silently
    wrong: write it out in plain operations if you need them.
    """

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The potential of each element: ``x [N, Dx], y [N, Dy] -> [N]``."""
        raise NotImplementedError

    def bind(self, x: Tensor, segments: Segments) -> BoundPotential:
        """Fixes the elements; everything that does not depend on ``y`` is computed here, once."""
        return AutogradPotential(self, x, segments)

    def reset_parameters(self) -> None:
        """Re-initialises the layers inside; override it for parameters of its own."""
        for layer in self.children():
            reset(layer)


class AutogradPotential:
    """Any ``potential(x, y) -> [N]`` bound to its elements, with its gradient by autograd."""

    def __init__(
        self, potential: Callable[[Tensor, Tensor], Tensor], x: Tensor, segments: Segments
    ) -> None:
        if isinstance(potential, nn.Module) and _is_sharded(potential):
            raise RuntimeError(
                f"{type(potential).__name__} is sharded by itself or layer by layer, which does "
                "not work inside the solver's loop: shard the whole EAAggregation, or a module "
                "that holds it, as fully_shard(pool)"
            )
        self.potential = potential
        self.x = x
        self.segments = segments

    def value(self, y: Tensor) -> Tensor:
        """See :meth:`BoundPotential.value`."""
        per_element = self.potential(self.x, self.segments.gather(y).to(self.x.dtype))
        return self.segments.sum(one_each("potential", per_element, self.x.shape[0], "element"))

    def gradient(self, y: Tensor) -> Tensor:
        """See :meth:`BoundPotential.gradient`."""
        return gradient_in_y(self.value, y)


def _is_sharded(module: nn.Module) -> bool:
    """Whether FSDP shards it or a part of it by itself. FSDP 2 makes parameters DTensors."""
    return any(hasattr(parameter, "full_tensor") for parameter in module.parameters()) or any(
        type(part).__name__ == "FullyShardedDataParallel" for part in module.modules()
    )


def is_unchanged(module: nn.Module) -> bool:
    """Whether there are no hooks on it or on all modules, and it has the forward of its class."""
    return not (
        "forward" in module.__dict__
        or module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or _has_any_global_hook()
    )


def bind(
    potential: Callable[[Tensor, Tensor], Tensor], x: Tensor, segments: Segments
) -> BoundPotential:
    """Binds ``potential`` by its own method where it has one, by autograd otherwise."""
    if isinstance(potential, Potential):
        return potential.bind(x, segments)
    return AutogradPotential(potential, x, segments)


def gradient_in_y(function: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
    r"""Gradient of :math:`\sum_s f_s(y)` in ``y`` by autograd, in any grad mode: ``[S, Dy]``.

    The result can be differentiated again where gradients are enabled, and keeps no graph where
    they are not. The caller leaves ``inference_mode`` first.
    """

    def energy(y: Tensor) -> Tensor:  # a bound potential's value has the right shape
        return one_each("prior", function(y), y.shape[0], "segment").sum()

    if torch.compiler.is_exporting():
        raise TypeError(  # PyG looks at the index after a RuntimeError, which export forbids
            "torch.export takes only potentials and priors with a gradient of their own, as "
            "ResNetPotential without hooks or replaced layers, and L2Prior"
        )
    if torch.compiler.is_compiling() or in_transform():
        return torch.func.grad(energy)(y)
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        if not (differentiable and y.requires_grad):
            y = y.detach().requires_grad_()
        total = energy(y)
        gradient = None
        if total.requires_grad:
            create_graph = differentiable and not _is_only_leaf(y, total)
            (gradient,) = torch.autograd.grad(
                total, y, create_graph=create_graph, allow_unused=True
            )
        if gradient is None:
            raise ValueError(
                "the potential or prior does not depend on y, or only by operations without a "
                "gradient, such as quantised layers: it has no minimum to find"
            )
    return gradient.to(state_dtype(gradient.dtype))


def _is_only_leaf(y: Tensor, total: Tensor) -> bool:
    """Whether nothing but the leaf ``y`` requires grad: then the gradient is a constant."""
    pending, seen = [total.grad_fn], set()
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)  # of an AccumulateGrad node, where paths end
        if leaf is not None and leaf is not y:
            return False
        pending.extend(child for child, _ in node.next_functions)
    return True
