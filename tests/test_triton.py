"""The Triton backend without a GPU: its formulas, its kernels interpreted, and compiled."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

import pyg_ea.fused.triton
from pyg_ea import EAAggregation, solve_backend
from pyg_ea.energy import NoPrior
from pyg_ea.fused.triton import TritonBackend, plain, steps, work
from tests.test_fused import ADJOINTS, EXACT, LAYOUTS, RULES, check_close, run

if torch.cuda.is_available():
    pytest.skip("test_gpu.py runs the kernels themselves", allow_module_level=True)

VERSION = version("triton") if importlib.util.find_spec("triton") else ""
needs_triton = pytest.mark.skipif(not VERSION, reason="Triton is not installed")
needs_interpreter = pytest.mark.skipif(
    VERSION.startswith(("3.4.", "3.5.", "3.6.")), reason="its interpreter fails with NumPy 2.4"
)
ROOT = Path(__file__).parents[1]
MATRIX = {"_stage2", "_stage3"}  # kernels with products


def nan(like, *shape):
    """Scratch that shows if it is read before it is written."""
    return torch.full(shape, float("nan"), dtype=like.dtype)


@pytest.fixture
def _plain(monkeypatch):
    """Its kernels are the plain functions, for every dtype, and its scratch is NaN."""
    for module in (work, steps):
        monkeypatch.setattr(module, "scratch", nan)
    monkeypatch.setattr(TritonBackend, "unsupported", lambda self, problem: None)
    monkeypatch.setattr(pyg_ea.fused.triton, "_kernels", lambda: plain)


@pytest.mark.usefixtures("_plain")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("adjoint", "rule"), list(itertools.product(ADJOINTS, RULES)), ids=lambda v: str(v)
)
def test_the_split_step_equals_plain_pytorch(layout, adjoint, rule) -> None:
    for prior in (None, NoPrior()):
        got = run("triton", layout, adjoint, rule, prior)
        check_close(got, run("plain", layout, adjoint, rule, prior), EXACT)


@needs_triton
@needs_interpreter
def test_interpreted_kernels() -> None:
    """Triton decides at its import whether it interprets kernels: hence a process of its own."""
    words = [sys.executable, "-m", "pytest", "-q", "-n", "0", "--no-cov", "--durations=0"]
    process = subprocess.run(
        [*words, "tests/interpreted_triton.py"],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout[-5_000:]


@needs_triton
@pytest.mark.parametrize(
    ("architecture", "channels", "precision"), [(90, 300, "bf16"), (80, 100, "float32")]
)
def test_kernels_compile_without_spills(tmp_path, architecture, channels, precision) -> None:
    words = [str(architecture), str(channels), precision]
    process = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-m", "tests.compile_triton", *words],
        cwd=ROOT,
        env={**os.environ, "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(process.stdout)
    assert len(found["kernels"]) == 11
    for kernel in found["kernels"]:
        assert kernel["stack"] <= 64, kernel
        assert kernel["shared"] <= 64 * 1024, kernel
        assert (kernel["matrix instructions"] > 0) == (kernel["name"] in MATRIX), kernel
    if precision == "float32":
        assert found["launches"] == 21


@pytest.mark.parametrize(
    ("dtype", "reason"), [(torch.float32, "on a CUDA device"), (torch.float64, "is torch.float64")]
)
@needs_triton
def test_it_says_what_it_does_not_support(dtype, reason) -> None:
    layer = EAAggregation(4, 4).to(dtype)
    with solve_backend("triton"), pytest.raises(RuntimeError, match=reason):
        layer(torch.randn(5, 4, dtype=dtype))


def test_it_says_that_triton_is_missing(monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with solve_backend("triton"), pytest.raises(RuntimeError, match="Triton is not installed"):
        EAAggregation(4, 4)(torch.randn(5, 4))
