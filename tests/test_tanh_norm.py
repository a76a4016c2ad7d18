"""tanh(LayerNorm(u)) by torch's kernels and in C, against plain operations and autograd."""

from __future__ import annotations

import shutil
import sys
import sysconfig
import types

import pytest
import torch
from torch import Tensor

from pyg_ea import EAAggregation
from pyg_ea.potentials import native
from pyg_ea.potentials.native import NativeTanhNorm, gather_add, tanh_norm_for
from pyg_ea.potentials.tanh_norm import FusedTanhNorm, TanhNorm

built = pytest.mark.skipif(native.LIBRARY is None, reason="the C kernels were not built")
CLASSES = [FusedTanhNorm, pytest.param(NativeTanhNorm, marks=built)]
SHAPES = [(0, 4), (1, 1), (3, 5), (70, 16), (200, 33), (7, 300)]
DTYPES = [torch.float64, torch.float32]


@pytest.fixture(params=[1, 3], ids="{}-threads".format)
def _threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def apart(rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """A matrix whose rows lie apart."""
    return torch.randn(rows, columns + 3, dtype=dtype)[:, 1 : columns + 1]


def check_close(got: Tensor, expected: Tensor, terms: float = 1.0) -> None:
    """Equal to rounding, of sums whose terms are that large."""
    double = got.dtype == torch.float64
    scale = max(terms, float(expected.abs().max())) if expected.numel() else 1.0
    atol = (1e-11 if double else 3e-5) * scale
    torch.testing.assert_close(got, expected.to(got.dtype), rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("indexed", [False, True], ids=["tangents", "indexed-tangents"])
@pytest.mark.usefixtures("_threads")
def test_value_and_both_derivatives(cls, shape, dtype, indexed):
    rows, columns = shape
    u, out = apart(*shape, dtype), apart(*shape, dtype)
    gamma, beta = torch.randn(2, columns, dtype=dtype)
    d, e = torch.randn(2, *shape, dtype=dtype)
    tangents = apart(4, columns, dtype) if indexed else apart(*shape, dtype)
    index = torch.randint(4, (rows,)) if indexed else None
    du = tangents if index is None else tangents[index]

    exact = [t.double().detach().clone().requires_grad_() for t in (u, gamma, beta)]
    d64, e64, du64 = d.double(), e.double(), du.double()
    plain = TanhNorm(*exact)
    _, tangent = torch.func.jvp(lambda v: TanhNorm(v, *exact[1:]).output, (exact[0],), (du64,))
    total = (e64 * plain.output).sum() + (d64 * tangent).sum()
    d_u, d_gamma, d_beta = torch.autograd.grad(total, exact)

    fast = cls.at(u, gamma, beta)
    # 1 / sigma is 316 in a row of one value, where all derivatives in u cancel to zero.
    terms = max(1.0, float(plain.inv_std.detach().max())) if rows else 1.0
    check_close(fast.output, plain.output.detach())
    fast.pull(d, out=out)
    check_close(out, plain(d64).detach(), terms)
    check_close(fast.push(tangents, index), tangent.detach(), terms)
    got_gamma, got_beta = fast.pull_both(e.clone(), d, out)
    for one, other in ((out, d_u), (got_gamma, d_gamma), (got_beta, d_beta)):
        check_close(one, other, terms)


@pytest.mark.parametrize("cls", CLASSES)
def test_scratch_changes_no_value(cls):
    u, du, scratch, more = torch.randn(4, 5, 6)
    gamma, beta = torch.randn(2, 6)
    first = cls.at(u, gamma, beta)
    second = cls.at(u, gamma, beta, scratch)
    assert torch.equal(first.output, second.output)
    assert torch.equal(first.push(du), second.push(du, scratch=more))


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_stays_in_its_row_and_is_seen(cls, bad):
    u = torch.randn(3, 40)
    u[1, 7] = bad
    output = cls.at(u, torch.ones(40), torch.zeros(40)).output
    assert output[1].isnan().all()
    assert output[[0, 2]].isfinite().all()


@built
def test_large_arguments_saturate():
    gamma = torch.tensor([1e30, -1e30, 100.0, 1.0])
    output = NativeTanhNorm.at(torch.tensor([[1.0, 1.0, -1.0, -1.0]]), gamma, torch.zeros(4)).output
    torch.testing.assert_close(output[0, :3], torch.tensor([1.0, -1.0, -1.0]))


@pytest.mark.parametrize("library", ["torch", pytest.param("native", marks=built)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("_threads")
def test_gather_add(library, dtype, monkeypatch):
    if library == "torch":
        monkeypatch.setattr(native, "LIBRARY", None)
    rows, other, index = torch.randn(4, 9, dtype=dtype), apart(6, 9, dtype), torch.randint(4, (6,))
    got = gather_add(rows, index, other, out=torch.empty(6, 9, dtype=dtype))
    torch.testing.assert_close(got, rows[index] + other, rtol=0, atol=0)


@built
def test_operands_not_laid_out_as_a_kernel_reads_them_are_refused():
    stage = NativeTanhNorm.at(torch.randn(4, 6), torch.ones(6), torch.zeros(6))
    with pytest.raises(ValueError, match="push: an operand"):
        stage.push(torch.randn(6, 4).T)
    with pytest.raises(ValueError, match="pull: an operand"):
        stage.pull(torch.randn(6, 4).T, out=torch.empty(4, 6))


@built
def test_each_tensor_gets_the_class_that_can_serve_it(monkeypatch):
    assert tanh_norm_for(torch.ones(1)) is NativeTanhNorm
    assert tanh_norm_for(torch.ones(1, dtype=torch.bfloat16)) is FusedTanhNorm
    assert tanh_norm_for(torch.ones(1, device="meta")) is FusedTanhNorm
    monkeypatch.setattr(native, "LIBRARY", None)
    assert tanh_norm_for(torch.ones(1)) is FusedTanhNorm


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
        check_close(one, other)
    assert not all(map(torch.equal, *results)), "the same code ran twice"
