"""What `load` accepts, and what it calls things."""

from __future__ import annotations

import pytest
import torch

from experiments.molpcba.data import DataError, load
from experiments.molpcba.data.ogb_api import Evaluator

from .conftest import SMILES, write_csv


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": "molpcba"}, "data is 'molpcba'; it has to be one of auto, ogb, embedded"),
        ({"data": "ogb", "csv": "x.csv"}, "exclude each other"),
        ({"split": "stratified"}, "split is 'stratified'; it has to be one of"),
        ({"split_seed": -1}, "seed is -1"),
        ({"workers": 0}, "workers is 0"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    with pytest.raises(DataError, match=message):
        load(root=tmp_path, **arguments)


def test_ogb_split_needs_ogbs_set(tiny_csv, tmp_path):
    with pytest.raises(DataError, match="tiny has no split of OGB's; use split random or scaffold"):
        load(csv=tiny_csv, root=tmp_path, split="ogb")


def test_split_and_name_choose_the_set(tiny, tiny_csv):
    root = tiny.smiles.path.parents[2]
    random = load(csv=tiny_csv, root=root, split="random", name="mine")
    assert random.name == "mine"
    assert random.fingerprint == tiny.fingerprint
    other = load(csv=tiny_csv, root=root, split="random", split_seed=1)
    assert other.split == "random"
    assert other.fingerprint != tiny.fingerprint


def test_scaffold_split(tmp_path):
    scaffolds = ["c1ccccc1", "c1ccncc1", "C1CCCCC1", "c1ccoc1", "C1CCNC1"]
    rows = [
        [f"{'C' * n}{s}", "1"]
        for s, number in zip(scaffolds, (9, 7, 2, 1, 1), strict=True)
        for n in range(1, number + 1)
    ]
    path = write_csv(tmp_path / "set.csv", ["smiles", "t"], rows)
    data = load(csv=path, root=tmp_path, split="scaffold")
    assert data.split == "scaffold"
    assert {name: part.tolist() for name, part in data.splits.items()} == {
        "train": list(range(16)),
        "valid": [16, 17],
        "test": [19, 18],
    }


def test_a_split_with_an_empty_part(tiny_csv, tiny):
    with pytest.raises(DataError, match="split scaffold of the 24 molecules of tiny leaves test"):
        load(csv=tiny_csv, root=tiny.smiles.path.parents[2], split="scaffold")


@pytest.mark.parametrize("seed", range(4))
def test_equal_molecules_stay_together(tiny, tiny_csv, seed):
    data = load(csv=tiny_csv, root=tiny.smiles.path.parents[2], split_seed=seed)
    twins = [SMILES.index("CCO"), SMILES.index("OCC")]
    assert any(set(twins) <= set(part.tolist()) for part in data.splits.values())
    assert sorted(torch.cat(list(data.splits.values())).tolist()) == list(range(len(SMILES)))


def test_evaluator_is_ogbs():
    y = torch.tensor([[1.0], [0.0], [1.0]])
    result = Evaluator("ogbg-molhiv").eval({"y_true": y, "y_pred": y})
    assert result == {"rocauc": 1.0}
