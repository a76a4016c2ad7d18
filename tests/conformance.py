"""What every module built on Equilibrium Aggregation must do.

A new module states how to build itself and how to call it, and inherits every check. ``Module``
holds what any PyG module owes its user, ``SetModule`` what an aggregation of sets owes.
"""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import Tensor, nn

CHANNELS = 6
SIZES = [3, 0, 1, 5, 2, 0]  # an empty set inside, a single element, an empty set at the end
ALONE = 1e-12  # float64 rounding where blocked products sum in another order
BF16 = 0.1  # of the result's scale: bf16 keeps 8 bits, and 15 steps amplify


def batch(
    dtype: torch.dtype = torch.float32, seed: int = 0, channels: int = CHANNELS
) -> tuple[Tensor, Tensor]:
    """Elements in random order: ``x [N, channels]``, ``index [N]`` of ``len(SIZES)`` sets."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.repeat_interleave(torch.arange(len(SIZES)), torch.tensor(SIZES))
    index = index[torch.randperm(len(index), generator=generator)]
    x = torch.randn(len(index), channels, generator=generator, dtype=torch.float64)
    return (0.5 * x).to(dtype), index


def parameter_values(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


class Module:
    """Checks of any module; a subclass gives ``build`` and ``run``."""

    reproduces_float32_in_bf16 = True

    def build(self) -> nn.Module:
        raise NotImplementedError

    def run(self, module: nn.Module, dtype: torch.dtype = torch.float32) -> Tensor:
        """The module's output for a fixed batch with empty sets."""
        raise NotImplementedError

    @pytest.fixture
    def module(self, device: str) -> nn.Module:
        torch.manual_seed(0)
        return self.build()

    def test_output_is_finite_and_in_the_dtype_of_the_input(self, module) -> None:
        out = self.run(module)
        assert out.isfinite().all()
        assert out.dtype == torch.float32

    def test_twice_is_the_same(self, module) -> None:
        assert torch.equal(self.run(module), self.run(module))

    def test_every_trained_parameter_gets_a_finite_gradient(self, module) -> None:
        out = self.run(module)
        weights = torch.linspace(-1, 1, out.numel()).view_as(out)
        (weights * out).sum().backward()
        for name, parameter in module.named_parameters():
            if parameter.requires_grad and not self.may_lack_gradient(module, name):
                assert parameter.grad is not None, f"{name} has no gradient"
                assert parameter.grad.isfinite().all(), name
                assert parameter.grad.abs().max() > 0, f"{name} has a zero gradient"

    def may_lack_gradient(self, module: nn.Module, name: str) -> bool:
        return False

    def test_reset_parameters_reinitialises_everything(self, module) -> None:
        before = parameter_values(module)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.fill_(123.0)
        module.reset_parameters()
        for name, value in parameter_values(module).items():
            assert (value != 123.0).all(), f"{name} kept its value"
            assert value.shape == before[name].shape

    def test_deepcopy_gives_the_same_after_use(self, module) -> None:
        out = self.run(module)
        twin = copy.deepcopy(module)
        assert torch.equal(self.run(twin), out)
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.add_(0.5)
        assert torch.equal(self.run(module), out), "the copy shares parameters"

    def test_pickle_gives_the_same_after_use(self, module) -> None:
        out = self.run(module)
        assert torch.equal(self.run(pickle.loads(pickle.dumps(module))), out)

    def test_state_dict_loads_with_weights_only(self, module) -> None:
        out = self.run(module)
        file = io.BytesIO()
        torch.save(module.state_dict(), file)
        file.seek(0)
        torch.manual_seed(1)
        other = self.build()
        other.load_state_dict(torch.load(file, weights_only=True))
        assert torch.equal(self.run(other), out)

    def test_no_grad_keeps_no_graph_and_changes_nothing(self, module) -> None:
        with_graph = self.run(module)
        with torch.no_grad():
            out = self.run(module)
        assert not out.requires_grad
        assert torch.equal(out, with_graph)

    def test_inference_mode_changes_nothing(self, module) -> None:
        with_graph = self.run(module)
        with torch.inference_mode():
            out = self.run(module)
            assert torch.equal(out, with_graph)

    def test_training_goes_on_after_inference_mode(self, module) -> None:
        with torch.inference_mode():
            self.run(module)
        self.run(module).sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())

    def test_double_agrees_with_float32(self, module) -> None:
        single = self.run(module)
        double = self.run(module.double(), torch.float64)
        assert double.dtype == torch.float64
        scale = double.abs().max().clamp(min=1)
        assert (single - double).abs().max() < 1e-3 * scale

    def test_bfloat16_module(self, module) -> None:
        single = self.run(module)
        half = self.run(module.bfloat16(), torch.bfloat16)
        assert half.dtype == torch.bfloat16
        self.check_bf16(half, single)

    def test_bf16_autocast(self, module) -> None:
        single = self.run(module)
        with torch.autocast(single.device.type, dtype=torch.bfloat16):
            half = self.run(module)
        self.check_bf16(half, single)
        half.float().sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())

    def check_bf16(self, half: Tensor, single: Tensor) -> None:
        assert half.isfinite().all()
        if self.reproduces_float32_in_bf16:
            scale = single.abs().max().clamp(min=0.1)
            assert (half.float() - single).abs().max() < BF16 * scale

    def test_train_and_eval_agree_where_steps_do(self, module) -> None:
        assert torch.equal(self.run(module.eval()), self.run(module.train()))


