"""Splits into train, valid and test (80/10/10) that keep groups of molecules together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

PARTS = ("train", "valid", "test")
TRAIN, VALID = 0.8, 0.9
"""Where the train and the valid part end, as shares of all molecules."""


def random_split(groups: np.ndarray, seed: int) -> dict[str, Tensor]:
    """Put whole groups, in an order fixed by `seed`, into train, then valid, then test.

    Args:
        groups: a group number for each molecule, `[G]`: equal for the same canonical SMILES, so
            that no molecule is in two parts.
        seed: fixes the order.

    Returns:
        Graph numbers of each part, ascending.
    """
    numbers, members = np.unique(groups, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(numbers))
    sizes = np.bincount(members, minlength=len(numbers))
    ends = np.cumsum(sizes[order])
    part_of_rank = np.searchsorted([TRAIN * ends[-1], VALID * ends[-1]], ends, side="left")
    part = np.empty(len(numbers), dtype=np.int64)
    part[order] = part_of_rank
    return {
        name: torch.from_numpy(np.flatnonzero(part[members] == i)) for i, name in enumerate(PARTS)
    }


def scaffold_split(groups: np.ndarray) -> dict[str, Tensor]:
    """DeepChem's and OGB's scaffold split: the largest scaffolds to train, the rarest to test.

    Groups go from the largest to the smallest, of equal ones the later in the file first, to the
    first of train, valid and test in which they find room.

    Args:
        groups: the number of each molecule's Bemis-Murcko scaffold, `[G]`.

    Returns:
        Graph numbers of each part, in the order in which the scaffolds were taken.
    """
    order = np.argsort(groups, kind="stable")
    sets = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    sets.sort(key=lambda members: (len(members), members[0]), reverse=True)
    train_room, valid_room = TRAIN * len(groups), VALID * len(groups)
    parts: tuple[list[np.ndarray], ...] = ([], [], [])
    taken = [0, 0, 0]
    for members in sets:
        if taken[0] + len(members) <= train_room:
            part = 0
        elif taken[0] + taken[1] + len(members) <= valid_room:
            part = 1
        else:
            part = 2
        parts[part].append(members)
        taken[part] += len(members)
    empty = np.empty(0, dtype=np.int64)
    return {
        name: torch.from_numpy(np.concatenate([empty, *part]))
        for name, part in zip(PARTS, parts, strict=True)
    }


def write_split(folder: Path, split: dict[str, Tensor]) -> None:
    """Write a split where OGB's raw layout has it: `folder/{train,valid,test}.csv.gz`."""
    folder.mkdir(parents=True)
    for name, index in split.items():
        frame = pd.DataFrame(index.numpy())
        compression = {"method": "gzip", "mtime": 0}
        frame.to_csv(folder / f"{name}.csv.gz", header=False, index=False, compression=compression)
