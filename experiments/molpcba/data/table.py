"""Tables of molecules: a CSV file with a column of SMILES and columns of labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from experiments.common import UserError
from experiments.molpcba.config import Config
from experiments.molpcba.data.columns import SPACE, Columns, read_columns, some
from experiments.molpcba.data.graphs import stored_labels
from experiments.molpcba.data.labels import read_labels
from experiments.molpcba.data.molecules import groups, pack, read_molecules

SHOWN = 10
"""Rejected rows that are listed."""


def prepare_table(path: Path, config: Config) -> dict[str, Any]:
    """Graphs, tasks, metric and groups of equal molecules and scaffolds."""
    table = read_columns(path, config.smiles_column, [SPACE])
    table = table._replace(rows=[row for row in table.rows if any(map(str.strip, row[1]))])
    _check(path, table)
    notes = [f"{path.name}: {table.about}; --smiles-column chooses another"]
    labels = read_labels(path, table, config, notes)
    smiles = [row[table.smiles].strip() for _, row in table.rows]
    lines = np.array([line for line, _ in table.rows])
    del table  # its cells take more memory than the molecules
    found, rejected = read_molecules(smiles)
    reasons = [f"line {lines[row]}: {smiles[row][:60]!r}: {why}" for row, why in rejected.items()]
    if not found:
        raise UserError("; ".join([f"{path} has no SMILES that can be read", *reasons[:1]]))
    if rejected:
        notes.append(f"{len(rejected):,} rows left out:")
        notes += reasons[:SHOWN]
        notes += [f"... and {len(rejected) - SHOWN:,} more"] if len(rejected) > SHOWN else []
    molecules, rows = list(found.values()), np.array(list(found))
    y, lines, grouped = labels.y[rows], lines[rows], groups(molecules)
    notes += _contradictions(y, lines, grouped["canonical"].numpy())
    kind = "regression" if labels.is_real else "classification"
    notes.append(f"{len(labels.tasks)} tasks ({kind}): {some(labels.tasks)}")
    stored, units = stored_labels(y, labels.is_real)
    return {
        "tensors": vars(pack(molecules, stored)),
        "units": units,
        "task_names": labels.tasks,
        "metric": "rmse" if labels.is_real else "rocauc" if len(labels.tasks) == 1 else "ap",
        **grouped,
        "rows": torch.from_numpy(rows),
        "notes": notes,
    }


def _check(path: Path, table: Columns) -> None:
    """Refuses what only a file of SMILES may have: broken quotes, rows of other lengths."""
    if table.fault:
        raise UserError(f"{path} is not a well-formed table: {table.fault}")
    names = table.names
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{path} has the column {name!r} more than once")
    for line, row in table.rows:
        if len(row) != len(names):
            raise UserError(
                f"{path} is not a well-formed table: line {line} has {len(row)} fields, "
                f"{'the header' if table.has_header else 'the first row'} {len(names)}"
            )


def _contradictions(y: np.ndarray, lines: np.ndarray, canonical: np.ndarray) -> list[str]:
    """A note where equal molecules have different labels."""
    repeated = pd.Series(canonical).duplicated(keep=False).to_numpy()
    equal = pd.DataFrame(y[repeated]).groupby(canonical[repeated])
    contradicting = (equal.max() > equal.min()).any(axis=1).loc[lambda differ: differ].index
    if not len(contradicting):
        return []
    where = " and ".join(map(str, lines[canonical == contradicting[0]][:2]))
    return [
        f"{len(contradicting)} molecules occur more than once with contradicting labels (lines "
        f"{where}, for example); all rows are kept"
    ]
