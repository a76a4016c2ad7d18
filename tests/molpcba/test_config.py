"""The command line, YAML files, and defaults that follow the data."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from experiments.molpcba.cli import build_parser, parse
from experiments.molpcba.config import Config, to_dict
from experiments.molpcba.errors import UserError
from experiments.molpcba.presets import FOLDER, REFERENCE_DATA, load_preset, resolve

CONFIGS = sorted(FOLDER.parent.glob("*.yaml"))


def test_no_flags_give_the_defaults_of_config():
    assert parse([]) == Config()


def test_flags_with_hyphens_and_with_underscores():
    config = parse(["--eval-steps", "30", "--aux_weight=0.5", "--virtual-node"])
    assert (config.eval_steps, config.aux_weight, config.virtual_node) == (30, 0.5, True)
    assert parse(["--no-virtual-node"]).virtual_node is False


@pytest.mark.parametrize("order", ["config first", "flag first"])
def test_flags_win_over_the_yaml_file(tmp_path, order):
    path = tmp_path / "a.yaml"
    path.write_text("lr: 0.5\nepochs: 7\n")
    file, other = ["--config", str(path)], ["--lr", "0.25"]
    config = parse([*file, *other] if order == "config first" else [*other, *file])
    assert (config.lr, config.epochs) == (0.25, 7)


@pytest.mark.parametrize(
    ("argv", "names"),
    [
        (["--steps", "0"], "--steps must be 1 or more, got 0"),
        (["--ea-width", "0"], "--ea-width must be 1 or more, got 0"),
        (["--nonsense", "3"], "--nonsense"),
        (["--readout", "medain"], "--readout must be parts joined by '+', each one of ea, sum,"),
        (["--readout", "ea+ea"], "--readout has 'ea' more than once: 'ea+ea'"),
        (
            ["--adjoint", "truncated-0"],
            "--adjoint must be one of unrolled, checkpointed, implicit,",
        ),
        (["--adjoint", "truncated"], "truncated-K (K: 1 or more), got 'truncated'"),
        (["--epochs", "many"], "--epochs must be int, got many"),
        (["--lr", "-1"], "--lr must be above 0, got -1.0"),
        (["--lr", "nan"], "--lr must be float, got nan"),
        (["--dropout", "1"], "--dropout must be at least 0 and below 1, got 1.0"),
        (["--name", "a/b"], "--name"),
        (["--config", "does_not_exist.yaml"], "does_not_exist.yaml"),
        (["--config"], "--config"),
    ],
)
def test_mistakes_are_named_in_one_line(argv, names):
    with pytest.raises(UserError) as caught:
        parse(argv)
    assert names in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["learning_rate: 0.1\n", "lr: [1, 2]\n", "lr: : 3\n", "- 1\n"])
def test_bad_yaml_is_refused(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UserError):
        parse(["--config", str(path)])


def test_every_setting_has_a_flag_and_a_meaning():
    help_text = build_parser().format_help()
    for item in fields(Config):
        assert "--" + item.name.replace("_", "-") in help_text
        assert item.metadata["help"]


def test_print_config_shows_what_a_file_may_hold(capsys):
    with pytest.raises(SystemExit):
        parse(["--lr", "0.5", "--print_config"])
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["lr"] == 0.5
    assert shown.keys() == {item.name for item in fields(Config)}


@pytest.mark.parametrize(
    ("data", "preset"), [(REFERENCE_DATA, "reference"), ("embedded-nci", "small"), ("a", "small")]
)
def test_defaults_follow_the_data(data, preset):
    resolved = resolve(Config(), data)
    for key, value in load_preset(preset).items():
        assert getattr(resolved, key) == value
    assert resolved.preset == preset
    assert resolved.eval_steps == resolved.steps
    assert resolved.potential_width == resolved.width


def test_what_is_given_wins_over_the_preset():
    given = Config(width=20, preset="reference", lr=0.3, eval_steps=2, name="x")
    resolved = resolve(given, "embedded-nci")
    assert (resolved.width, resolved.lr, resolved.eval_steps) == (20, 0.3, 2)
    assert (resolved.potential_width, resolved.layers, resolved.name) == (20, 5, "x")


@pytest.mark.parametrize(
    ("given", "ea_width"),
    [
        (Config(width=8, ea_width=24), 24),
        (Config(width=8, ea_width=24, readout="pyg-ea+sum"), 24),
        (Config(width=8, preset="reference"), 8),
        (Config(width=8, ea_width=24, readout="mean", local="ea"), None),
    ],
)
def test_the_size_of_ea_s_vector_is_none_where_it_decides_nothing(given, ea_width):
    resolved = resolve(given, "a")
    assert resolved.ea_width == ea_width
    assert resolve(resolved, "a") == resolved


@pytest.mark.parametrize(
    ("given", "ea_lr"),
    [
        (Config(lr=0.3, ea_lr=0.1), 0.1),
        (Config(lr=0.3, ea_lr=0.1, readout="ea+mean"), 0.1),
        (Config(lr=0.3, ea_lr=0.1, readout="mean", local="ea"), 0.1),
        (Config(lr=0.3, ea_lr=0.1, readout="mean"), None),
        (Config(lr=0.3, ea_lr=0.3), 0.3),
    ],
)
def test_the_rate_of_ea_is_none_where_it_decides_nothing(given, ea_lr):
    resolved = resolve(given, "a")
    assert resolved.ea_lr == ea_lr
    assert resolve(resolved, "a") == resolved


def test_reference_sizes_are_those_of_ogb():
    reference = load_preset("reference")
    assert (reference["layers"], reference["width"], reference["dropout"]) == (5, 300, 0.5)
    assert (reference["lr"], reference["epochs"], reference["batch_size"]) == (1e-3, 100, 32)


def test_default_names_differ_where_runs_differ():
    variants = [
        Config(),
        Config(model="gcn"),
        Config(readout="mean"),
        Config(readout="ea+mean"),
        Config(readout="pyg-ea"),
        Config(readout="pyg-ea", steps=5),
        Config(steps=5),
        Config(local="ea"),
        Config(virtual_node=True),
        Config(seed=1),
    ]
    names = {resolve(config, data).name for config in variants for data in ("a", "b")}
    assert len(names) == 2 * len(variants)


def test_a_resolved_configuration_survives_its_file(tmp_path):
    resolved = resolve(Config(virtual_node=True, local="ea"), "a")
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(to_dict(resolved)))
    assert parse(["--config", str(path)]) == resolved


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configurations_are_valid_and_say_why(path: Path):
    assert resolve(parse(["--config", str(path)]), REFERENCE_DATA).width
    assert path.read_text().startswith("#")
