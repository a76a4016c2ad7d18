"""Settings of a run: each once, with its default and meaning; presets, YAML and command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse.typing import (
    ClosedUnitInterval,
    NonNegativeFloat,
    NonNegativeInt,
    OpenUnitInterval,
    PositiveFloat,
    PositiveInt,
)

from experiments.common import DROPPED, UserError
from experiments.flags import Parser, flag, opt
from experiments.molpcba.readouts import PARTS, parts_of

PRESETS = Path(__file__).resolve().parents[2] / "configs" / "molpcba" / "presets"
ADJOINTS = re.compile(r"unrolled|checkpointed|implicit|truncated-[1-9]\d*")
REQUIRED = ("width", "layers", "dropout", "epochs", "batch_size", "lr")
GROUPS = {
    "data": "data",
    "model": "network",
    "steps": "Equilibrium Aggregation",
    "epochs": "training",
    "runs_dir": "output",
}
"""Titles of groups of settings, by the first of each."""
PLACES = {"root", "csv", "runs_dir", "name", "resume"}
"""Settings that do not decide a run."""


# ruff: noqa: RUF009 (opt is dataclasses.field)
@dataclass(frozen=True)
class Config:
    """All settings of a run: one flag each (``eval_steps`` is ``--eval-steps``), one key in YAML.

    :func:`resolve` fills in those that are None and follow another one, the preset or the data.
    The types of those that every resolved configuration has leave None out.
    """

    # data
    data: str = opt(
        "auto",
        "OGB's name of a set, or embedded: 4,991 molecules that come with RDKit; auto: "
        "ogbg-molpcba if it can be had, else embedded",
    )
    root: str = opt("dataset", "folder of prepared data")
    csv: str | None = opt(None, "train on this table: SMILES, and labels (0, 1, empty; or numbers)")
    smiles_column: str | None = opt(None, "--csv: the SMILES column; default: by its name")
    tasks: str | None = opt(None, "--csv: label columns, separated by commas; default: the rest")
    ignore: str | None = opt(None, "--csv: columns that are not labels, separated by commas")
    task_type: Literal["auto", "classification", "regression"] = opt(
        "auto", "--csv: auto: regression when every label column has real values"
    )
    label_format: str | None = opt(
        None,
        "--csv: labels with decimal-comma, thousands or percent, or words and their labels such as "
        "active=1,inactive=0; default: plain numbers, True and False",
    )
    data_name: str | None = opt(None, "name of the --csv data; default: the file's")
    split: str | None = opt(
        None, "ogb, scaffold, random, or a folder of row numbers; default: the data's own or random"
    )
    split_seed: NonNegativeInt = opt(0, "seed of the random split")
    preset: Literal["auto", "small", "reference", "none"] = opt(
        "auto", "sizes and schedule where not given; auto: reference for ogbg-molpcba, else small"
    )
    # network
    model: Literal["gin", "gcn"] = opt("gin", "graph network, OGB's reference layers")
    readout: str = opt(
        "ea",
        f"from nodes to graph: {', '.join(PARTS)}, a class of yours as package.module:Name, or "
        "several joined by +",
    )
    local: Literal["sum", "ea", "sum+ea"] = opt("sum", "aggregation of neighbours")
    message_norm: Literal["layer"] | None = opt(None, "norm on messages before they are aggregated")
    virtual_node: bool = opt(False, "add OGB's virtual node")
    width: PositiveInt = opt(None, "node features")
    layers: PositiveInt = opt(None, "rounds of message passing")
    dropout: ClosedUnitInterval = opt(None, "share of features left out in training")
    input_norm: Literal["layer"] | None = opt(None, "norm on the nodes before the readout")
    readout_norm: Literal["layer", "batch", "none"] | None = opt(
        None, "norm behind each part of a readout; layer makes a mean of a sum"
    )
    head_width: NonNegativeInt = opt(0, "hidden layer between readout and output; 0: none")
    head_skip: Literal["linear"] | None = opt(None, "layer beside the head's hidden layer")
    # Equilibrium Aggregation
    steps: PositiveInt = opt(15, "inner steps of EA")
    eval_steps: PositiveInt = opt(None, "inner steps in evaluation; default: --steps")
    ea_width: PositiveInt | None = opt(
        None, "size of the vector of the readouts ea, pyg-ea and deepsets; or --width"
    )
    potential_width: PositiveInt = opt(None, "width of EA's potential; default: --width")
    inner_lr: PositiveFloat = opt(0.125, "inner step size at the start (it is trained)")
    inner_momentum: OpenUnitInterval = opt(0.9, "inner momentum at the start (it is trained)")
    inner_gtol: NonNegativeFloat = opt(1e-3, "a graph stops once its inner gradient is below it")
    inner_clip: PositiveFloat | None = opt(None, "clip y to [-c, c] after each inner step")
    regulariser: PositiveFloat = opt(0.1, "weight of ||y||^2 at the start (it is trained)")
    adjoint: str = opt("unrolled", "backward: unrolled, checkpointed, implicit, or truncated-K")
    aux_weight: NonNegativeFloat | None = opt(None, "weight of the readout's auxiliary loss")
    local_aux_weight: NonNegativeFloat = opt(1e-4, "weight of local EA's auxiliary loss")
    aux_reading: Literal["final", "path"] = opt("final", "reading of the auxiliary loss")
    # training
    epochs: PositiveInt = opt(None, "passes over the train part")
    batch_size: PositiveInt = opt(None, "graphs a step on each device")
    lr: PositiveFloat = opt(None, "Adam's learning rate")
    ea_lr: PositiveFloat | None = opt(None, "the same of EA's own parameters; or --lr")
    schedule: Literal["constant", "cosine"] | None = opt(None, "learning rate over training")
    warmup: NonNegativeInt = opt(0, "steps over which the learning rate rises to --lr")
    weight_decay: NonNegativeFloat = opt(0.0, "decoupled weight decay")
    gradient_clip: PositiveFloat | None = opt(None, "largest gradient norm; default: no limit")
    ema: ClosedUnitInterval | None = opt(None, "evaluate an average of the weights of this decay")
    precision: Literal["32", "bf16", "64"] = opt("32", "bf16 is mixed precision")
    seed: NonNegativeInt = opt(0, "of weights, order and dropout")
    seeds: PositiveInt = opt(1, "number of runs, from --seed upwards; mean and deviation")
    accelerator: Literal["auto", "cpu", "gpu"] = opt("auto", "where to compute")
    devices: PositiveInt = opt(1, "processes, one a device")
    nodes: PositiveInt = opt(1, "machines, each with --devices")
    test_curve: bool = opt(False, "record the test score of every epoch")
    # output
    runs_dir: str = opt("runs", "folder of run folders")
    name: str | None = opt(None, "run folder's name; default: made of data, model and seed")
    resume: bool = opt(
        False,
        "go on with the last run that has the settings given, or with that of --name; a finished "
        "run goes on where --epochs is more",
    )

    def __post_init__(self) -> None:
        parts_of(self.readout)
        if not ADJOINTS.fullmatch(self.adjoint):
            raise UserError(
                "--adjoint must be unrolled, checkpointed, implicit or truncated-K (K: 1 or more), "
                f"got {self.adjoint!r}"
            )
        for name in ("data_name", "name"):
            value = getattr(self, name)
            if value is not None and not re.fullmatch(r"(?!-)(?=.*[^.])[^/\x00-\x1f]+", value):
                raise UserError(
                    f"{flag(name)} is a folder's name, without '/' or a leading '-', got {value!r}"
                )


def to_dict(config: Config) -> dict[str, Any]:
    """The settings that are not None, as plain values."""
    return {name: value for name, value in asdict(config).items() if value is not None}


def resolve(config: Config, data_name: str) -> Config:
    """``config`` with nothing left open that a run needs; what is given stays as it is.

    ``--preset auto`` depends on the name of the data that the run will see.
    """
    preset = config.preset
    if preset == "auto":
        preset = "reference" if data_name == "ogbg-molpcba" else "small"
    given = to_dict(config)
    missing = {key: value for key, value in load_preset(preset).items() if key not in given}
    config = replace(config, **missing, preset=preset)
    for name in REQUIRED:
        if getattr(config, name) is None:
            raise UserError(f"--preset none leaves {flag(name)} open: give it, or another --preset")
    parts = parts_of(config.readout).values()
    has_ea = config.local != "sum" or any(part.is_iterative for part in parts)
    is_sized = any(part.is_sized for part in parts)
    return replace(
        config,
        ea_lr=config.ea_lr if has_ea else None,
        ea_width=config.ea_width or config.width if is_sized else None,
        eval_steps=config.eval_steps or config.steps,
        potential_width=config.potential_width or config.width,
        name=config.name or f"{data_name}-{kind_of(asdict(config))}-seed{config.seed}",
    )


def load_preset(name: str) -> dict[str, Any]:
    """Settings of ``configs/molpcba/presets/NAME.yaml``; none for ``"none"``."""
    return {} if name == "none" else yaml.safe_load((PRESETS / f"{name}.yaml").read_text())


def kind_of(settings: dict[str, Any]) -> str:
    """Model, readout and local aggregation in a few words: ``gin-vn-ea15+mean``."""
    model = settings["model"] + ("-vn" if settings["virtual_node"] else "")
    parts, steps, local = parts_of(settings["readout"]), settings["steps"], settings["local"]
    names = [name.split(":")[-1] + str(steps) * part.is_iterative for name, part in parts.items()]
    return f"{model}-{'+'.join(names)}" + (f"-local-{local}{steps}" if local != "sum" else "")


def as_recorded(content: dict[str, Any]) -> dict[str, Any]:
    """What a run of this or an older version recorded: settings that no preset fills in.

    A setting that is missing had no effect then, as None or the default has without a preset.
    """
    return {key: own for key, own in content.items() if key not in DROPPED} | {"preset": "none"}


def recorded(content: dict[str, Any], where: object) -> Config:
    """The resolved settings that a run recorded."""
    try:
        return resolve(Config(**as_recorded(content)), "recorded")
    except TypeError as error:
        raise UserError(f"{where} is of another version, use that: {error}") from error


# ---- command line


ABOUT = "Train a graph network with Equilibrium Aggregation on molecules."
PARSER = Parser(Config, "python -m experiments.molpcba", ABOUT, GROUPS)


def parse(argv: Sequence[str]) -> Config:
    """The configuration that the words after ``python -m experiments.molpcba`` describe.

    A file with all settings, also ``resume``, is a run's.
    """
    given = PARSER.values(argv, lambda own: as_recorded(own) if "resume" in own else own)
    return Config(**given)
