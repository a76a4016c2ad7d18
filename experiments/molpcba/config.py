"""Settings of a run: each once, with its default and meaning; presets, YAML and command line."""

from __future__ import annotations

import argparse
import re
import types
import typing
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import ActionYesNo, ArgumentError, ArgumentParser
from jsonargparse.typing import (
    ClosedUnitInterval,
    NonNegativeFloat,
    NonNegativeInt,
    OpenUnitInterval,
    PositiveFloat,
    PositiveInt,
)

from experiments.common import UserError
from experiments.molpcba.readouts import ITERATIVE, PARTS, SIZED, parts_of

PRESETS = Path(__file__).resolve().parents[2] / "configs" / "molpcba" / "presets"
RECORD = re.compile(r"^resume:", re.MULTILINE)
ADJOINTS = re.compile(r"unrolled|checkpointed|implicit|truncated-[1-9]\d*")
REQUIRED = ("width", "layers", "dropout", "epochs", "batch_size", "lr")


# ruff: noqa: RUF009 (the calls are dataclasses.field)
def _is(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Config:
    """All settings of a run: one flag each (``eval_steps`` is ``--eval-steps``), one key in YAML.

    :func:`resolve` fills in those that are None and follow another one, the preset or the data.
    The types of those that every resolved configuration has leave None out.
    """

    # data
    data: str = _is(
        "auto",
        "OGB's name of a set, or embedded: 4,991 molecules that come with RDKit; auto: "
        "ogbg-molpcba if it can be had, else embedded",
    )
    root: str = _is("dataset", "folder of prepared data")
    csv: str | None = _is(None, "train on this table: SMILES, and labels (0, 1, empty; or numbers)")
    smiles_column: str | None = _is(None, "--csv: the SMILES column; default: by its name")
    tasks: str | None = _is(None, "--csv: label columns, separated by commas; default: the rest")
    ignore: str | None = _is(None, "--csv: columns that are not labels, separated by commas")
    task_type: Literal["auto", "classification", "regression"] = _is(
        "auto", "--csv: auto: regression when every label column has real values"
    )
    data_name: str | None = _is(None, "name of the --csv data; default: the file's")
    split: str | None = _is(
        None, "ogb, scaffold, random, or a folder of row numbers; default: the data's own or random"
    )
    split_seed: NonNegativeInt = _is(0, "seed of the random split")
    preset: Literal["auto", "small", "reference", "none"] = _is(
        "auto", "sizes and schedule where not given; auto: reference for ogbg-molpcba, else small"
    )
    # network
    model: Literal["gin", "gcn"] = _is("gin", "graph network, OGB's reference layers")
    readout: str = _is("ea", f"from nodes to graph: {', '.join(PARTS)}, or several joined by +")
    local: Literal["sum", "ea", "sum+ea"] = _is("sum", "aggregation of neighbours")
    virtual_node: bool = _is(False, "add OGB's virtual node")
    width: PositiveInt = _is(None, "node features")
    layers: PositiveInt = _is(None, "rounds of message passing")
    dropout: ClosedUnitInterval = _is(None, "share of features left out in training")
    input_norm: Literal["layer"] | None = _is(None, "norm on the nodes before the readout")
    readout_norm: Literal["layer", "none"] | None = _is(None, "norm behind each part of a readout")
    head_width: NonNegativeInt = _is(0, "hidden layer between readout and output; 0: none")
    head_skip: Literal["linear"] | None = _is(None, "layer beside the head's hidden layer")
    # Equilibrium Aggregation
    steps: PositiveInt = _is(15, "inner steps of EA")
    eval_steps: PositiveInt = _is(None, "inner steps in evaluation; default: --steps")
    ea_width: PositiveInt | None = _is(
        None, "size of the vector of the readouts ea, pyg-ea and deepsets; or --width"
    )
    potential_width: PositiveInt = _is(None, "width of EA's potential; default: --width")
    inner_lr: PositiveFloat = _is(0.125, "inner step size at the start (it is trained)")
    inner_momentum: OpenUnitInterval = _is(0.9, "inner momentum at the start (it is trained)")
    inner_gtol: NonNegativeFloat = _is(1e-3, "a graph stops once its inner gradient is below it")
    inner_clip: PositiveFloat | None = _is(None, "clip y to [-c, c] after each inner step")
    regulariser: PositiveFloat = _is(0.1, "weight of ||y||^2 at the start (it is trained)")
    adjoint: str = _is("unrolled", "backward: unrolled, checkpointed, implicit, or truncated-K")
    aux_weight: NonNegativeFloat | None = _is(None, "weight of the readout's auxiliary loss")
    local_aux_weight: NonNegativeFloat = _is(1e-4, "weight of local EA's auxiliary loss")
    aux_reading: Literal["final", "path"] = _is("final", "reading of the auxiliary loss")
    # training
    epochs: PositiveInt = _is(None, "passes over the train part")
    batch_size: PositiveInt = _is(None, "graphs a step on each device")
    lr: PositiveFloat = _is(None, "Adam's learning rate")
    ea_lr: PositiveFloat | None = _is(None, "the same of EA's own parameters; or --lr")
    schedule: Literal["constant", "cosine"] | None = _is(None, "learning rate over training")
    warmup: NonNegativeInt = _is(0, "steps over which the learning rate rises to --lr")
    weight_decay: NonNegativeFloat = _is(0.0, "decoupled weight decay")
    gradient_clip: PositiveFloat | None = _is(None, "largest gradient norm; default: no limit")
    ema: ClosedUnitInterval | None = _is(None, "evaluate an average of the weights of this decay")
    precision: Literal["32", "bf16", "64"] = _is("32", "bf16 is mixed precision")
    compile: bool = _is(False, "compile EA's inner step; no gain on a CPU; needs a C++ compiler")
    seed: NonNegativeInt = _is(0, "of weights, order and dropout")
    seeds: PositiveInt = _is(1, "number of runs, from --seed upwards; mean and deviation")
    accelerator: Literal["auto", "cpu", "gpu"] = _is("auto", "where to compute")
    devices: PositiveInt = _is(1, "processes, one a device")
    nodes: PositiveInt = _is(1, "machines, each with --devices")
    test_curve: bool = _is(False, "record the test score of every epoch")
    # output
    runs_dir: str = _is("runs", "folder of run folders")
    name: str | None = _is(None, "run folder's name; default: made of data, model and seed")
    resume: bool = _is(False, "go on with the run of this name from its last checkpoint")

    def __post_init__(self) -> None:
        parts_of(self.readout)
        if not ADJOINTS.fullmatch(self.adjoint):
            raise UserError(
                "--adjoint must be unrolled, checkpointed, implicit or truncated-K (K: 1 or more), "
                f"got {self.adjoint!r}"
            )
        if self.name is not None and not re.fullmatch(r"[^/]*[^/.][^/]*", self.name):
            raise UserError(f"--name is a folder's name, without '/', got {self.name!r}")


def flag(name: str) -> str:
    """``"eval_steps" -> "--eval-steps"``."""
    return "--" + name.replace("_", "-")


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
    parts = set(parts_of(config.readout))
    has_ea = config.local != "sum" or not parts.isdisjoint(ITERATIVE)
    return replace(
        config,
        ea_lr=config.ea_lr if has_ea else None,
        ea_width=None if parts.isdisjoint(SIZED) else config.ea_width or config.width,
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
    parts, steps = parts_of(settings["readout"]), settings["steps"]
    readout = "+".join(f"{part}{steps}" if part in ITERATIVE else part for part in parts)
    local = settings["local"]
    return f"{model}-{readout}" + (f"-local-{local}{steps}" if local != "sum" else "")


def recorded(content: dict[str, Any], where: object) -> Config:
    """The resolved settings that a run of this or an older version recorded.

    A setting that is missing had no effect in that version, as None, or the default, has without a
    preset.
    """
    try:
        return resolve(Config(**{**content, "preset": "none"}), "")
    except TypeError as error:
        raise UserError(f"{where} is of another version, use that: {error}") from error


# ---- command line


def build_parser() -> ArgumentParser:
    """The parser: one flag for each field of :class:`Config`, and ``--config``."""
    parser = ArgumentParser(
        prog="python -m experiments.molpcba",
        description="Train a graph network with Equilibrium Aggregation on molecules.",
        exit_on_error=False,
    )
    parser.add_argument("--config", action="config", help="YAML file; flags win over it")
    for name, hint in typing.get_type_hints(Config).items():
        item = Config.__dataclass_fields__[name]
        option: dict[str, Any] = {"default": item.default, "help": item.metadata["help"]}
        if hint is bool:
            option["action"] = ActionYesNo(no_prefix="no-")
        elif typing.get_origin(hint) in (typing.Union, types.UnionType):
            option["type"] = typing.get_args(hint)[0]  # None: not given, which is no value to type
        else:
            option["type"] = hint
        parser.add_argument(flag(name), **option)
    return parser


def parse(argv: Sequence[str]) -> Config:
    """The configuration that the words after ``python -m experiments.molpcba`` describe.

    Leaves by ``SystemExit`` after ``--help`` and ``--print_config``.
    """
    parser = build_parser()
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--config", action="append", default=[])
    try:
        files, rest = first.parse_known_args(list(argv))
        words = [*(f"--config={path}" for path in files.config), *rest]  # flags come last: they win
        if any(RECORD.search(Path(path).read_text()) for path in files.config):
            words.append("--preset=none")  # a run's own file, of any version, leaves nothing open
        # Through YAML: jsonargparse's checked numbers are classes of their own.
        values = yaml.safe_load(parser.dump(parser.parse_args(words)))
    except (ArgumentError, argparse.ArgumentError, ValueError, TypeError, OSError) as error:
        raise UserError(_one_line(str(error))) from error
    return Config(**values)


def _one_line(message: str) -> str:
    """jsonargparse's message with flags for its keys and without its Python types."""
    text = " ".join(message.split())
    text = re.sub(r'.*key "(\w+)": (Not of type \w+: )?', lambda match: f"{flag(match[1])}: ", text)
    text = text.replace("does not conform to restriction v", "is not ").replace(" and v", " and ")
    return text.replace("a typing.Literal", "one of ") + "; see --help"
