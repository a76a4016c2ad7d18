"""Small prepared sets that the data tests share."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from experiments.molpcba.data import MoleculeData, load
from experiments.molpcba.data.embedded import EmbeddedSource
from experiments.molpcba.data.store import Store, prepare

SMILES = [
    "CCO",
    "c1ccccc1",
    "[Na+]",
    "CC(=O)O",
    "C#N",
    "CCN(CC)CC",
    "c1ccncc1",
    "O=C(O)c1ccccc1",
    "C",
    "Cl/C=C/Cl",
    "CC(C)C[C@H](N)C(=O)O",
    "[Na+].[Cl-]",
    "c1ccc2ccccc2c1",
    "CS(=O)(=O)N",
    "FC(F)(F)c1ccccc1",
    "OCC",
    "C1CCCCC1",
    "N#Cc1ccccc1",
    "CCCCCCCC",
    "O=C1CCCN1",
    "Brc1ccccc1",
    "CC=O",
    "CNC",
    "COC",
]
"""Single atoms, a salt, stereo, aromatics; `OCC` is `CCO` again."""


def write_csv(path: Path, header: list[str], rows: list[list[str]]) -> Path:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture(scope="session")
def tiny_csv(tmp_path_factory) -> Path:
    """24 molecules, three tasks with every pattern of 0, 1 and empty."""
    values = ["0", "1", ""]
    rows = [
        [values[i % 3], values[i // 3 % 3], values[i // 9 % 3], f"m{i}", smiles]
        for i, smiles in enumerate(SMILES)
    ]
    path = tmp_path_factory.mktemp("csv") / "tiny.csv"
    return write_csv(path, ["a", "b", "c", "mol_id", "smiles"], rows)


@pytest.fixture(scope="session")
def tiny(tiny_csv, tmp_path_factory) -> MoleculeData:
    """`tiny_csv`, loaded with a random split."""
    return load(csv=tiny_csv, root=tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def small_embedded(tmp_path_factory) -> Store:
    """The first 400 lines of the embedded set, 16 tasks."""
    source = EmbeddedSource(limit=400, num_tasks=16)
    return prepare(source, tmp_path_factory.mktemp("embedded"), workers=1)
