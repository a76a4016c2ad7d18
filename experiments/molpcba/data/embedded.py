"""Real molecules that need no network: RDKit's NCI compounds and its structural alerts.

Molecules: the first 5,000 compounds of the NCI open database, a file of the rdkit package.
Tasks: does the molecule contain this structural alert? The 128 alerts that occur most often, out of
RDKit's curated catalogues (PAINS, BRENK, NIH, ZINC, ChEMBL). The labels are exact; a fixed share
of them is hidden, so that training meets missing labels as it does in MOLPCBA.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rdkit import RDConfig
from rdkit.Chem.FilterCatalog import FilterCatalog, FilterCatalogEntry, FilterCatalogParams

from experiments.common import UserError
from experiments.molpcba.data.graphs import MISSING
from experiments.molpcba.data.molecules import BadSmilesError, pack_smiles, parse, run_jobs
from experiments.molpcba.data.splits import group_numbers, random_split

CATALOGUES = ("PAINS", "BRENK", "NIH", "ZINC", "CHEMBL")
HIDDEN = 0.1
"""Share of the labels that is hidden."""
SEED = 0
"""Fixes which labels are hidden, and the split."""


@dataclass(frozen=True)
class EmbeddedSource:
    """The embedded set.

    Args:
        reason: why this set was taken, for the user.
        limit: use the first so many lines only (None: all 4,999, of which 4,991 can be read).
        num_tasks: how many of the commonest alerts become tasks.
    """

    reason: str = "as asked"
    limit: int | None = None
    num_tasks: int = 128
    name: str = "embedded-nci"
    slug: str = "embedded_nci"

    @property
    def description(self) -> str:
        """Which data, for the user."""
        return (
            f"embedded set, NOT ogbg-molpcba ({self.reason}): NCI compounds of the rdkit package, "
            f"{self.num_tasks} structural alerts as tasks, {HIDDEN:.0%} of the labels hidden"
        )

    def key(self) -> str:
        """The molecules and every choice made here."""
        choices = (self.limit, self.num_tasks, HIDDEN, SEED)
        return hashlib.sha256(repr(choices).encode() + _nci_file().read_bytes()).hexdigest()

    def prepare(self, workers: int) -> dict[str, Any]:
        """Screens the molecules for alerts; graphs, tasks, metric and a split of its own."""
        lines = _nci_file().read_text().splitlines()[: self.limit]
        chunks = [(lines[i : i + 50],) for i in range(0, len(lines), 50)]
        screened = [
            m for part in run_jobs(_screen, chunks, workers, "structural alerts") for m in part
        ]
        counts = Counter(alert for _, alerts in screened for alert in alerts)
        chosen = sorted(counts, key=lambda alert: (-counts[alert], alert))[: self.num_tasks]
        labels = _labels([alerts for _, alerts in screened], chosen)
        packed = pack_smiles([smiles for smiles, _ in screened], labels, workers)
        assert packed.graphs is not None
        own_groups = np.unique(np.array(packed.canonical), return_inverse=True)[1]
        return {
            "graphs": packed.graphs,
            "task_names": _names(chosen),
            "metric": "ap",
            "splits": random_split(own_groups, SEED),
            "split": "random",
            "canonical": torch.from_numpy(group_numbers(packed.canonical)),
            "scaffold": torch.from_numpy(group_numbers(packed.scaffolds)),
        }


def _nci_file() -> Path:
    path = Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi"
    if not path.is_file():
        raise UserError(
            f"this rdkit has no {path}; install rdkit from PyPI, or use --data ogb or --csv"
        )
    return path


def _screen(lines: list[str]) -> list[tuple[str, list[int]]]:
    """SMILES and alerts of each molecule that can be read (runs in a worker)."""
    screened = []
    for text in lines:
        smiles = text.split("\t")[0]
        try:
            mol = parse(smiles, strict=True)
        except BadSmilesError:
            continue
        screened.append((smiles, [i for i, e in enumerate(_alerts()) if e.HasFilterMatch(mol)]))
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


def _labels(alerts: list[list[int]], chosen: list[int]) -> np.ndarray:
    """Labels `[molecules, tasks]`, a share of them `MISSING`."""
    task = {alert: i for i, alert in enumerate(chosen)}
    labels = np.zeros((len(alerts), len(chosen)), dtype=np.int8)
    for row, own in zip(labels, alerts, strict=True):
        row[[task[alert] for alert in own if alert in task]] = 1
    hidden = np.random.default_rng(SEED).random(labels.shape) < HIDDEN
    labels[hidden] = MISSING
    return labels
