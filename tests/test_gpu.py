"""What only a GPU can show: nothing waits, few kernels, CUDA graphs, precision, Triton kernels."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch_geometric.data import Batch

from benchmarks.gin import ATOM_KINDS, GIN, TASKS, molecules
from benchmarks.gpu.measuring import PRECISIONS, precision
from pyg_ea import (
    EAAggregation,
    EAConv,
    EAGlobalPool,
    auxiliary_loss,
    collect_solutions,
    solve_backend,
)
from tests import test_fused
from tests.conftest import Made

if not torch.cuda.is_available():
    pytest.skip("no GPU", allow_module_level=True)

pytestmark = pytest.mark.cuda
DEVICE = torch.device("cuda")
CHANNELS = 32
SIZES = [(260, 10), (131, 7), (400, 9)]  # N, S
LAUNCHES = 30  # kernels of an inner step, 21 and those that a library adds to its products
ERRORS = {"float32": 1e-5, "tf32": 2e-3, "bf16": 1e-2}
"""Of the output at 15 steps, relative to its largest entry: 24, 11 and 8 bits in products."""


backends = pytest.mark.parametrize("backend", ["torch", "triton"])


class Convolution(nn.Module):
    """Local aggregation and readout by EA."""

    def __init__(self) -> None:
        super().__init__()
        self.atoms = nn.Embedding(ATOM_KINDS, CHANNELS)
        self.conv = EAConv(CHANNELS, CHANNELS)
        self.pool = EAGlobalPool(CHANNELS, CHANNELS, steps=3)
        self.head = nn.Linear(CHANNELS, TASKS)

    def forward(self, batch: Batch) -> Tensor:
        x = self.conv(self.atoms(batch.x), batch.edge_index)
        return self.head(self.pool(x, batch.batch, size=batch.num_graphs))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "gin": lambda: GIN(CHANNELS, EAAggregation(CHANNELS, CHANNELS, steps=4), 2, dropout=0.0),
    "convolution": Convolution,
}


def training(model: nn.Module, batch: Batch) -> Callable[[], None]:
    """A whole training step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with collect_solutions() as solutions:
            out = model(batch)
        loss = F.binary_cross_entropy_with_logits(out.float(), batch.y)
        (loss + auxiliary_loss(solutions)).backward()
        optimizer.step()

    return step


def make(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name]().to(DEVICE)


@backends
@pytest.mark.parametrize("name", PRECISIONS)
@pytest.mark.parametrize("model", MODELS)
def test_training_and_evaluation_do_not_wait(model, name, backend) -> None:
    module, batch = make(model), molecules(8).to(DEVICE)
    step = training(module, batch)

    def train_and_evaluate() -> None:
        step()
        module.eval()
        with torch.no_grad():
            module(batch)
        module.train()

    with precision(name, DEVICE), solve_backend(backend):
        train_and_evaluate()  # compiles
        torch.cuda.set_sync_debug_mode("error")
        try:
            train_and_evaluate()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@backends
@pytest.mark.parametrize("model", MODELS)
def test_a_training_step_in_a_cuda_graph(model, backend) -> None:
    with solve_backend(backend):
        check_graph(model)


def check_graph(model: str) -> None:
    module, batch = make(model), molecules(8).to(DEVICE)
    twin = copy.deepcopy(module)
    step, side = training(module, batch), torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    for _ in range(3):
        graph.replay()
    step = training(twin, batch)
    for _ in range(6):
        step()
    expected = twin.state_dict()
    for key, value in module.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=1e-3, atol=1e-4, msg=key)


def test_tests_have_the_numbers_of_a_cpu_on_a_gpu() -> None:
    def numbers() -> list[Tensor]:
        torch.manual_seed(0)
        layer = nn.Linear(3, 2)
        return [*layer.parameters(), torch.randn(3), torch.randn_like(layer.weight)]

    expected = numbers()
    with Made("cuda"):
        made = numbers()
    for one, other in zip(made, expected, strict=True):
        assert one.is_cuda
        assert torch.equal(one.cpu(), other)


def run(backend: str, x: Tensor, index: Tensor, segments: int) -> list[Tensor]:
    torch.manual_seed(0)
    layer = EAAggregation(CHANNELS, CHANNELS, steps=5).to(x)
    with solve_backend(backend):
        y, solution = layer(x, index, dim_size=segments, return_solution=True)
        loss = y.square().sum() + auxiliary_loss(solution)
        return [y.detach(), *torch.autograd.grad(loss, [x, *layer.parameters()])]


def batch(elements: int, segments: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, int]:
    generator = torch.Generator().manual_seed(elements)
    x = torch.randn(elements, CHANNELS, dtype=dtype, generator=generator)
    index = torch.randint(segments, (elements,), generator=generator)
    return x.to(DEVICE).requires_grad_(), index.to(DEVICE), segments


@pytest.mark.parametrize("layout", test_fused.LAYOUTS)
@pytest.mark.parametrize("adjoint", test_fused.ADJOINTS, ids=str)
@pytest.mark.parametrize("rule", test_fused.RULES)
def test_the_triton_backend_equals_plain_pytorch(layout, adjoint, rule) -> None:
    with Made("cuda"):
        got = test_fused.run("triton", layout, adjoint, rule, dtype=torch.float32)
        expected = test_fused.run("plain", layout, adjoint, rule)
    test_fused.check_close(got, expected, test_fused.SINGLE)


@pytest.mark.parametrize(("elements", "segments"), SIZES)
@pytest.mark.parametrize("name", PRECISIONS)
def test_the_triton_backend_gives_the_same_bits_each_time(elements, segments, name) -> None:
    inputs = batch(elements, segments, torch.float32)
    with precision(name, DEVICE):
        results = [run("triton", *inputs) for _ in range(3)]
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


@backends
@pytest.mark.parametrize("name", PRECISIONS)
def test_error_of_the_output(backend, name) -> None:
    torch.manual_seed(0)
    layer = EAAggregation(64, 64).to(DEVICE)
    x, index = torch.randn(260, 64, device=DEVICE), torch.arange(260, device=DEVICE) // 26
    with torch.no_grad():
        with precision(name, DEVICE), solve_backend(backend):
            y = layer(x, index, dim_size=10)
        expected = copy.deepcopy(layer).double()(x.double(), index, dim_size=10)
    assert y.dtype == torch.float32
    assert (y - expected).abs().max() < ERRORS[name] * expected.abs().max()


def test_an_inner_step_of_the_triton_backend_launches_few_kernels() -> None:
    def kernels(steps: int) -> int:
        layer = EAAggregation(CHANNELS, CHANNELS, steps=steps).to(DEVICE)
        x, index, segments = batch(260, 10, torch.float32)
        activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA]
        with solve_backend("triton"):
            layer(x, index, dim_size=segments).sum().backward()  # compiles
            with profile(activities=activities) as profiler:
                layer(x, index, dim_size=segments).sum().backward()
                torch.cuda.synchronize()
        kind = torch.autograd.DeviceType.CUDA
        return sum(event.device_type == kind for event in profiler.events())

    assert (kernels(6) - kernels(2)) / 4 <= LAUNCHES
