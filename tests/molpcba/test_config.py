"""Settings: flags, YAML files, presets, and runs of older versions."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, fields
from pathlib import Path

import pytest
import torch
import yaml

from experiments.common import UserError
from experiments.flags import as_words
from experiments.molpcba.__main__ import main
from experiments.molpcba.config import (
    PARSER,
    PRESETS,
    Config,
    load_preset,
    parse,
    resolve,
)
from experiments.molpcba.predict import main as predict

CONFIGS = sorted(PRESETS.parent.glob("*.yaml"))


@pytest.mark.parametrize("order", ["config first", "flag first"])
def test_flags_win_over_the_yaml_file(tmp_path, order):
    path = tmp_path / "a.yaml"
    path.write_text("lr: 0.5\nepochs: 7\n")
    file, other = ["--config", str(path)], ["--lr", "0.25", "--aux-weight=0.5", "--virtual-node"]
    config = parse([*file, *other] if order == "config first" else [*other, *file])
    assert (config.lr, config.epochs, config.aux_weight, config.virtual_node) == (
        0.25,
        7,
        0.5,
        True,
    )
    assert parse([]) == Config()


@pytest.mark.parametrize(
    ("argv", "names"),
    [
        (["--steps", "0"], "--steps: 0 is not >0"),
        (["--nonsense", "3"], "--nonsense"),
        (["--readout", "medain"], "--readout must be parts joined by '+', each one of ea, sum,"),
        (["--readout", "ea+ea"], "--readout has a part more than once: 'ea+ea'"),
        (["--adjoint", "truncated-0"], "truncated-K (K: 1 or more), got 'truncated-0'"),
        (["--epochs", "many"], "--epochs"),
        (["--lr", "nan"], "--lr: nan"),
        (["--dropout", "2"], "--dropout: 2"),
        (["--model", "gat"], "--model: Expected one of ['gin', 'gcn']. Got value: gat"),
        (["--name", "a/b"], "--name is a folder's name"),
        (["--name", ".."], "--name is a folder's name"),
        (["--name=-x"], "--name is a folder's name"),
        (["--name", "a\nb"], "--name is a folder's name"),
        (["--data-name", "../../up"], "--data-name is a folder's name"),
        (["--config", "does_not_exist.yaml"], "does_not_exist.yaml"),
        (["--config"], "--config"),
    ],
)
def test_mistakes_are_named_in_one_line(argv, names):
    with pytest.raises(UserError) as caught:
        parse(argv)
    assert names in str(caught.value)
    assert "\n" not in str(caught.value)


NESTED = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate: 0.1\n", "bad.yaml has 'learning_rate', which is no setting"),
        ("config: bad.yaml\n", "has 'config', which is no setting"),
        ("help: true\n1: 2\n", "has '1', which is no setting"),
        ("lr: [1, 2]\n", "--lr"),
        ("lr: : 3\n", "cannot be read"),
        ("lr: 0.1\nwidth: 8\nlr: 0.5\n", "the key 'lr' stands there more than once"),
        ("- 1\n", "has no settings"),
        ("", "has no settings"),
        ("# nothing\n", "has no settings"),
        ("a0: &a0 [1]\n" + NESTED, "aliases"),
        ("[" * 500, "cannot be read"),
        ("lr: \0\n", "cannot be read"),
    ],
)
def test_bad_yaml_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        parse(["--config", str(path)])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["/dev/zero", "/"])
def test_a_configuration_that_is_no_file_is_refused(path):
    with pytest.raises(UserError, match=f"--config {path}: there is no such file"):
        parse(["--config", path])


def test_every_setting_has_a_flag_a_meaning_and_is_printed(capsys):
    text = PARSER.format_help()
    assert text.replace("\n", "").isprintable()
    assert not re.search("type:|Literal|Positive|NonNegative|Interval|None|null", text)
    assert all(f"\n{title}:\n" in text for title in ("data", "network", "training", "output"))
    for item in fields(Config):
        assert "--" + item.name.replace("_", "-") in text
        assert item.metadata["help"]
    with pytest.raises(SystemExit):
        parse(["--lr", "0.5", "--print_config"])
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["lr"] == 0.5
    assert shown.keys() == {item.name for item in fields(Config)}


@pytest.mark.parametrize(
    ("data", "preset"), [("ogbg-molpcba", "reference"), ("embedded-nci", "small"), ("a", "small")]
)
def test_defaults_follow_the_data_and_what_is_given_wins(data, preset):
    resolved = resolve(Config(width=20), data)
    for key, value in (load_preset(preset) | {"width": 20}).items():
        assert getattr(resolved, key) == value
    assert (resolved.preset, resolved.potential_width) == (preset, 20)
    assert resolve(resolved, data) == resolved


def test_default_names_differ_where_runs_differ():
    variants = [
        Config(),
        Config(model="gcn"),
        Config(readout="mean"),
        Config(readout="ea+mean"),
        Config(readout="pyg-ea"),
        Config(steps=5),
        Config(local="ea"),
        Config(virtual_node=True),
        Config(seed=1),
    ]
    names = {resolve(config, data).name for config in variants for data in ("a", "b")}
    assert len(names) == 2 * len(variants)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configurations_are_valid_and_say_why(path: Path):
    assert resolve(parse(["--config", str(path)]), "ogbg-molpcba").width
    assert path.read_text().startswith("#")


# ---- runs of older versions


def test_a_configuration_of_an_older_run_means_what_it_meant(tmp_path):
    """Without `ea_width` EA's vector was as wide as the nodes, whatever today's preset says."""
    saved = asdict(resolve(Config(width=16), "embedded-nci"))
    old = {k: v for k, v in saved.items() if k not in ("ea_width", "ea_lr") and v is not None}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(old | {"preset": "small"}))
    config = resolve(parse(["--config", str(path)]), "embedded-nci")
    assert (config.ea_width, config.ea_lr, config.width) == (16, None, 16)
    path.write_text(yaml.safe_dump(old | {"shoe_size": 43}))
    with pytest.raises(UserError, match="'shoe_size', which is no setting"):
        parse(["--config", str(path)])


def test_an_older_run_is_resumed(command, tmp_path, monkeypatch, capsys):
    """Its configuration lacks a setting that came later, and names its preset."""
    ones = ("--ea-width", "16", "--ea-lr", "0.01", "--schedule", "constant")
    assert command(*ones) == 0
    path = tmp_path / "runs" / "run" / "config.yaml"
    saved = {k: v for k, v in yaml.safe_load(path.read_text()).items() if v is not None}
    del saved["ea_width"], saved["task_type"]
    path.write_text(yaml.safe_dump(saved | {"preset": "small"}))
    where = ["--name", "run", "--runs-dir", str(tmp_path / "runs"), "--resume", "--epochs", "5"]
    assert main([*where, "--accelerator", "cpu"]) == 0
    results = json.loads((tmp_path / "runs" / "run" / "results.json").read_text())
    assert (results["epochs"], results["config"]["ea_width"]) == (5, 16)
    path.write_text(yaml.safe_dump(saved | {"shoe_size": 43}))
    assert main(where) == 2
    assert "shoe_size" in capsys.readouterr().err


def test_a_checkpoint_of_another_version_ends_in_one_line(command, tmp_path, capsys):
    assert command() == 0
    path = tmp_path / "runs" / "run" / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    smiles = tmp_path / "a.smi"
    smiles.write_text("CCO\n")
    flags = ["--checkpoint", str(path), "--smiles", str(smiles), "--out", str(tmp_path / "o.csv")]
    torch.save({**checkpoint, "state_dict": {}}, path)
    assert predict(flags) == 2
    assert "is of another version, whose network differs" in capsys.readouterr().err
    checkpoint["pyg_ea"]["config"]["shoe_size"] = 43
    torch.save(checkpoint, path)
    assert predict(flags) == 2
    assert "shoe_size" in capsys.readouterr().err


def test_settings_become_the_words_that_give_them():
    settings = {"virtual_node": True, "test_curve": False, "lr": 1e-5, "ea_lr": None, "name": "a b"}
    config = parse(as_words(settings))
    assert {name: getattr(config, name) for name in settings} == settings
