"""SMILES to graphs with OGB's features, as `ogb.utils.mol.smiles2graph` gives them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from ogb.utils.features import atom_to_feature_vector, bond_to_feature_vector
from rdkit import Chem, rdBase
from rdkit.Chem.Scaffolds import MurckoScaffold
from tqdm import tqdm

from experiments.molpcba.data.graphs import PackedGraphs

ORGANIC = frozenset({"C", "N", "O", "F", "P", "S", "Cl", "Br", "I"})
"""Elements whose valence is checked: a wrong one means a wrong SMILES."""
MAX_ATOMS = 5_000
"""Larger molecules are refused: RDKit's time and the network's memory grow without bound."""
MAX_SCAFFOLD = 500
"""Atoms up to which a scaffold is computed; RDKit's time grows with their cube."""
SMILES = re.compile(r"(?=.*[A-Za-z*])[A-Za-z0-9@+\-\[\]()=#$:.%/\\*~<>]+( \|.*\|)?")
"""What a SMILES consists of, and ChemAxon's extension. RDKit ignores what follows a space."""


class Molecule(NamedTuple):
    """OGB's features, and what a split goes by: canonical SMILES and Bemis-Murcko scaffold."""

    x: np.ndarray
    bonds: np.ndarray
    attr: np.ndarray
    canonical: str
    scaffold: str


def parse(smiles: str) -> Chem.Mol:
    """Parses and sanitises a SMILES, or raises a ``ValueError`` with the reason.

    Metal complexes are drawn with valences that RDKit's newer tables refuse and older ones let
    pass (seven molecules of MoleculeNet's HIV, which OGB's set holds). When every complaint is
    about the valence of a metal or metalloid, the molecule is kept.
    """
    if smiles and not SMILES.fullmatch(smiles):
        raise ValueError("not a SMILES")
    with rdBase.BlockLogs():
        if len(smiles) > MAX_ATOMS:  # a SMILES has as many characters as atoms, or more
            _check_size(smiles)
        mol = Chem.MolFromSmiles(smiles)
        if mol is None:
            mol = Chem.MolFromSmiles(smiles, sanitize=False)
            if mol is None:
                raise ValueError("not a SMILES")
            for problem in Chem.DetectChemistryProblems(mol):
                valence = problem.GetType() == "AtomValenceException"
                if not valence or mol.GetAtomWithIdx(problem.GetAtomIdx()).GetSymbol() in ORGANIC:
                    raise ValueError(problem.Message())
            Chem.SanitizeMol(mol, Chem.SANITIZE_ALL ^ Chem.SANITIZE_PROPERTIES)
    if mol.GetNumAtoms() == 0:
        raise ValueError("no atoms")
    return mol


def _check_size(smiles: str) -> None:
    limit = f"more than the limit of {MAX_ATOMS:,} atoms"
    if len(smiles) > 20 * MAX_ATOMS:
        raise ValueError(f"too large: {len(smiles):,} characters, {limit}")
    mol = Chem.MolFromSmiles(smiles, sanitize=False)
    if mol is not None and mol.GetNumAtoms() > MAX_ATOMS:
        raise ValueError(f"too large: {mol.GetNumAtoms():,} atoms, {limit}")


def is_smiles(text: str) -> bool:
    """Whether a cell of a table is a SMILES that can be read."""
    with suppress(ValueError):
        return bool((len(text) > MAX_ATOMS and SMILES.fullmatch(text)) or parse(text))
    return False


def read_molecule(smiles: str, grouped: bool = True) -> Molecule | str:
    """The molecule, or the reason why there is none (runs in a worker).

    A molecule of more than :data:`MAX_SCAFFOLD` atoms is a scaffold of its own.
    """
    try:
        mol = parse(smiles)
        x = [atom_to_feature_vector(atom) for atom in mol.GetAtoms()]
        attr = [bond_to_feature_vector(bond) for bond in mol.GetBonds()]
    except ValueError as error:  # RDKit's complaint, or a bond that OGB's lists lack
        return " ".join(str(error).split())
    bonds = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in mol.GetBonds()]
    canonical = scaffold = Chem.MolToSmiles(mol) if grouped else ""
    if grouped and len(x) <= MAX_SCAFFOLD:
        with suppress(ValueError, RuntimeError):  # a few metal complexes: each is its own group
            scaffold = MurckoScaffold.MurckoScaffoldSmiles(mol=mol, includeChirality=False)
    return Molecule(
        np.array(x, dtype=np.uint8),
        np.array(bonds, dtype=np.int32).reshape(-1, 2),
        np.array(attr, dtype=np.uint8).reshape(-1, 3),
        canonical,
        scaffold,
    )


def read_molecules(
    smiles: Sequence[str], grouped: bool = True
) -> tuple[dict[int, Molecule], dict[int, str]]:
    """Molecules, and reasons for there being none, by their number in `smiles`.

    Only `grouped` ones have a canonical SMILES and a scaffold.
    """
    job = partial(read_molecule, grouped=grouped)
    read = dict(enumerate(run_jobs(job, smiles, "molecules to graphs")))
    molecules = {row: result for row, result in read.items() if isinstance(result, Molecule)}
    return molecules, {row: why for row, why in read.items() if isinstance(why, str)}


def pack(molecules: Sequence[Molecule], y: np.ndarray) -> PackedGraphs:
    """Packs molecules, at least one, with labels `y [len(molecules), tasks]`."""
    x, bonds, attr, _, _ = zip(*molecules, strict=True)
    nodes, counts = list(map(len, x)), list(map(len, bonds))
    joined = np.concatenate(x), np.concatenate(bonds), np.concatenate(attr)
    return PackedGraphs.pack(*joined, y, nodes, counts)


def groups(molecules: Sequence[Molecule]) -> dict[str, torch.Tensor]:
    """A number for each molecule, equal for equal `canonical` SMILES, and `scaffold`."""
    names = ("canonical", "scaffold")
    texts = {name: np.array([getattr(m, name) for m in molecules]) for name in names}
    return {name: torch.from_numpy(pd.factorize(text)[0]) for name, text in texts.items()}


def run_jobs(function: Callable[[str], Any], texts: Sequence[str], title: str) -> Iterator[Any]:
    """Yields `function(text)` for each text, in order; in processes if there are many."""
    many = len(texts) > 2_000  # few are read sooner without starting processes
    workers = Parallel(-1 if many else 1, return_as="generator", batch_size=100)
    results = workers(delayed(function)(text) for text in texts)
    yield from tqdm(results, title, total=len(texts), disable=None if many else True)
