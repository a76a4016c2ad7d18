"""Settings of a run: each once, with its default and meaning; presets, YAML and command line."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

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
from experiments.molpcba.readouts import ITERATIVE, PARTS, parts_of

T = TypeVar("T")

PRESETS = Path(__file__).resolve().parents[2] / "configs" / "molpcba" / "presets"
ADJOINTS = re.compile(r"unrolled|checkpointed|implicit|truncated-[1-9]\d*")


# ruff: noqa: RUF009 (the calls are dataclasses.field)
def _setting(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Config:
    """All settings of a run. A setting that is None follows another one or the data.

    The command line has one flag for each field (``eval_steps`` is ``--eval-steps``), a YAML file
    one key. :func:`resolve` fills in what follows the data.
    """

    # data
    data: str = _setting(
        "auto",
        "one of OGB's molecule sets by name (ogbg-molhiv, ...; ogb is ogbg-molpcba), on disk or "
        "downloaded; embedded: 4,991 real molecules that come with RDKit, no network; auto: "
        "ogbg-molpcba if it can be had, else embedded",
    )
    root: str = _setting("dataset", "folder of prepared data")
    csv: str | None = _setting(
        None, "train on this table: a column smiles, columns of labels (0, 1, empty; or numbers)"
    )
    smiles_column: str | None = _setting(None, "--csv: the SMILES column; default: by its name")
    tasks: str | None = _setting(
        None, "--csv: names of the label columns, separated by commas; default: all but the rest"
    )
    ignore: str | None = _setting(None, "--csv: names of columns that are not labels")
    task_type: Literal["auto", "classification", "regression"] = _setting(
        "auto", "--csv: auto: regression when every label column has real values"
    )
    data_name: str | None = _setting(None, "name of the --csv data; default: the file's")
    split: Literal["ogb", "scaffold", "random"] | None = _setting(
        None, "division into train, valid and test; default: the data's own"
    )
    split_seed: NonNegativeInt = _setting(0, "seed of the random split")
    preset: Literal["auto", "small", "reference", "none"] = _setting(
        "auto",
        "sizes and schedule where not given: reference is OGB's recipe, small learns in minutes on "
        "a CPU, none leaves nothing open; auto: reference for ogbg-molpcba, else small",
    )
    # network
    model: Literal["gin", "gcn"] = _setting("gin", "graph network, OGB's reference layers")
    readout: str = _setting(
        "ea", "from nodes to graph: one of {parts}, or several joined by +, side by side"
    )
    local: Literal["sum", "ea"] = _setting(
        "sum", "aggregation of neighbours: sum is the model's own (degree-weighted in gcn)"
    )
    virtual_node: bool = _setting(False, "add OGB's virtual node")
    width: PositiveInt | None = _setting(None, "node features; follows the preset")
    layers: PositiveInt | None = _setting(None, "rounds of message passing; follows the preset")
    dropout: ClosedUnitInterval | None = _setting(None, "follows the preset")
    readout_norm: Literal["layer", "none"] | None = _setting(
        None, "norm behind each part of the readout, whatever it is; follows the preset"
    )
    head_width: NonNegativeInt = _setting(
        0, "width of a hidden layer between readout and output; 0: none"
    )
    # Equilibrium Aggregation
    steps: PositiveInt = _setting(15, "inner steps of EA")
    eval_steps: PositiveInt | None = _setting(None, "inner steps in evaluation; default: --steps")
    ea_width: PositiveInt | None = _setting(
        None, "size of the EA readout's vector; follows the preset, without one --width"
    )
    potential_width: PositiveInt | None = _setting(
        None, "width of EA's potential; default: --width"
    )
    inner_lr: PositiveFloat = _setting(0.125, "inner step size at the start (it is trained)")
    inner_momentum: OpenUnitInterval = _setting(0.9, "inner momentum at the start (it is trained)")
    inner_gtol: NonNegativeFloat = _setting(
        1e-3, "tolerance: a graph stops once its largest inner gradient entry is below it"
    )
    inner_clip: PositiveFloat | None = _setting(None, "clip y to [-c, c] after each inner step")
    regulariser: PositiveFloat = _setting(0.1, "weight of ||y||^2 at the start (it is trained)")
    adjoint: str = _setting(
        "unrolled",
        "backward through the steps: unrolled, checkpointed, implicit, truncated-K (the last K)",
    )
    aux_weight: NonNegativeFloat | None = _setting(
        None, "weight of the readout's auxiliary loss; follows the preset (the paper: 1)"
    )
    local_aux_weight: NonNegativeFloat = _setting(1e-4, "weight of local EA's auxiliary loss")
    aux_reading: Literal["final", "path"] = _setting("final", "reading of the auxiliary loss")
    # training
    epochs: PositiveInt | None = _setting(None, "follows the preset")
    batch_size: PositiveInt | None = _setting(
        None, "graphs a step on each device; follows the preset"
    )
    lr: PositiveFloat | None = _setting(None, "Adam's learning rate; follows the preset")
    ea_lr: PositiveFloat | None = _setting(
        None, "the same of EA's own parameters; follows the preset, without one --lr"
    )
    schedule: Literal["constant", "cosine"] | None = _setting(
        None, "learning rate over training; follows the preset"
    )
    warmup: NonNegativeInt = _setting(0, "steps over which the learning rate rises to --lr")
    weight_decay: NonNegativeFloat = _setting(0.0, "decoupled weight decay")
    gradient_clip: PositiveFloat | None = _setting(None, "largest gradient norm; default: no limit")
    ema: ClosedUnitInterval | None = _setting(
        None, "decay of an average of the weights to evaluate with"
    )
    patience: PositiveInt | None = _setting(
        None, "stop after so many epochs without a better valid score"
    )
    precision: Literal["32", "bf16", "64"] = _setting("32", "bf16 is mixed precision")
    compile: bool = _setting(
        False,
        "compile EA's inner step: half a minute at first, no gain on a CPU; needs a C++ compiler",
    )
    seed: NonNegativeInt = _setting(0, "of weights, order and dropout")
    seeds: PositiveInt = _setting(
        1, "number of runs, from --seed upwards, summed up as mean and deviation"
    )
    accelerator: Literal["auto", "cpu", "gpu"] = _setting("auto", "where to compute")
    devices: PositiveInt = _setting(1, "processes, one a device")
    nodes: PositiveInt = _setting(1, "machines, each with --devices")
    test_curve: bool = _setting(
        False,
        "record the test score and the seconds of training alone for every epoch; chooses nothing",
    )
    # output
    runs_dir: str = _setting("runs", "folder of run folders")
    name: str | None = _setting(None, "run folder's name; default: made of data, model and seed")
    resume: bool = _setting(False, "go on with the run of this name from its last checkpoint")

    def __post_init__(self) -> None:
        parts_of(self.readout)
        if not ADJOINTS.fullmatch(self.adjoint):
            raise UserError(
                "--adjoint must be unrolled, checkpointed, implicit or truncated-K (K: 1 or more), "
                f"got {self.adjoint!r}"
            )
        if self.name is not None and ("/" in self.name or self.name in ("", ".", "..")):
            raise UserError(
                f"--name is a folder's name inside --runs-dir, without '/', got {self.name!r}"
            )


def require(value: T | None) -> T:
    """A setting that :func:`resolve` has filled in."""
    if value is None:
        raise ValueError("the configuration is not resolved yet: call resolve first")
    return value


def flag(name: str) -> str:
    """``"eval_steps" -> "--eval-steps"``."""
    return "--" + name.replace("_", "-")


def to_dict(config: Config) -> dict[str, Any]:
    """The settings that are not None, as plain values."""
    return {name: value for name, value in asdict(config).items() if value is not None}


# ---- presets


def resolve(config: Config, data_name: str) -> Config:
    """``config`` with nothing left open that a run needs; what is given stays as it is.

    Args:
        config: as given by the user.
        data_name: name of the data the run will see; ``--preset auto`` depends on it.
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
    iterative = set(parts_of(config.readout)).intersection(ITERATIVE)
    has_ea = config.local == "ea" or "ea" in iterative
    return replace(
        config,
        ea_lr=config.ea_lr if has_ea else None,
        ea_width=(config.ea_width or config.width) if iterative else None,
        eval_steps=config.eval_steps or config.steps,
        potential_width=config.potential_width or config.width,
        name=config.name or default_name(config, data_name),
    )


