"""Where the passes in C serve, and that they change nothing but the time."""

from __future__ import annotations

import shutil
import sys
import sysconfig
import types

import pytest
import torch
from pyg_ea.potentials.native_passes import NativePasses, passes_for
from pyg_ea.potentials.resnet_passes import FromSegments, Passes, Weights

from pyg_ea import EAAggregation, native

built = pytest.mark.skipif(native.LIBRARY is None, reason="the C kernels were not built")


@built
def test_elements_get_the_passes_that_can_serve_them(monkeypatch):
    assert passes_for(torch.ones(1)) is NativePasses
    assert passes_for(torch.ones(1, dtype=torch.bfloat16)) is Passes
    assert passes_for(torch.ones(1, device="meta")) is Passes
    monkeypatch.delitem(native.PRODUCTS, torch.float32)  # as where BLAS is out of sight
    assert passes_for(torch.ones(1)) is Passes


@built
def test_operands_not_laid_out_as_a_kernel_reads_them_are_refused():
    shapes = [(38, 4), (34, 4), (32, 2), (4,), (4,), (2,), (2,)]
    weights = Weights(*map(torch.ones, shapes))
    from_y = FromSegments.of(torch.ones(3, 4), weights)
    fixed, index = torch.ones(38, 5).T, torch.zeros(5, dtype=torch.long)
    with pytest.raises(ValueError, match="forth: an operand"):
        NativePasses.forth(from_y, fixed, index, weights, None)


@pytest.mark.skipif(
    sys.platform != "linux" or shutil.which(sysconfig.get_config_var("CC").split()[0]) is None,
    reason="no C compiler to build them with",
)
def test_the_kernels_are_built_where_there_is_a_compiler():
    assert native.LIBRARY is not None or native.os.environ.get(native.SWITCH) == "0"


def test_a_library_of_another_version_is_not_used(monkeypatch):
    spec = types.SimpleNamespace(origin="old.so")
    monkeypatch.delenv(native.SWITCH, raising=False)
    monkeypatch.setattr(native.importlib.util, "find_spec", lambda _: spec)
    monkeypatch.setattr(
        native.ctypes, "CDLL", lambda _: types.SimpleNamespace(version=lambda: native.VERSION - 1)
    )
    with pytest.warns(UserWarning, match="old.so does not fit .*install pyg_ea again"):
        assert native._load() is None


def test_neither_is_one_that_cannot_be_loaded_or_is_not_wanted(monkeypatch, tmp_path):
    (tmp_path / "broken.so").write_text("nothing")
    spec = types.SimpleNamespace(origin=str(tmp_path / "broken.so"))
    monkeypatch.delenv(native.SWITCH, raising=False)
    monkeypatch.setattr(native.importlib.util, "find_spec", lambda _: spec)
    with pytest.warns(UserWarning, match="broken.so"):
        assert native._load() is None
    monkeypatch.setenv(native.SWITCH, "0")
    assert native._load() is None
    monkeypatch.delenv(native.SWITCH)
    monkeypatch.setattr(native.importlib.util, "find_spec", lambda _: None)
    assert native._load() is None


@built
def test_the_layer_is_the_same_with_and_without(monkeypatch):
    torch.manual_seed(0)
    layer = EAAggregation(8, 8, steps=4).double()
    x = torch.randn(30, 8, dtype=torch.float64, requires_grad=True)
    index = torch.randint(6, (30,))
    results = []
    for library in (native.LIBRARY, None):
        monkeypatch.setattr(native, "LIBRARY", library)
        y = layer(x, index, dim_size=6)
        gradients = torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])
        results.append([y.detach(), *gradients])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    assert not all(map(torch.equal, *results)), "the same code ran twice"
