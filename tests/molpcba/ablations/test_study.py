"""Studies as files: each describes networks that differ, and mistakes in one are named."""

from __future__ import annotations

import pytest

from experiments.molpcba.ablations import study
from experiments.molpcba.ablations.__main__ import main
from experiments.molpcba.ablations.study import Study, names, parameters
from experiments.molpcba.models import build_network
from tests.molpcba.ablations.tiny import refused


@pytest.mark.parametrize("name", names())
def test_each_study_describes_networks_that_differ_and_can_be_built(name):
    study_ = Study.read(name)
    configs = study_.configurations([], "tiny", tasks=2)
    for config in configs.values():
        build_network(config, num_tasks=2)
    assert len({str({**vars(c), "name": None}) for c in configs.values()}) == len(study_.rows)
    assert (study.FOLDER / f"{name}.yaml").read_text().startswith("# ")


@pytest.mark.parametrize("tasks", [1, 128])
def test_heads_are_matched_in_parameters(tasks):
    configs = Study.read("readout").configurations([], "tiny", tasks)
    count = {row: parameters(config, tasks) for row, config in configs.items()}
    for head, plain in (("mean-head", "ea"), ("mean+sum+max-head", "ea+mean+sum+max")):
        assert configs[head].head_width > 0
        assert count[head] != count[head.removesuffix("-head")]
        assert count[head] == pytest.approx(count[plain], rel=0.005)
    assert configs["ea-head"].head_width == configs["mean-head"].head_width


def test_capacity_follows_the_width():
    configs = Study.read("capacity").configurations(["--width", "100"], "tiny", 2)
    assert [c.potential_width for c in configs.values()] == [10, 30, 60, 100, 130]


def test_the_study_is_the_first_word(folder, capsys):
    for words in ([], ["--seeds", "2"], ["other"]):
        assert main(words) == 2
        assert "the first word must be a study, one of tiny" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: {}\nrows: {a: {}}\n", "must have rows and reference"),
        ("shared: gone\nrows: {a: {}}\nreference: a\n", "gone.yaml"),
        ("base: {}\nrows: {a: {}}\nreference: b\n", "row a names b, which is no row"),
        ("base: {}\nrows: {a: {}}\nreference: a\ntune: {setting: lr}\n", "in tune"),
        ("base: {bogus: 1}\nrows: {a: {}}\nreference: a\n", "--bogus"),
        ("base: {lr: many}\nrows: {a: {}}\nreference: a\n", "--lr must be float"),
        (
            "base: {}\nrows: {a: {}}\nreference: a\ntune: {setting: lr, values: [x], seed: 9}\n",
            "--lr must be float",
        ),
    ],
)
def test_a_bad_study_is_refused(call, folder, capsys, text, message):
    (folder / "tiny.yaml").write_text(text)
    assert message in refused(call, capsys)
