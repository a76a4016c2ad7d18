"""Class counting: the number of distinct classes in a set of digits, EA against other aggregators.

``python -m experiments.counting``: see ``--help``. Sets of images are drawn on the fly. The images
are the 1,797 of scikit-learn, 8 x 8 pixels. They lie in blocks in which the order of the classes
repeats, most likely one for each writer. The parts are whole blocks: 8 for training, 2 for
validation, 4 for the test.
"""

from __future__ import annotations

import sys
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import Generator, Tensor
from torch.nn import functional as F

from experiments.sets.aggregators import AGGREGATORS
from experiments.sets.study import TEST_BATCH, TEST_SEED, Task, study_command
from experiments.sets.training import SetModel, Sets, predict

CLASSES = 10
PIXELS = 64
PARTS = {"train": slice(1029), "valid": slice(1029, 1287), "test": slice(1287, None)}
TESTS: dict[str, dict[str, Any]] = {
    "": {},
    "larger_": {"sizes": (30, 60)},
    "outliers_": {"outliers": 0.25},
}
"""Test sets by the prefix of their scores; sets of training have 6 to 20 images."""


class Images(NamedTuple):
    """Images ordered by class."""

    pixels: Tensor  # [N, 64], values in [0, 1]
    first: Tensor  # [10], the place of each class's first image
    number: Tensor  # [10], the number of images of each class


@cache
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
    (low, high), uniform = sizes, partial(torch.rand, generator=generator)
    size = torch.randint(low, high + 1, (num_sets,), generator=generator)
    labels = 1 + (uniform(num_sets) * size.clamp(max=CLASSES)).long()
    added = torch.ceil(outliers * size).long()
    length = int((size + added).max())
    place = torch.arange(length)
    chosen = uniform(num_sets, CLASSES).argsort(dim=1)  # a set's classes come first
    again = (uniform(num_sets, length) * labels[:, None]).long()
    classes = chosen.gather(1, torch.where(place < labels[:, None], place, again))  # [S, length]
    which = (uniform(num_sets, length) * images.number[classes]).long()
    elements = images.pixels[images.first[classes] + which]  # [S, length, 64]
    used = place < (size + added)[:, None]
    is_outlier = used & (place >= size[:, None])
    order = uniform(int(is_outlier.sum()), PIXELS).argsort(dim=1)
    elements[is_outlier] = elements[is_outlier].gather(1, order)
    members = torch.arange(num_sets)[:, None].expand(-1, length)
    return Sets(elements[used], members[used], labels)


# ---- the task: outputs become rates of Poisson distributions by softplus


def loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """Negative log likelihood of the counts."""
    return F.poisson_nll_loss(F.softplus(outputs), labels, log_input=False)


def evaluate(model: SetModel, num_sets: int, tuning: bool) -> dict[str, float]:
    """Of each test: share of sets whose rounded rate is the count, and the rate's mean absolute
    error. Of validation images when a learning rate is chosen.
    """
    images, scores = load("valid" if tuning else "test"), {}
    sizes = [min(TEST_BATCH, num_sets - start) for start in range(0, num_sets, TEST_BATCH)]
    for name, settings in ({"": {}} if tuning else TESTS).items():
        generator = Generator().manual_seed(TEST_SEED)
        parts = (sample_sets(images, size, generator, **settings) for size in sizes)
        rates, labels = predict(model, parts, F.softplus)
        rates = rates.double()
        scores[f"{name}accuracy"] = (rates.round() == labels).double().mean().item()
        scores[f"{name}error"] = (rates - labels).abs().mean().item()
    return scores


TASK = Task(
    name="counting",
    description="Class counting: the number of distinct classes in a set of digits",
    data="sets of digits",
    inputs=PIXELS,
    sample=lambda num_sets, generator: sample_sets(load("train"), num_sets, generator),
    loss=loss,
    evaluate=evaluate,
    metric="accuracy",
    error="error",
    defaults={
        "methods": [name for name in AGGREGATORS if name != "ea_quantile"],
        "learning_rates": [3e-3, 1e-2, 3e-2],
        "tuning_steps": 2000,  # within 500 most methods still predict a constant, at any rate
        "steps": 6000,
        "batch_size": 32,
        "parameters": 10_000,
        "evaluations": 1,
    },
)
main = study_command(TASK)

if __name__ == "__main__":
    sys.exit(main())
