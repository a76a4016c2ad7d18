"""Splits into train, valid and test that keep groups together, or that are read from files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from experiments.common import UserError
from experiments.molpcba.data.columns import reading

PARTS = ("train", "valid", "test")
TRAIN, VALID = 0.8, 0.9
"""Where the train and the valid part end, as shares of all molecules."""


def random_split(groups: np.ndarray, seed: int) -> dict[str, Tensor]:
    """Puts whole groups, in an order fixed by `seed`, into train, then valid, then test.

    `groups [G]` is equal for molecules with the same canonical SMILES, so that none is in two
    parts. Returns the graph numbers of each part, ascending.
    """
    numbers, members = np.unique(groups, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(numbers))
    ends = np.cumsum(np.bincount(members)[order])
    part = np.empty(len(numbers), dtype=np.int64)
    part[order] = np.searchsorted([TRAIN * ends[-1], VALID * ends[-1]], ends, side="left")
    found = [np.flatnonzero(part[members] == i) for i in range(len(PARTS))]
    return dict(zip(PARTS, map(torch.from_numpy, found), strict=True))


def scaffold_split(groups: np.ndarray) -> dict[str, Tensor]:
    """DeepChem's and OGB's scaffold split: the largest scaffolds to train, the rarest to test.

    Groups of the same Bemis-Murcko scaffold (`groups [G]`) go from the largest to the smallest, of
    equal ones the later in the file first, to the first part in which there is space.
    """
    sets = pd.Series(groups).groupby(groups).indices.values()
    ends = TRAIN * len(groups), VALID * len(groups)
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    for members in sorted(sets, key=lambda own: (len(own), own[0]), reverse=True):
        train, both = len(parts[0]) + len(members), len(parts[0]) + len(parts[1]) + len(members)
        parts[0 if train <= ends[0] else 1 if both <= ends[1] else 2].extend(members.tolist())
    return {name: torch.tensor(p, dtype=torch.long) for name, p in zip(PARTS, parts, strict=True)}


def read_split(folder: Path, rows: np.ndarray) -> dict[str, Tensor]:
    """A split as OGB writes it: the row numbers of each part, from 0, one a line.

    `folder` has `train.csv`, `valid.csv` and `test.csv`, each with `.gz` or not; `rows` has the
    molecule of each row, -1 for rows that gave none, which are left out.
    """
    splits = {}
    for part in PARTS:
        path = folder / f"{part}.csv"
        path = path if path.exists() else path.with_name(f"{part}.csv.gz")
        with reading(path) as file:
            (numbers,) = pd.read_csv(file, header=None, dtype=np.int64).to_numpy().T
        for number in numbers[(numbers < 0) | (numbers >= len(rows))]:
            raise UserError(f"{path} has row {number}; rows have numbers from 0 to {len(rows) - 1}")
        index = rows[numbers]
        splits[part] = torch.from_numpy(index[index >= 0]).long()
    whole = torch.cat(list(splits.values()))
    if len(whole.unique()) < len(whole):
        raise UserError(f"the split in {folder} has a row more than once; get it again")
    return splits
