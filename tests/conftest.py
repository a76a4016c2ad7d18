"""What all tests share: threads, and the devices that tests of the library run on."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors
from torch.utils._pytree import tree_map_only

from pyg_ea import solve_backend

# Tests run in several processes: more threads in each only wait for one another.
torch.set_num_threads(1)
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
# Two runs of a test on a GPU give the same bits only with a fixed workspace.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


RANDOM = ("uniform_", "normal_", "rand_like", "randn_like")
"""How names end of functions that draw from the generator of a tensor's device."""


class Made(TorchFunctionMode):
    """Puts every new tensor on a device, with the values that it has on a CPU, random or not."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(self, function, types, args=(), kwargs=None) -> Any:
        kwargs = kwargs or {}
        if getattr(function, "__name__", "").endswith(RANDOM):
            on_cpu = tree_map_only(Tensor, lambda tensor: tensor.detach().cpu(), (args, kwargs))
            values = function(*on_cpu[0], **on_cpu[1])
            if not function.__name__.endswith("_"):
                return values.to(self.device)
            with torch.no_grad():
                return (args[0] if args else kwargs["tensor"]).copy_(values)
        made = function(*args, **kwargs)
        if function not in _device_constructors() or kwargs.get("device") is not None:
            return made
        if not isinstance(made, Tensor):
            return made
        return made.detach().to(self.device).requires_grad_(made.requires_grad)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests that ask for ``device`` run on the GPU as well where there is one."""
    if "device" in metafunc.fixturenames and torch.cuda.is_available():
        cuda = pytest.param("cuda", marks=pytest.mark.cuda)
        metafunc.parametrize("device", ["cpu", cuda], indirect=True)


@pytest.fixture
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The device of all tensors that the test makes, constants of its module included.

    On a GPU sums have a fixed order, so that results can be compared bit by bit.
    """
    name = getattr(request, "param", "cpu")
    if name == "cpu":
        yield name
        return
    case = getattr(request.node, "callspec", None)
    if request.node.get_closest_marker("cpu") or (case and case.params.get("backend") == "native"):
        pytest.skip("for a CPU only")
    for constant, value in list(vars(request.module).items()):
        if isinstance(value, Tensor):
            monkeypatch.setattr(request.module, constant, value.to(name))
    torch.use_deterministic_algorithms(True, warn_only=True)
    with Made(name), solve_backend("torch"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have a deterministic implementation")
        yield name
    torch.use_deterministic_algorithms(False)
