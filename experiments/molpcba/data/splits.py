"""Splits into train, valid and test (80/10/10) that keep groups of molecules together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

PARTS = ("train", "valid", "test")
TRAIN, VALID = 0.8, 0.9
"""Where the train and the valid part end, as shares of all molecules."""


def group_numbers(keys: Sequence[str]) -> np.ndarray:
    """A number for each key, equal for equal keys, in the order of their first appearance."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int32)


def random_split(groups: np.ndarray, seed: int) -> dict[str, Tensor]:
    """Puts whole groups, in an order fixed by `seed`, into train, then valid, then test.

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
    first of train, valid and test in which there is space.

    Args:
        groups: the number of each molecule's Bemis-Murcko scaffold, `[G]`.

    Returns:
        Graph numbers of each part, in the order in which the scaffolds were taken.
    """
    order = np.argsort(groups, kind="stable")
    sets = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    sets.sort(key=lambda members: (len(members), members[0]), reverse=True)
    train_end, valid_end = TRAIN * len(groups), VALID * len(groups)
    parts: tuple[list[np.ndarray], ...] = ([], [], [])
    sizes = [0, 0, 0]
    for members in sets:
        if sizes[0] + len(members) <= train_end:
            part = 0
        elif sizes[0] + sizes[1] + len(members) <= valid_end:
            part = 1
        else:
            part = 2
        parts[part].append(members)
        sizes[part] += len(members)
    empty = np.empty(0, dtype=np.int64)
    return {
        name: torch.from_numpy(np.concatenate([empty, *part]))
        for name, part in zip(PARTS, parts, strict=True)
    }
