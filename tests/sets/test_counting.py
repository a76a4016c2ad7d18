"""Sets of images are labelled as they say."""

import pytest
import torch

pytest.importorskip("sklearn")

from experiments.counting import PARTS, Images, load, sample_sets


def marked_images() -> Images:
    """Two images of each class, whose first pixel is the class and whose others are 0."""
    pixels = torch.zeros(20, 64)
    pixels[:, 0] = torch.arange(10).repeat_interleave(2)
    return Images(pixels, 2 * torch.arange(10), torch.full((10,), 2))


def test_labels_are_the_number_of_distinct_classes():
    sets = sample_sets(marked_images(), 300, torch.Generator().manual_seed(0))
    for number, label in enumerate(sets.labels):
        classes = sets.elements[sets.members == number, 0]
        assert 6 <= len(classes) <= 20
        assert len(classes.unique()) == label
    assert set(sets.labels.tolist()) == set(range(1, 11))


def test_outliers_are_added_and_do_not_count():
    settings = {"sizes": (8, 8), "outliers": 0.25}
    images = marked_images()
    images.pixels[:, 1:] = -1 - images.pixels[:, :1]  # shuffled, the class is no longer first
    sets = sample_sets(images, 300, torch.Generator().manual_seed(0), **settings)
    assert (sets.members.bincount() == 10).all()
    for number, label in enumerate(sets.labels):
        own = sets.elements[sets.members == number]
        assert len(own[:8, 0].unique()) == label
        assert (own[8:].amax(dim=1) >= 0).all()
    shuffled = sets.elements.view(300, 10, 64)[:, 8:, 0]
    assert (shuffled < 0).float().mean() > 0.9


def test_parts_have_no_image_in_common():
    images = {part: {tuple(row) for row in load(part).pixels.tolist()} for part in PARTS}
    assert sum(map(len, images.values())) == len(set.union(*images.values())) == 1797
