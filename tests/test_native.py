"""The C code: when it is loaded, and what it refuses. Its results: ``test_fused.py``."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pyg_ea import EAAggregation
from pyg_ea.fused import native
from pyg_ea.fused.native import NativeBackend
from pyg_ea.fused.problem import Inputs, Problem, Settings
from pyg_ea.segments import Segments

built = pytest.mark.skipif(native.LIBRARY is None, reason="the C code was not built")
SETTINGS = Settings(steps=2, gtol=0.0, clip=None, last=2)


def problem() -> Problem:
    """3 segments of 2 elements, D = 4, H = 2."""
    shapes = [(3, 4), (), (), (), (6, 38), (38, 4), (34, 4), (32, 2), (4,), (4,), (2,), (2,)]
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.rand(shape, generator=generator) for shape in shapes]
    segments = Segments.from_ptr(torch.tensor([0, 2, 4, 6]), 6)
    return Problem(Inputs.unflatten(tensors), torch.rand(3, generator=generator), segments)


def changed(name: str, change: Callable[[Tensor], Tensor]) -> Problem:
    """The problem with one of its tensors changed."""
    whole = problem()
    inputs, weights = whole.inputs, whole.inputs.weights
    if name == "scale":
        return whole._replace(scale=change(whole.scale))
    if name in weights._fields:
        new = inputs._replace(weights=weights._replace(**{name: change(getattr(weights, name))}))
    else:
        new = inputs._replace(**{name: change(getattr(inputs, name))})
    return whole._replace(inputs=new)


@built
@pytest.mark.parametrize("name", ["fixed", "scale", "start", "a_y", "b", "w3", "gamma1", "beta2"])
def test_operands_of_another_shape_are_refused(name) -> None:
    bad = changed(name, lambda tensor: tensor[..., :-1])
    with pytest.raises(ValueError, match="needs a contiguous CPU tensor"):
        NativeBackend().forward(bad, SETTINGS, save=True)


@built
@pytest.mark.parametrize("name", ["fixed", "b", "start"])
def test_operands_of_another_dtype_are_refused(name) -> None:
    bad = changed(name, Tensor.double)
    with pytest.raises(ValueError, match=r"needs a contiguous CPU tensor|not enough"):
        NativeBackend().forward(bad, SETTINGS, save=True)


@built
@pytest.mark.parametrize(
    "ptr", [[0, 2, 4, 7], [0, 2, 4, 5], [1, 2, 4, 6], [0, 5, 4, 6], [0, -4, 4, 6], [0, 2**40, 4, 6]]
)
def test_boundaries_out_of_range_are_an_error(ptr) -> None:
    whole = problem()
    wrong = dataclasses.replace(whole.segments, ptr=torch.tensor(ptr))
    for save in (False, True):
        with pytest.raises(ValueError, match="boundaries of segments"):
            NativeBackend().forward(whole._replace(segments=wrong), SETTINGS, save=save)


@built
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("hidden", 0),
        ("channels", 2**40),
        ("threads", 0),
        ("elements", -1),
        ("segments", -1),
        ("saved_steps", 3),
        ("interval", 3),
    ],
)
def test_the_c_code_itself_refuses_sizes_out_of_range(field, value) -> None:
    call = native._Call(problem(), SETTINGS)
    setattr(call.problem, field, value)
    with pytest.raises(ValueError, match="out of range"):
        call("solve_forward", native._Result(), None)


@built
def test_memory_that_is_not_there_is_an_error() -> None:
    call = native._Call(problem(), SETTINGS)
    call.problem.hidden = call.problem.channels = 2**20
    call.problem.threads = 2**20
    with pytest.raises((MemoryError, ValueError)):
        call("solve_backward", native._Cotangent(), native._Gradient(), torch.empty(0))


def test_structures_have_the_size_of_those_in_c() -> None:
    assert ctypes.sizeof(native._Problem) == 8 * len(native._Problem._fields_)


@pytest.mark.skipif(
    sys.platform != "linux" or shutil.which(os.environ.get("CC", "cc")) is None,
    reason="no C compiler to build it with",
)
def test_it_is_built_where_there_is_a_compiler() -> None:
    assert native.LIBRARY is not None or os.environ.get(native.SWITCH) == "0"


@pytest.fixture
def file(monkeypatch, tmp_path) -> Path:
    """Where the library is looked for: not there yet."""
    monkeypatch.delenv(native.SWITCH, raising=False)
    monkeypatch.setattr(native, "FILE", tmp_path / "other")
    return native.FILE


def test_a_library_of_another_version_is_not_used(monkeypatch, file) -> None:
    file.touch()
    monkeypatch.setattr(
        native.ctypes, "CDLL", lambda _: types.SimpleNamespace(version=lambda: native.VERSION - 1)
    )
    with pytest.warns(UserWarning, match="other does not fit .*install pyg_ea again"):
        assert native._load() is None


def test_neither_is_one_that_is_missing_cannot_be_loaded_or_is_switched_off(
    monkeypatch, file
) -> None:
    assert native._load() is None
    file.write_text("nothing")
    with pytest.warns(UserWarning, match="other"):
        assert native._load() is None
    monkeypatch.setenv(native.SWITCH, "0")
    assert native._load() is None


@built
def test_where_blas_is_out_of_sight_the_layer_runs_without_it(monkeypatch) -> None:
    whole = problem()
    assert NativeBackend().unsupported(whole) is None
    on_meta = Inputs.unflatten(tensor.to("meta") for tensor in whole.inputs.flatten())
    assert "for a CPU" in NativeBackend().unsupported(whole._replace(inputs=on_meta))
    monkeypatch.setitem(native.PRODUCTS, torch.float32, 0)
    assert "no BLAS library" in NativeBackend().unsupported(whole)
    assert EAAggregation(3, 3, steps=2)(torch.randn(4, 3)).isfinite().all()
