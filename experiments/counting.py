"""Class counting: the number of distinct classes in a set of digits, EA against other aggregators.

``python -m experiments.counting``: see ``--help``. Sets are drawn on the fly from the 1,797 images
of scikit-learn, 8 x 8 pixels. In each of 14 blocks the order of the classes repeats, most likely
one for each writer. 8 blocks are for training, 2 for validation, 4 for the test.
"""

from __future__ import annotations

import sys
from functools import cache, partial

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Generator, Tensor
from torch.nn import functional as F

from experiments.sets.aggregators import OF_SETS
from experiments.sets.model import SetConfig, Sets, set_problem
from experiments.sets.study import Task, study_command

CLASSES = 10
PIXELS = 64
PARTS = {"train": slice(1029), "valid": slice(1029, 1287), "test": slice(1287, None)}
TESTS = {"larger": ((30, 60), 0.0), "outliers": ((6, 20), 0.25)}
"""Further tests: smallest and largest set, and the number of outliers added to a set as a share of
its images, rounded up. An outlier is an image with its pixels in random order; it does not count.
"""


@cache
def load(part: str) -> Tensor:
    """Images of a part by class, as many of each: ``[10, K, 64]``, values in [0, 1]."""
    digits = load_digits()
    own = PARTS.get(part, PARTS["test"])
    pixels, classes = torch.from_numpy(digits.data[own]).float() / 16, digits.target[own]
    fewest = np.bincount(classes).min()
    return torch.stack([pixels[classes == k][:fewest] for k in range(CLASSES)])


def sample(part: str, num_sets: int, generator: Generator) -> Sets:
    """Draws sets of images of a part, with replacement. Size and number of classes are uniform;
    each chosen class occurs at least once.
    """
    images, uniform = load(part), partial(torch.rand, generator=generator)
    (low, high), outliers = TESTS.get(part, ((6, 20), 0.0))
    size = torch.randint(low, high + 1, (num_sets,), generator=generator)
    labels = 1 + (uniform(num_sets) * size.clamp(max=CLASSES)).long()
    added = torch.ceil(outliers * size).long()
    length = int((size + added).max())
    place = torch.arange(length)
    chosen = uniform(num_sets, CLASSES).argsort(dim=1)  # a set's classes come first
    again = (uniform(num_sets, length) * labels[:, None]).long()
    classes = chosen.gather(1, torch.where(place < labels[:, None], place, again))  # [S, length]
    which = (uniform(num_sets, length) * images.shape[1]).long()
    elements = images[classes, which]  # [S, length, 64]
    used = place < (size + added)[:, None]
    is_outlier = used & (place >= size[:, None])
    order = uniform(int(is_outlier.sum()), PIXELS).argsort(dim=1)
    elements[is_outlier] = elements[is_outlier].gather(1, order)
    members = torch.arange(num_sets)[:, None].expand(-1, length)
    return Sets(elements[used], members[used], labels)


def loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """Negative log likelihood of the counts. Outputs become rates of Poisson distributions."""
    return F.poisson_nll_loss(F.softplus(outputs), labels, log_input=False, full=True)


def scores(outputs: Tensor, labels: Tensor) -> dict[str, float]:
    """Share of sets whose rounded rate is the count, and the rate's mean absolute error."""
    rates = F.softplus(outputs).double()
    accuracy = (rates.round() == labels).double().mean().item()
    return {"accuracy": accuracy, "mae": (rates - labels).abs().mean().item()}


TASK = Task(
    name="counting",
    description="Class counting: the number of distinct classes in a set of digits",
    data="sets of digits",
    methods=OF_SETS,
    problem=lambda run: set_problem(run, PIXELS, sample, loss, scores),
    config=SetConfig,
    metric="mae",
    # within 500 steps most methods still predict a constant, at any rate
    defaults={"tuning_steps": 2000, "steps": 6000, "batch_size": 32, "parameters": 10_000},
    tests=tuple(TESTS),
)
main = study_command(TASK)

if __name__ == "__main__":
    sys.exit(main())
