"""Splits keep groups whole, cover every molecule once, and follow OGB's rule."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rdkit import Chem

from experiments.molpcba.data.groups import canonical, scaffold
from experiments.molpcba.data.molecules import parse
from experiments.molpcba.data.splits import random_split, scaffold_split, write_split
from experiments.molpcba.data.stock import read_split


def sizes(split):
    return [len(split[name]) for name in ("train", "valid", "test")]


def assert_partition(split, groups):
    rows = torch.cat(list(split.values()))
    assert sorted(rows.tolist()) == list(range(len(groups)))
    parts = [set(groups[index.numpy()]) for index in split.values()]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_random_split(seed):
    groups = np.random.default_rng(5).integers(0, 600, 1_000)
    split = random_split(groups, seed)
    assert_partition(split, groups)
    assert sizes(split) == pytest.approx([800, 100, 100], abs=6)
    assert sizes(random_split(np.arange(1_000), seed)) == [800, 100, 100]


def test_random_split_depends_on_its_seed_alone():
    groups = np.arange(50)
    again = [random_split(groups, seed)["test"].tolist() for seed in (0, 0, 1)]
    assert again[0] == again[1] != again[2]


def deepchem_scaffold_split(groups):
    """DeepChem's rule, written as DeepChem has it."""
    scaffolds: dict[int, list[int]] = {}
    for i, group in enumerate(groups):
        scaffolds.setdefault(group, []).append(i)
    ordered = sorted(scaffolds.values(), key=lambda s: (len(s), s[0]), reverse=True)
    train_cutoff, valid_cutoff = 0.8 * len(groups), 0.9 * len(groups)
    train, valid, test = [], [], []
    for members in ordered:
        if len(train) + len(members) > train_cutoff:
            if len(train) + len(valid) + len(members) > valid_cutoff:
                test += members
            else:
                valid += members
        else:
            train += members
    return train, valid, test


@pytest.mark.parametrize("seed", range(5))
def test_scaffold_split_is_deepchems(seed):
    groups = np.random.default_rng(seed).zipf(1.6, 300)
    split = scaffold_split(groups)
    assert tuple(split[name].tolist() for name in ("train", "valid", "test")) == (
        deepchem_scaffold_split(groups)
    )
    assert_partition(split, groups)


def test_scaffold_split_by_hand():
    #                  0  1  2  3  4  5  6  7  8  9
    groups = np.array([1, 1, 1, 1, 1, 2, 2, 2, 3, 4])
    split = scaffold_split(groups)
    assert {name: index.tolist() for name, index in split.items()} == {
        "train": [0, 1, 2, 3, 4, 5, 6, 7],
        "valid": [9],  # of equal groups the later one comes first
        "test": [8],
    }


@pytest.mark.parametrize(
    ("smiles", "expected"),
    [
        ("CCO", ""),
        ("Cc1ccccc1", "c1ccccc1"),
        ("C[C@H]1CCCC[C@@H]1c1ccccc1", "c1ccc(C2CCCCC2)cc1"),
        ("O=C1CCCN1", "O=C1CCCN1"),
    ],
)
def test_scaffolds(smiles, expected):
    assert scaffold(parse(smiles)) == expected


def test_canonical_smiles_join_equal_molecules():
    assert canonical(parse("OCC")) == canonical(parse("C(O)C")) == Chem.CanonSmiles("CCO")


def test_a_written_split_reads_back(tmp_path):
    split = random_split(np.arange(30), 0)
    write_split(tmp_path / "split" / "random", split)
    again = read_split(tmp_path, "random")
    assert all(torch.equal(split[name], again[name]) for name in split)
    assert {index.dtype for index in again.values()} == {torch.long}
