"""Which molecules belong together: by canonical SMILES, or by Bemis-Murcko scaffold."""

from __future__ import annotations

import functools
import hashlib
import io
import os
from collections.abc import Callable, Sequence

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem.Scaffolds import MurckoScaffold
from tqdm import tqdm

from .molecules import parse
from .parallel import ordered_map
from .store import Store, locked, writing

CHUNK = 1_000
"""Molecules that a worker takes at a time."""
FEW = 2_000
"""Up to this many molecules the work is done in this process."""


def canonical(mol: Chem.Mol) -> str:
    """Canonical SMILES: equal for equal molecules."""
    return Chem.MolToSmiles(mol)


def scaffold(mol: Chem.Mol) -> str:
    """Bemis-Murcko scaffold without chirality, as DeepChem and OGB take it.

    RDKit refuses the scaffolds of a few metal complexes: such a molecule is its own group.
    """
    try:
        return MurckoScaffold.MurckoScaffoldSmiles(mol=mol, includeChirality=False)
    except (ValueError, RuntimeError):
        return canonical(mol)


KEYS: dict[str, Callable[[Chem.Mol], str]] = {"canonical": canonical, "scaffold": scaffold}


def molecule_groups(store: Store, smiles: Sequence[str], kind: str, workers: int) -> np.ndarray:
    """A group number for each molecule, `[G]` int32, kept in the store once worked out.

    Args:
        store: the prepared set, where the result is kept.
        smiles: its molecules.
        kind: a key of `KEYS`.
        workers: processes.

    Raises:
        DataError: when the result cannot be written.
    """
    kept = _kept(store, kind)
    if kept is not None:
        return kept
    with writing(store.path.parent), locked(store.path.parent / f".{store.path.name}.lock"):
        kept = _kept(store, kind)
        if kept is None:
            kept = _work_out(smiles, kind, workers)
            _keep(store, kind, kept)
    return kept


def _work_out(smiles: Sequence[str], kind: str, workers: int) -> np.ndarray:
    chunks = [smiles[i : i + CHUNK] for i in range(0, len(smiles), CHUNK)]
    keys = ordered_map(
        functools.partial(_chunk_keys, kind), chunks, 0 if len(smiles) <= FEW else workers
    )
    numbers: dict[str, int] = {}
    groups: list[int] = []
    with tqdm(total=len(smiles), desc=f"{kind} groups", unit="mol") as bar:
        for chunk in keys:
            groups += [numbers.setdefault(key, len(numbers)) for key in chunk]
            bar.update(len(chunk))
    return np.array(groups, dtype=np.int32)


def _chunk_keys(kind: str, smiles: Sequence[str]) -> list[str]:
    with rdBase.BlockLogs():
        return [KEYS[kind](parse(text)) for text in smiles]


def _kept(store: Store, kind: str) -> np.ndarray | None:
    """The kept groups; a file whose content is not what its name says does not count."""
    for path in store.path.glob(f"groups-{kind}-*.npy"):
        data = path.read_bytes()
        if path.stem.rpartition("-")[2] == _digest(data):
            return np.load(io.BytesIO(data))
    return None


def _keep(store: Store, kind: str, groups: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, groups)
    data = buffer.getvalue()
    temporary = store.path / f"groups-{kind}.tmp"
    temporary.write_bytes(data)
    os.replace(temporary, store.path / f"groups-{kind}-{_digest(data)}.npy")


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
