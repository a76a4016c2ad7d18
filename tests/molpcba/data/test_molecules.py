"""Graphs equal OGB's `smiles2graph`; what has no graph is refused with a reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem, RDConfig, rdBase

from experiments.molpcba.data import Rejected, smiles_to_graphs
from experiments.molpcba.data.molecules import BadSmilesError, directed, featurise, parse
from experiments.molpcba.data.ogb_api import smiles2graph

from .conftest import SMILES

COMPLEX = "O=C1O[Al]23(OC1=O)(OC(=O)C(=O)O2)OC(=O)C(=O)O3"
"""From MoleculeNet's HIV: aluminium with six bonds, which RDKit's newer tables refuse."""


def nci(number: int) -> list[str]:
    lines = (Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi").read_text().splitlines()
    with rdBase.BlockLogs():
        return [s for s in (line.split()[0] for line in lines[:number]) if Chem.MolFromSmiles(s)]


def test_features_equal_ogb():
    for smiles in [*SMILES, *nci(300)]:
        x, edge_index, edge_attr = directed(featurise(parse(smiles)))
        theirs = smiles2graph(smiles)
        assert np.array_equal(x, theirs["node_feat"]), smiles
        assert np.array_equal(edge_index, theirs["edge_index"]), smiles
        assert np.array_equal(edge_attr, theirs["edge_feat"]), smiles


@pytest.mark.parametrize(
    ("smiles", "reason"),
    [
        ("", "no atoms"),
        ("hello", "not a SMILES"),
        ("C1CC", "not a SMILES"),
        ("C(C)(C)(C)(C)C", "Explicit valence"),
        ("c1ccc1c", "kekulize|aromatic"),
        ("CCO1=O=C1C", "Explicit valence"),
    ],
)
def test_bad_smiles(smiles, reason):
    with pytest.raises(BadSmilesError, match=reason):
        parse(smiles)


def test_metal_complexes_are_kept():
    assert parse(COMPLEX).GetNumAtoms() == 19
    with pytest.raises(BadSmilesError, match="valence"):
        parse(COMPLEX, strict=True)


def test_smiles_to_graphs_reports_what_it_leaves_out():
    graphs, rejected = smiles_to_graphs(["CCO", "", "[Na+]", "xx"], lines=[2, 3, 4, 7])
    assert rejected == [Rejected(3, "", "no atoms"), Rejected(7, "xx", "not a SMILES")]
    assert graphs.node_ptr.tolist() == [0, 3, 4]
    assert graphs.edge_ptr.tolist() == [0, 4, 4]
    assert graphs.y.shape == (2, 0)


def test_smiles_to_graphs_of_nothing():
    graphs, rejected = smiles_to_graphs(["xx"])
    assert len(graphs) == 0
    assert [r.line for r in rejected] == [1]
