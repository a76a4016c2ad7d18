"""A readout of the user's own, by name."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from experiments.common import UserError
from experiments.molpcba.config import Config, resolve
from experiments.molpcba.model import build_readout
from experiments.molpcba.predict import main as predict
from experiments.molpcba.readouts import PARTS

SOURCE = """
import torch
from torch_geometric.nn.aggr import Aggregation

class Moments(Aggregation):
    def __init__(self, channels):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(channels))

    def forward(self, x, index=None, ptr=None, dim_size=None, dim=-2):
        means = [self.reduce(v, index, ptr, dim_size, dim, "mean") for v in (x, x * x, x ** 3)]
        return torch.cat(means, dim=-1) * self.scale.repeat(3)

class Nodes(Moments):
    def forward(self, x, index=None, ptr=None, dim_size=None, dim=-2):
        return x

class Two(Moments):
    def __init__(self, channels, other):
        super().__init__(channels)

def function(channels):
    raise SystemExit("called")
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "mypackage"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "module.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in ("mypackage", "mypackage.module"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", PARTS)
def test_the_size_of_every_readout_is_found(name):
    config = resolve(Config(readout=name, ea_width=24), "embedded-nci")
    before = torch.get_rng_state()
    layer = build_readout(config, 16, torch.tensor([3, 4]))
    sizes = {"ea": 24, "pyg-ea": 24, "deepsets": 24, "set2set": 32, "pna": 192}
    assert layer.out_channels == sizes.get(name, 16)
    if name in ("sum", "mean", "max"):
        assert torch.equal(torch.get_rng_state(), before)
    assert layer.training


def test_a_class_of_ones_own_trains_and_predicts(package, command, tmp_path):
    assert command("--readout", "mypackage.module:Moments+mean", "--epochs", "2") == 0
    run = tmp_path / "runs" / "run"
    results = json.loads((run / "results.json").read_text())
    assert results["config"]["readout"] == "mypackage.module:Moments+mean"
    (tmp_path / "a.smi").write_text("CCO\n")
    files = ["--smiles", str(tmp_path / "a.smi"), "--out", str(tmp_path / "o.csv")]
    assert predict(["--checkpoint", str(run / "checkpoints" / "best.ckpt"), *files]) == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nopackage.module:Name", "No module named 'nopackage'"),
        ("mypackage.module:Other", "no attribute 'Other'; expected package.module:N"),
        ("mypackage.module:function", "expected .* a class derived from PyG's Aggregation"),
        ("mypackage.module:Two", "missing a required argument: .*built with one argument"),
        ("mypackage.module:Nodes", r"expected a result \[graphs, channels\]"),
    ],
)
def test_what_is_no_readout_is_one_line(package, name, message):
    with pytest.raises(UserError, match=message):
        build_readout(resolve(Config(readout=name), "embedded-nci"), 16, None)