class SetModule(Module):
    """Checks of an aggregation of sets; a subclass gives ``build`` and ``aggregate``."""

    channels = CHANNELS

    def aggregate(
        self, module: nn.Module, x: Tensor, index: Tensor | None, num_sets: int | None = None
    ) -> Tensor:
        """One vector for each set: ``x [N, D], index [N] -> [num_sets, Dy]``."""
        raise NotImplementedError

    def run(self, module: nn.Module, dtype: torch.dtype = torch.float32) -> Tensor:
        x, index = self.batch(dtype)
        return self.aggregate(module, x, index, len(SIZES))

    def batch(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        return batch(dtype, channels=self.channels)

    def test_empty_sets_are_zero(self, module) -> None:
        out = self.run(module)
        for s, size in enumerate(SIZES):
            assert (out[s].abs().max() == 0) == (size == 0), f"set {s} of {size}"

    def test_without_dim_size_trailing_empty_sets_are_dropped(self, module) -> None:
        x, index = self.batch()
        out = self.aggregate(module, x, index)
        assert torch.equal(out, self.run(module)[: int(index.max()) + 1])

    def test_no_element_at_all(self, module) -> None:
        x, index = self.batch()
        empty = x[:0].requires_grad_()
        out = self.aggregate(module, empty, index[:0], 3)
        assert out.shape[0] == 3
        assert out.abs().max() == 0
        out.sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())
        assert self.aggregate(module, x[:0], index[:0]).shape[0] == 0

    def test_one_element(self, module) -> None:
        x, _ = self.batch()
        out = self.aggregate(module, x[:1], torch.zeros(1, dtype=torch.long), 1)
        assert out.isfinite().all()
        assert out.abs().max() > 0

    def test_without_index_all_is_one_set(self, module) -> None:
        x, index = self.batch()
        one = self.aggregate(module, x, torch.zeros_like(index), 1)
        assert torch.equal(self.aggregate(module, x, None), one)

    def test_order_of_elements_does_not_matter(self, module) -> None:
        module = module.double()
        x, index = self.batch(torch.float64)
        order = torch.randperm(len(index), generator=torch.Generator().manual_seed(9))
        assert not torch.equal(index[order], index)
        out = self.aggregate(module, x[order], index[order], len(SIZES))
        self.close(out, self.run(module, torch.float64))

    def test_order_of_sets_is_that_of_the_output(self, module) -> None:
        module = module.double()
        x, index = self.batch(torch.float64)
        order = torch.randperm(len(SIZES), generator=torch.Generator().manual_seed(9))
        out = self.aggregate(module, x, order[index], len(SIZES))
        self.close(out[order], self.run(module, torch.float64))

    def test_multiplicity_counts(self, module) -> None:
        """Unless the potential's minimiser is the same by definition (see ``insensitive``)."""
        x, index = self.batch()
        once = self.aggregate(module, x, torch.zeros_like(index), 1)
        often = self.aggregate(module, x.repeat(4, 1), torch.zeros_like(index).repeat(4), 1)
        assert (often - once).abs().max() > 1e-3

    def test_a_set_does_not_see_its_batch(self, module) -> None:
        """Alone against among 256 others of all sizes, to rounding in float64."""
        module = module.double()
        generator = torch.Generator().manual_seed(4)
        sizes = torch.randint(0, 9, (257,), generator=generator)
        sizes[100] = 7
        index = torch.repeat_interleave(torch.arange(257), sizes)
        index = index[torch.randperm(len(index), generator=generator)]
        x = 0.5 * torch.randn(len(index), self.channels, dtype=torch.float64, generator=generator)
        among = self.aggregate(module, x, index, 257)[100]
        members = x[index == 100]
        alone = self.aggregate(module, members, torch.zeros(7, dtype=torch.long), 1)[0]
        self.close(among, alone)

    def test_the_gradient_of_a_set_does_not_see_its_batch(self, module) -> None:
        module = module.double()
        x, index = self.batch(torch.float64)
        x.requires_grad_()
        out = self.aggregate(module, x, index, len(SIZES))
        weights = torch.linspace(-1, 1, out.shape[1], dtype=torch.float64)
        (grad,) = torch.autograd.grad((weights * out[3]).sum(), x)
        assert grad[index != 3].abs().max() == 0
        members = x.detach()[index == 3].requires_grad_()
        alone = self.aggregate(module, members, torch.zeros(5, dtype=torch.long), 1)
        (grad_alone,) = torch.autograd.grad((weights * alone).sum(), members)
        assert grad_alone.abs().max() > 0
        self.close(grad[index == 3], grad_alone)

    def close(self, got: Tensor, expected: Tensor) -> None:
        scale = float(expected.detach().abs().max().clamp(min=1))
        torch.testing.assert_close(got, expected, rtol=0, atol=ALONE * scale)