REQUIRED = ("width", "layers", "dropout", "epochs", "batch_size", "lr")


def load_preset(name: str) -> dict[str, Any]:
    """Settings of ``configs/molpcba/presets/NAME.yaml``; none for ``"none"``."""
    if name == "none":
        return {}
    path = PRESETS / f"{name}.yaml"
    try:
        return yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: run from a checkout of the repository") from error


def default_name(config: Config, data_name: str) -> str:
    """A run folder's name: data, model, readout, local aggregation and seed."""
    parts = [data_name, config.model + ("-vn" if config.virtual_node else "")]
    names = parts_of(config.readout)
    parts.append("+".join(f"{n}{config.steps}" if n in ITERATIVE else n for n in names))
    if config.local == "ea":
        parts.append(f"local-ea{config.steps}")
    return "-".join([*parts, f"seed{config.seed}"])


# ---- configuration of a run that exists


def to_yaml(config: Config) -> str:
    """``config.yaml`` of a run: everything that decides it, so that no preset fills in anything."""
    return yaml.safe_dump({**asdict(config), "preset": "none"}, sort_keys=False)


def saved_settings(content: dict[str, Any], where: str) -> dict[str, Any]:
    """Settings that a run of this or an older version recorded.

    A record names every setting its version had; one that is missing had no effect there, which is
    what None, or the default, means without a preset.

    Raises:
        UserError: for a setting that this version does not have.
    """
    unknown = sorted(content.keys() - {item.name for item in fields(Config)})
    if unknown:
        raise UserError(
            f"{where} has the setting {unknown[0]!r}, which this version does not have: use the "
            "version that wrote it, or remove the setting"
        )
    return {**content, "preset": "none"}


