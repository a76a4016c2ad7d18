"""From SMILES to OGB's graph: the same features as `ogb.utils.mol.smiles2graph`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from rdkit import Chem, rdBase

from .ogb_api import (
    atom_to_feature_vector,
    bond_to_feature_vector,
    get_atom_feature_dims,
    get_bond_feature_dims,
)
from .packed import PackedGraphs

NUM_ATOM_FEATURES = len(get_atom_feature_dims())
NUM_BOND_FEATURES = len(get_bond_feature_dims())
ORGANIC = frozenset({"C", "N", "O", "F", "P", "S", "Cl", "Br", "I"})
"""Elements whose valence is checked: a wrong one means a wrong SMILES."""


class BadSmilesError(ValueError):
    """A SMILES that gives no graph; `str(error)` is the reason."""


class Rejected(NamedTuple):
    """A SMILES that was left out."""

    line: int
    smiles: str
    reason: str


class Graph(NamedTuple):
    """One molecule, each bond once: `x [n, 9]`, `bonds [b, 2]`, `bond_attr [b, 3]` as lists."""

    x: list[list[int]]
    bonds: list[tuple[int, int]]
    bond_attr: list[list[int]]


def parse(smiles: str, strict: bool = False) -> Chem.Mol:
    """Parse and sanitise a SMILES.

    Metal complexes are drawn with valences that RDKit's newer tables refuse and older ones let
    pass (seven molecules of MoleculeNet's HIV, which OGB's set holds). When every complaint is
    about the valence of a metal or metalloid, the molecule is kept, unless `strict`.

    Raises:
        BadSmilesError: when there is no molecule to be had, with the reason.
    """
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
        if mol is None:
            mol = _parse_complex(smiles, strict)
    if mol.GetNumAtoms() == 0:
        raise BadSmilesError("no atoms")
    return mol


def _parse_complex(smiles: str, strict: bool) -> Chem.Mol:
    mol = Chem.MolFromSmiles(smiles, sanitize=False)
    if mol is None:
        raise BadSmilesError("not a SMILES")
    problems = Chem.DetectChemistryProblems(mol)
    for problem in problems:
        valence = problem.GetType() == "AtomValenceException"
        if strict or not valence or _symbol(mol, problem) in ORGANIC:
            raise BadSmilesError(problem.Message())
    if not problems:
        raise BadSmilesError("cannot be sanitised")
    try:
        Chem.SanitizeMol(mol, Chem.SANITIZE_ALL ^ Chem.SANITIZE_PROPERTIES)
    except Chem.MolSanitizeException as error:
        raise BadSmilesError(str(error)) from None
    return mol


def _symbol(mol: Chem.Mol, problem: Any) -> str:
    return mol.GetAtomWithIdx(problem.GetAtomIdx()).GetSymbol()


def featurise(mol: Chem.Mol) -> Graph:
    """OGB's atom and bond features of a molecule.

    Raises:
        BadSmilesError: on a bond that OGB's feature lists do not know.
    """
    x = [_atom_vector(atom) for atom in mol.GetAtoms()]
    bonds = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in mol.GetBonds()]
    return Graph(x, bonds, [_bond_vector(bond) for bond in mol.GetBonds()])


_ATOM_VECTORS: dict[tuple, list[int]] = {}
_BOND_VECTORS: dict[tuple, list[int]] = {}


def _atom_vector(atom: Chem.Atom) -> list[int]:
    """OGB's vector; the search through its lists, most of the cost, is done once a kind."""
    kind = (
        atom.GetAtomicNum(),
        atom.GetChiralTag(),
        atom.GetTotalDegree(),
        atom.GetFormalCharge(),
        atom.GetTotalNumHs(),
        atom.GetNumRadicalElectrons(),
        atom.GetHybridization(),
        atom.GetIsAromatic(),
        atom.IsInRing(),
    )
    vector = _ATOM_VECTORS.get(kind)
    if vector is None:
        vector = _ATOM_VECTORS[kind] = atom_to_feature_vector(atom)
    return vector


def _bond_vector(bond: Chem.Bond) -> list[int]:
    kind = (bond.GetBondType(), bond.GetStereo(), bond.GetIsConjugated())
    vector = _BOND_VECTORS.get(kind)
    if vector is None:
        try:
            vector = _BOND_VECTORS[kind] = bond_to_feature_vector(bond)
        except ValueError:
            raise BadSmilesError(f"unknown bond stereo {bond.GetStereo()}") from None
    return vector


def directed(graph: Graph) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Arrays `(x, edge_index, edge_attr)` with each bond in both directions, as OGB orders them."""
    bonds = np.array(graph.bonds, dtype=np.int64).reshape(-1, 2)
    attr = np.array(graph.bond_attr, dtype=np.int64).reshape(-1, NUM_BOND_FEATURES)
    both = np.stack([bonds, bonds[:, ::-1]], axis=1).reshape(-1, 2)
    return np.array(graph.x, dtype=np.int64), both.T, attr.repeat(2, axis=0)


def smiles_to_graphs(
    smiles: Sequence[str], lines: Sequence[int] | None = None
) -> tuple[PackedGraphs, list[Rejected]]:
    """Pack molecules without labels (`y` is `[G, 0]`), for predictions.

    Args:
        smiles: the molecules.
        lines: their line numbers for the report, by default 1, 2, ...

    Returns:
        The graphs of the SMILES that could be read, in order, and those that could not.
    """
    arrays, rejected = [], []
    for line, text in zip(lines or range(1, len(smiles) + 1), smiles, strict=True):
        try:
            arrays.append(directed(featurise(parse(text))))
        except BadSmilesError as error:
            rejected.append(Rejected(line, text, str(error)))
    if not arrays:
        return _no_graphs(), rejected
    y = torch.zeros(len(arrays), 0, dtype=torch.int8)
    return PackedGraphs.from_arrays(arrays, y), rejected


def _no_graphs() -> PackedGraphs:
    byte, pointer = torch.uint8, torch.zeros(1, dtype=torch.long)
    return PackedGraphs(
        x=torch.zeros(0, NUM_ATOM_FEATURES, dtype=byte),
        edge_index=torch.zeros(2, 0, dtype=torch.int16),
        edge_attr=torch.zeros(0, NUM_BOND_FEATURES, dtype=byte),
        y=torch.zeros(0, 0, dtype=torch.int8),
        node_ptr=pointer,
        edge_ptr=pointer,
    )
