"""SMILES to graphs: OGB's features, as `ogb.utils.mol.smiles2graph` gives them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from joblib import Parallel, delayed
from joblib.externals.loky.process_executor import TerminatedWorkerError
from rdkit import Chem, rdBase
from rdkit.Chem.Scaffolds import MurckoScaffold
from tqdm import tqdm

from experiments.common import UserError
from experiments.molpcba.data.graphs import Arrays, PackedGraphs, concatenate
from experiments.molpcba.data.ogb import atom_to_feature_vector, bond_to_feature_vector

ORGANIC = frozenset({"C", "N", "O", "F", "P", "S", "Cl", "Br", "I"})
"""Elements whose valence is checked: a wrong one means a wrong SMILES."""
CHUNK = 500
"""Molecules that a worker takes at a time; up to four chunks the work stays in this process."""


class BadSmilesError(ValueError):
    """A SMILES that gives no graph; `str(error)` is the reason."""


class Packed(NamedTuple):
    """Molecules packed from SMILES.

    Args:
        graphs: those that could be read, in order, with their labels.
        rows: number of each graph's SMILES in the input.
        canonical: canonical SMILES of each graph: equal for equal molecules.
        scaffolds: Bemis-Murcko scaffold of each graph.
        rejected: row and reason of each SMILES that could not be read.
    """

    graphs: PackedGraphs | None
    rows: list[int]
    canonical: list[str]
    scaffolds: list[str]
    rejected: dict[int, str]


def parse(smiles: str, strict: bool = False) -> Chem.Mol:
    """Parses and sanitises a SMILES.

    Metal complexes are drawn with valences that RDKit's newer tables refuse and older ones let
    pass (seven molecules of MoleculeNet's HIV, which OGB's set holds). When every complaint is
    about the valence of a metal or metalloid, the molecule is kept, unless `strict`.

    Raises:
        BadSmilesError: when there is no molecule, with the reason.
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


_VECTORS: dict[tuple, list[int]] = {}


def featurise(mol: Chem.Mol) -> Arrays:
    """OGB's features of a molecule, each bond in both directions.

    Raises:
        BadSmilesError: on a bond that OGB's feature lists do not contain.
    """
    x = np.array([_atom_vector(atom) for atom in mol.GetAtoms()], dtype=np.uint8)
    bonds = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in mol.GetBonds()]
    index = np.array(bonds, dtype=np.int32).reshape(-1, 2)
    attr = [_bond_vector(bond) for bond in mol.GetBonds()]
    both = np.stack([index, index[:, ::-1]], axis=1).reshape(-1, 2)
    return x, both.T, np.array(attr, dtype=np.uint8).reshape(-1, 3).repeat(2, axis=0)


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
    if kind not in _VECTORS:
        _VECTORS[kind] = atom_to_feature_vector(atom)
    return _VECTORS[kind]


def _bond_vector(bond: Chem.Bond) -> list[int]:
    kind = (bond.GetBondType(), bond.GetStereo(), bond.GetIsConjugated())
    if kind not in _VECTORS:
        try:
            _VECTORS[kind] = bond_to_feature_vector(bond)
        except ValueError:
            raise BadSmilesError(f"unknown bond stereo {bond.GetStereo()}") from None
    return _VECTORS[kind]


def scaffold(mol: Chem.Mol) -> str:
    """Bemis-Murcko scaffold without chirality, as DeepChem and OGB take it.

    RDKit refuses the scaffolds of a few metal complexes: such a molecule is its own group.
    """
    try:
        return MurckoScaffold.MurckoScaffoldSmiles(mol=mol, includeChirality=False)
    except (ValueError, RuntimeError):
        return Chem.MolToSmiles(mol)


def _pack_chunk(start: int, smiles: Sequence[str], y: np.ndarray) -> Packed:
    """Packs one chunk, whose first SMILES has number `start` (runs in a worker)."""
    arrays, rows, canonical, scaffolds, rejected = [], [], [], [], {}
    for row, text in enumerate(smiles, start):
        try:
            mol = parse(text)
            arrays.append(featurise(mol))
        except BadSmilesError as error:
            rejected[row] = str(error)
            continue
        rows.append(row)
        canonical.append(Chem.MolToSmiles(mol))
        scaffolds.append(scaffold(mol))
    kept = torch.from_numpy(y[[row - start for row in rows]])
    graphs = PackedGraphs.pack(arrays, kept) if arrays else None
    return Packed(graphs, rows, canonical, scaffolds, rejected)


def pack_smiles(smiles: Sequence[str], y: np.ndarray, workers: int = 1) -> Packed:
    """Packs molecules with labels `y [len(smiles), tasks]`, in `workers` processes.

    Raises:
        UserError: when a worker dies.
    """
    starts = range(0, len(smiles), CHUNK)
    jobs = [(start, smiles[start : start + CHUNK], y[start : start + CHUNK]) for start in starts]
    parts = list(run_jobs(_pack_chunk, jobs, workers, "molecules to graphs"))
    packed = [part.graphs for part in parts if part.graphs is not None]
    return Packed(
        concatenate(packed) if packed else None,
        [row for part in parts for row in part.rows],
        [text for part in parts for text in part.canonical],
        [text for part in parts for text in part.scaffolds],
        {row: reason for part in parts for row, reason in part.rejected.items()},
    )


def run_jobs(
    function: Callable[..., Any], jobs: Sequence[Sequence[Any]], workers: int, title: str
) -> Iterable[Any]:
    """Yields `function(*job)` for each job, in order, worked out in processes if there are many.

    Raises:
        UserError: when a worker dies, most often because the machine is out of memory.
    """
    count = workers if len(jobs) > 4 else 1
    results = Parallel(count, return_as="generator")(delayed(function)(*job) for job in jobs)
    bar = tqdm(
        results, title, total=len(jobs), unit="chunk", disable=len(jobs) < 2, file=sys.stderr
    )
    try:
        yield from bar
    except TerminatedWorkerError as error:
        raise UserError(
            "a worker process died, most often for lack of memory: free some memory, and run the "
            "same command again"
        ) from error


def default_workers() -> int:
    """Number of processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
