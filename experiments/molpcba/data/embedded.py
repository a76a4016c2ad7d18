"""Real molecules that need no network: RDKit's NCI compounds and its structural alerts.

Molecules: the first 5,000 compounds of the NCI open database, a file of the rdkit package.
Tasks: does the molecule contain this structural alert? The 128 alerts that occur most often, out of
RDKit's curated catalogues (PAINS, BRENK, NIH, ZINC, ChEMBL). The labels are exact; a fixed share
of them is hidden, so that training meets missing labels as it does in MOLPCBA.
"""

from __future__ import annotations

import functools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rdkit import Chem, RDConfig, rdBase
from rdkit.Chem.FilterCatalog import FilterCatalog, FilterCatalogEntry, FilterCatalogParams

from experiments.molpcba.data.graphs import MISSING
from experiments.molpcba.data.molecules import groups, pack, read_molecules, run_jobs
from experiments.molpcba.data.splits import random_split

CATALOGUES = ("PAINS", "BRENK", "NIH", "ZINC", "CHEMBL")
HIDDEN = 0.1
"""Share of the labels that is hidden."""
SEED = 0
"""Fixes which labels are hidden, and the split."""
ABOUT = "NCI compounds of the rdkit package, 128 structural alerts as tasks, 10% of labels hidden"


def read_nci() -> list[str]:
    """The SMILES: 4,999, of which 4,991 can be read."""
    path = Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi"
    return [line.split("\t")[0] for line in path.read_text().splitlines()]


def prepare_embedded(smiles: list[str], num_tasks: int = 128) -> dict[str, Any]:
    """Screens the molecules for alerts; graphs, tasks, metric and a split of its own."""
    screened = list(run_jobs(_screen, smiles, "structural alerts"))
    kept = [row for row, alerts in enumerate(screened) if alerts is not None]
    counts = Counter(alert for row in kept for alert in screened[row])
    chosen = sorted(counts, key=lambda alert: (-counts[alert], alert))[:num_tasks]
    labels = np.array([np.isin(chosen, screened[row]) for row in kept], dtype=np.int8)
    labels[np.random.default_rng(SEED).random(labels.shape) < HIDDEN] = MISSING
    entries = [_alerts()[alert] for alert in chosen]
    names = pd.Series([f"{e.GetProp('FilterSet')}: {e.GetDescription()}" for e in entries])
    numbers = names.groupby(names).cumcount() + 1  # a name may occur more than once
    found, _ = read_molecules([smiles[row] for row in kept])
    molecules = list(found.values())
    equal = np.unique(np.array([m.canonical for m in molecules]), return_inverse=True)[1]
    return {
        "tensors": vars(pack(molecules, labels[list(found)])),
        "task_names": [n if i == 1 else f"{n} ({i})" for n, i in zip(names, numbers, strict=True)],
        "metric": "ap",
        "splits": random_split(equal, SEED),
        "split": "random",
        **groups(molecules),
    }


def _screen(smiles: str) -> list[int] | None:
    """The alerts in a molecule, if it can be read (runs in a worker)."""
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
    if mol is None:
        return None
    return [i for i, entry in enumerate(_alerts()) if entry.HasFilterMatch(mol)]


@functools.cache
def _alerts() -> list[FilterCatalogEntry]:
    """Every alert of every catalogue, in a fixed order."""
    entries = []
    for name in CATALOGUES:
        catalogue = FilterCatalog(getattr(FilterCatalogParams.FilterCatalogs, name))
        entries += [catalogue.GetEntryWithIdx(i) for i in range(catalogue.GetNumEntries())]
    return entries