def is_saved(content: Any) -> bool:
    """Whether a YAML file is the ``config.yaml`` of a run, not settings somebody wrote."""
    always = {"name", "resume", "runs_dir", "nodes", "width", "epochs", "eval_steps"}
    return isinstance(content, dict) and always <= content.keys()


# ---- command line

EXAMPLES = """
Examples:
  python -m experiments.molpcba --model gin --steps 15
  python -m experiments.molpcba --config configs/molpcba/gcn_ea.yaml --data ogbg-molhiv
  python -m experiments.molpcba --csv my_molecules.csv.gz --split scaffold --readout mean
"""


def build_parser() -> ArgumentParser:
    """The parser: one flag for each field of :class:`Config`, and ``--config``."""
    parser = ArgumentParser(
        prog="python -m experiments.molpcba",
        description="Train a graph network with Equilibrium Aggregation on molecules." + EXAMPLES,
        exit_on_error=False,
    )
    parser.add_argument("--config", action="config", help="YAML file; flags win over it")
    hints = typing.get_type_hints(Config)
    for item in fields(Config):
        text = item.metadata["help"].format(parts=", ".join(PARTS))
        option: dict[str, Any] = {"default": item.default, "help": text}
        if hints[item.name] is bool:
            option["action"] = ActionYesNo(no_prefix="no-")
        else:
            option["type"] = _without_none(hints[item.name])
        parser.add_argument(flag(item.name), **option)
    return parser


def parse(argv: Sequence[str], defaults: dict[str, Any] | None = None) -> Config:
    """The configuration that ``argv`` describes.

    Args:
        argv: the words after ``python -m experiments.molpcba``.
        defaults: replace the defaults of :class:`Config`, for example those of a run to resume.

    Raises:
        UserError: for anything that is not a flag, key or value of the command.
        SystemExit: after printing, for ``--help`` and ``--print_config``.
    """
    parser = build_parser()
    configs, words = _split_words(argv)
    defaults = dict(defaults or {})
    for path in configs:
        content = _read_yaml(path)
        if is_saved(content):
            defaults |= saved_settings(content, path) | {"resume": False, "name": None}
        else:
            words = [f"--config={path}", *words]
    parser.set_defaults(defaults)
    try:
        namespace = parser.parse_args(words)
    except (ArgumentError, ValueError, TypeError) as error:
        raise UserError(_one_line(str(error))) from error
    values = namespace.as_dict()
    return Config(**{item.name: _plain(values[item.name]) for item in fields(Config)})


def _plain(value: Any) -> Any:
    """jsonargparse's checked numbers are subclasses, which YAML cannot write."""
    for kind in (int, float):
        if isinstance(value, kind) and not isinstance(value, bool):
            return kind(value)
    return value


def _split_words(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Files of ``--config``, over which flags win, and the other words; ``--eval_steps`` too."""
    configs: list[str] = []
    others: list[str] = []
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        if name.startswith("--") and name != "--print_config":
            name = name.replace("_", "-")
        if name == "--config":
            configs.append(value if equals else next(words, ""))
        else:
            others.append(name + equals + value)
    return configs, others


def _read_yaml(path: str) -> Any:
    try:
        return yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"--config {path} cannot be read ({reason}): expected YAML") from error


def _without_none(hint: Any) -> Any:
    """``int | None -> int``: None stands for "not given", which is no value to type."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
    return hint


def _one_line(message: str) -> str:
    """jsonargparse's message without its Python types."""
    text = " ".join(message.split())
    value = re.search(r'key "(\w+)": Not of type \w+: (.+)', text)
    if value is not None:
        bound = re.sub(r"(.+) does not conform to restriction v", r"\1, expected ", value[2])
        return f"{flag(value[1])}: {bound}; see --help"
    choice = re.search(r'key "(\w+)": Expected a (.+?)\. Got value: (.*)', text)
    if choice is not None:
        kind = choice[2].replace("typing.Literal", "one of ")
        return f"{flag(choice[1])} must be {kind}, got {choice[3]}; see --help"
    return text + "; see --help"
