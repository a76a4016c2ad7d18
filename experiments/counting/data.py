"""Sets of images of digits, drawn on the fly, labelled with their number of distinct classes.

The images are the 1,797 of scikit-learn, 8 x 8 pixels. They lie in blocks in which the order of the
classes repeats, most likely one for each writer. The parts are whole blocks: 8 for training, 2 for
validation, 4 for the test.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import Generator, Tensor

CLASSES = 10
PIXELS = 64
PARTS = {"train": slice(1029), "valid": slice(1029, 1287), "test": slice(1287, None)}


class Images(NamedTuple):
    """Images ordered by class."""

    pixels: Tensor
    """``[N, 64]``, values in [0, 1]."""
    first: Tensor
    """``[10]``, the place of each class's first image."""
    number: Tensor
    """``[10]``, the number of images of each class."""


class Sets(NamedTuple):
    """Sets of images."""

    elements: Tensor
    """``[N, 64]``"""
    members: Tensor
    """``[N]``, the set of each image."""
    labels: Tensor
    """``[S]``, the number of distinct classes."""


def load(part: str) -> Images:
    """The images of ``"train"``, ``"valid"`` or ``"test"``."""
    digits = load_digits()
    pixels = torch.from_numpy(digits.data[PARTS[part]]).float() / 16
    classes = torch.from_numpy(digits.target[PARTS[part]])
    count = classes.bincount(minlength=CLASSES)
    return Images(pixels[classes.argsort(stable=True)], count.cumsum(0) - count, count)


def sample_sets(
    images: Images,
    num_sets: int,
    generator: Generator,
    sizes: tuple[int, int] = (6, 20),
    outliers: float = 0.0,
) -> Sets:
    """Draws sets. Size and number of classes are uniform; each chosen class occurs at least once.

    Args:
        images: to draw from, with replacement.
        num_sets: number of sets.
        generator: source of all randomness.
        sizes: smallest and largest number of images in a set.
        outliers: number of outliers added to a set, as a share of its images, rounded up. An
            outlier is an image with its 64 pixels in random order; it does not count.
    """
    low, high = sizes
    size = torch.randint(low, high + 1, (num_sets,), generator=generator)
    labels = 1 + (_uniform(generator, num_sets) * size.clamp(max=CLASSES)).long()
    added = torch.ceil(outliers * size).long()
    length = int((size + added).max())
    place = torch.arange(length)
    chosen = _uniform(generator, num_sets, CLASSES).argsort(dim=1)  # a set's classes come first
    again = (_uniform(generator, num_sets, length) * labels[:, None]).long()
    classes = chosen.gather(1, torch.where(place < labels[:, None], place, again))  # [S, length]
    which = (_uniform(generator, num_sets, length) * images.number[classes]).long()
    elements = images.pixels[images.first[classes] + which]  # [S, length, 64]
    used = place < (size + added)[:, None]
    is_outlier = used & (place >= size[:, None])
    order = _uniform(generator, int(is_outlier.sum()), PIXELS).argsort(dim=1)
    elements[is_outlier] = elements[is_outlier].gather(1, order)
    members = torch.arange(num_sets)[:, None].expand(-1, length)
    return Sets(elements[used], members[used], labels)


def _uniform(generator: Generator, *shape: int) -> Tensor:
    return torch.rand(shape, generator=generator)
