"""Sets are labelled as they say, and the command writes records, continues and reports."""

import pandas as pd
import pytest
import torch

pytest.importorskip("sklearn")

from experiments.counting import __main__ as program
from experiments.counting.__main__ import main
from experiments.counting.data import PARTS, Images, load, sample_sets

TINY = [
    *("--steps", "3", "--tuning_steps", "2", "--seeds", "2", "--batch_size", "2"),
    *("--test_sets", "10", "--learning_rates", "[1e-3, 1e-2]", "--methods", "[ea, max]"),
]


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Calls the tiny study; its records lie in ``results``."""
    monkeypatch.chdir(tmp_path)
    return lambda *flags: main([*TINY, "--results", "results", *flags])


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


def test_every_run_leaves_a_record_and_is_made_once(study, tmp_path, monkeypatch, capsys):
    assert study() == 0
    table = capsys.readouterr().out
    records = pd.read_csv(tmp_path / "results" / "records.csv")
    tuning = pd.read_csv(tmp_path / "results" / "tuning.csv")
    assert records[["method", "seed"]].values.tolist() == [
        ["ea", 0], ["max", 0], ["ea", 1], ["max", 1]
    ]  # fmt: skip
    assert len(tuning) == 4
    best = tuning.loc[tuning.groupby("method")["valid_error"].idxmin()]
    rates = dict(zip(best["method"], best["learning_rate"], strict=True))
    assert (records["learning_rate"] == records["method"].map(rates)).all()
    assert "EA, learned potential" in table
    assert (tmp_path / "results" / "accuracy.png").stat().st_size > 10_000
    monkeypatch.setattr(program, "run", None)
    assert study() == 0
    assert study("--report") == 0
    assert capsys.readouterr().out.strip().splitlines()[-3:] == table.strip().splitlines()[-3:]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--methods", "[maximum]"], "got 'maximum', expected some of ea"),
        (["--outliers", "2"], "outliers"),
        (["--report"], "does not exist"),
    ],
)
def test_mistakes_are_one_line(study, capsys, flags, message):
    assert study(*flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_other_settings_are_refused(study, capsys):
    assert study() == 0
    assert study("--steps", "4") == 2
    assert "made with steps 3, not 4" in capsys.readouterr().err
