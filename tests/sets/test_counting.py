"""Sets of images are labelled as they say."""

import pytest
import torch

pytest.importorskip("sklearn")

from experiments import counting
from experiments.counting import PARTS, load, sample


@pytest.fixture
def marked(monkeypatch):
    """Two images of each class, whose first pixel is the class and whose others are 0."""
    images = torch.zeros(10, 2, 64)
    images[:, :, 0] = torch.arange(10)[:, None]
    monkeypatch.setattr(counting, "load", lambda part: images)
    return images


def test_labels_are_the_number_of_distinct_classes(marked):
    sets = sample("train", 300, torch.Generator().manual_seed(0))
    for number, label in enumerate(sets.labels):
        classes = sets.elements[sets.members == number, 0]
        assert 6 <= len(classes) <= 20
        assert len(classes.unique()) == label
    assert set(sets.labels.tolist()) == set(range(1, 11))


def test_outliers_are_added_and_do_not_count(marked, monkeypatch):
    monkeypatch.setitem(counting.TESTS, "outliers", ((8, 8), 0.25))
    marked[:, :, 1:] = -1 - marked[:, :, :1]  # shuffled, the class is no longer first
    sets = sample("outliers", 300, torch.Generator().manual_seed(0))
    assert (sets.members.bincount() == 10).all()
    for number, label in enumerate(sets.labels):
        own = sets.elements[sets.members == number]
        assert len(own[:8, 0].unique()) == label
        assert (own[8:].amax(dim=1) >= 0).all()
    shuffled = sets.elements.view(300, 10, 64)[:, 8:, 0]
    assert (shuffled < 0).float().mean() > 0.9


def test_larger_sets_are_larger(marked):
    sizes = sample("larger", 300, torch.Generator().manual_seed(0)).members.bincount()
    assert 30 <= sizes.min() < sizes.max() <= 60


def test_parts_have_no_image_in_common():
    images = {part: {tuple(row) for row in load(part).flatten(0, 1).tolist()} for part in PARTS}
    assert sum(map(len, images.values())) == len(set.union(*images.values())) > 1600
    assert torch.equal(load("larger"), load("test"))
