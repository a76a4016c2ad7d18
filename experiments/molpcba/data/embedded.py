"""Real molecules that need no network: RDKit's NCI compounds and its structural alerts.

Molecules: the first 5,000 compounds of the NCI open database, a file of the rdkit package.
Tasks: does the molecule hold this structural alert? The 128 alerts that occur most often, out of
RDKit's curated catalogues (PAINS, BRENK, NIH, ZINC, ChEMBL). The labels are exact; a fixed share
of them is hidden, so that training meets missing labels as it does in MOLPCBA.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rdkit
from rdkit import Chem, RDConfig
from rdkit.Chem.FilterCatalog import FilterCatalog, FilterCatalogEntry, FilterCatalogParams
from tqdm import tqdm

from .errors import DataError
from .layout import CHUNK, UNKNOWN, Record, write_layout
from .molecules import BadSmilesError, parse
from .parallel import ordered_map
from .splits import random_split, write_split
from .store import VERSION, Contents

CATALOGUES = ("PAINS", "BRENK", "NIH", "ZINC", "CHEMBL")
HIDDEN = 0.1
"""Share of the labels that is hidden."""
SEED = 0
"""Fixes which labels are hidden, and the split."""
FEW = 500
"""Up to this many molecules the work is done in this process."""


class _Screened(NamedTuple):
    line: int
    smiles: str
    mol_id: str
    canonical: str
    alerts: list[int]


@dataclass(frozen=True)
class EmbeddedSource:
    """The embedded set.

    Args:
        limit: use the first so many lines only (None: all 4,999, of which 4,991 can be read).
        num_tasks: how many of the commonest alerts become tasks.
    """

    limit: int | None = None
    num_tasks: int = 128
    slug: str = "embedded_nci"

    @property
    def key(self) -> str:
        """The molecules, the alerts (by RDKit's version) and every choice made here."""
        choices = (VERSION, rdkit.__version__, self.limit, self.num_tasks, HIDDEN, SEED)
        return hashlib.sha256(repr(choices).encode() + _nci_file().read_bytes()).hexdigest()

    def write(self, folder: Path, workers: int) -> Contents:
        """Screen the molecules for alerts and write OGB's raw layout with the split `random`."""
        lines = _nci_file().read_text().splitlines()[: self.limit]
        few = len(lines) <= FEW
        molecules = _screen_all(list(enumerate(lines, start=1)), 0 if few else workers)
        counts = Counter(alert for molecule in molecules for alert in molecule.alerts)
        chosen = sorted(counts, key=lambda alert: (-counts[alert], alert))[: self.num_tasks]
        labels = _labels(molecules, chosen)
        records = [
            Record(m.line, m.smiles, m.mol_id, row.tobytes())
            for m, row in zip(molecules, labels, strict=True)
        ]
        chunks = (records[i : i + CHUNK] for i in range(0, len(records), CHUNK))
        written = write_layout(folder, chunks, workers=0, total=len(records))
        canonical = np.array([m.canonical for m in molecules])
        groups = np.unique(canonical, return_inverse=True)[1]
        write_split(folder / "split" / "random", random_split(groups, SEED))
        return Contents(written.num_graphs, _names(chosen))


def _nci_file() -> Path:
    path = Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi"
    if not path.is_file():
        raise DataError(
            f"this rdkit carries no {path}; install rdkit from PyPI, or use --data ogb or --csv"
        )
    return path


def _screen_all(lines: list[tuple[int, str]], workers: int) -> list[_Screened]:
    chunks = [lines[i : i + 50] for i in range(0, len(lines), 50)]
    found: list[_Screened] = []
    with tqdm(total=len(lines), desc="structural alerts", unit="mol") as bar:
        for chunk, screened in zip(chunks, ordered_map(_screen, chunks, workers), strict=True):
            found += screened
            bar.update(len(chunk))
    return found


def _screen(lines: list[tuple[int, str]]) -> list[_Screened]:
    """The alerts of each molecule that can be read (runs in a worker)."""
    screened = []
    for line, text in lines:
        smiles, mol_id = text.split("\t")
        try:
            mol = parse(smiles, strict=True)
        except BadSmilesError:
            continue
        alerts = [i for i, entry in enumerate(_alerts()) if entry.HasFilterMatch(mol)]
        screened.append(_Screened(line, smiles, mol_id, Chem.MolToSmiles(mol), alerts))
    return screened


@functools.cache
def _alerts() -> list[FilterCatalogEntry]:
    """Every alert of every catalogue, in a fixed order."""
    entries = []
    for name in CATALOGUES:
        catalogue = FilterCatalog(getattr(FilterCatalogParams.FilterCatalogs, name))
        entries += [catalogue.GetEntryWithIdx(i) for i in range(catalogue.GetNumEntries())]
    return entries


def _names(chosen: list[int]) -> list[str]:
    """A name for each alert, `catalogue: description`, numbered where it occurs twice."""
    seen: Counter[str] = Counter()
    names = []
    for alert in chosen:
        entry = _alerts()[alert]
        name = f"{entry.GetProp('FilterSet')}: {entry.GetDescription()}"
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return names


def _labels(molecules: list[_Screened], chosen: list[int]) -> np.ndarray:
    """Labels `[molecules, tasks]` as unsigned bytes, a share of them `UNKNOWN`."""
    task = {alert: i for i, alert in enumerate(chosen)}
    labels = np.zeros((len(molecules), len(chosen)), dtype=np.uint8)
    for row, molecule in zip(labels, molecules, strict=True):
        row[[task[alert] for alert in molecule.alerts if alert in task]] = 1
    hidden = np.random.default_rng(SEED).random(labels.shape) < HIDDEN
    labels[hidden] = UNKNOWN
    return labels
