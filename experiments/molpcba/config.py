"""The configuration of a run: every setting once, with its default and meaning."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeVar

from experiments.molpcba.adjoints import build_adjoint
from experiments.molpcba.errors import UserError
from experiments.molpcba.readouts import parts_of

T = TypeVar("T")


def _setting(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Config:
    """All settings of a run. A setting that is None follows another one or the data.

    The command line has one flag for each field (``eval_steps`` is ``--eval-steps``), a YAML file
    one key. :func:`experiments.molpcba.presets.resolve` fills in what follows the data.
    """

    # data
    data: Literal["auto", "ogb", "embedded"] = _setting(
        "auto",
        "ogb: ogbg-molpcba, on disk or downloaded; embedded: 4,991 real molecules that come with "
        "RDKit, no network; auto: ogb if it can be had, else embedded",
    )
    root: str = _setting("dataset", "folder of prepared data")
    csv: str | None = _setting(None, "train on this table (columns: tasks with 0/1/empty, smiles)")
    data_name: str | None = _setting(None, "name of the --csv data; default: the file's")
    split: Literal["ogb", "scaffold", "random"] | None = _setting(
        None, "division into train, valid and test; default: the data's own"
    )
    split_seed: int = _setting(0, "seed of the random split")
    preset: Literal["auto", "small", "reference"] = _setting(
        "auto",
        "sizes and schedule where not given: reference is OGB's recipe, small learns in minutes on "
        "a CPU; auto: reference for ogbg-molpcba, else small",
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
    width: int | None = _setting(None, "node features; follows the preset")
    layers: int | None = _setting(None, "rounds of message passing; follows the preset")
    dropout: float | None = _setting(None, "follows the preset")
    readout_norm: Literal["layer", "none"] | None = _setting(
        None, "norm behind each part of the readout, whatever it is; follows the preset"
    )
    head_width: int = _setting(0, "width of a hidden layer between readout and output; 0: none")
    # Equilibrium Aggregation
    steps: int = _setting(15, "inner steps of EA")
    eval_steps: int | None = _setting(None, "inner steps in evaluation; default: --steps")
    ea_width: int | None = _setting(
        None, "size of the EA readout's vector; follows the preset, without one --width"
    )
    potential_width: int | None = _setting(None, "width of EA's potential; default: --width")
    inner_lr: float = _setting(0.125, "inner step size at the start (it is trained)")
    inner_momentum: float = _setting(0.9, "inner momentum at the start (it is trained)")
    inner_gtol: float = _setting(1e-3, "gradient below which a graph's inner loop rests")
    inner_clip: float | None = _setting(None, "clip y to [-c, c] after each inner step")
    regulariser: float = _setting(0.1, "weight of ||y||^2 at the start (it is trained)")
    adjoint: str = _setting("unrolled", "how backward goes through the steps: {adjoints}")
    aux_weight: float | None = _setting(
        None, "weight of the readout's auxiliary loss; follows the preset (the paper: 1)"
    )
    local_aux_weight: float = _setting(1e-4, "weight of local EA's auxiliary loss")
    aux_reading: Literal["final", "path"] = _setting("final", "reading of the auxiliary loss")
    # training
    epochs: int | None = _setting(None, "follows the preset")
    batch_size: int | None = _setting(None, "graphs a step on each device; follows the preset")
    lr: float | None = _setting(None, "Adam's learning rate; follows the preset")
    ea_lr: float | None = _setting(
        None, "the same of EA's own parameters; follows the preset, without one --lr"
    )
    schedule: Literal["constant", "cosine"] | None = _setting(
        None, "learning rate over training; follows the preset"
    )
    warmup: int = _setting(0, "steps over which the learning rate rises to --lr")
    weight_decay: float = _setting(0.0, "decoupled weight decay")
    gradient_clip: float | None = _setting(None, "largest gradient norm; default: no limit")
    ema: float | None = _setting(None, "decay of an average of the weights to evaluate with")
    patience: int | None = _setting(None, "stop after so many epochs without a better valid score")
    precision: Literal["32", "bf16", "64"] = _setting("32", "bf16 is mixed precision")
    compile: bool = _setting(
        False,
        "compile EA's inner step: half a minute at first, no gain on a CPU; needs a C++ compiler",
    )
    seed: int = _setting(0, "of weights, order and dropout")
    seeds: int = _setting(1, "number of runs, from --seed upwards, summed up as mean and deviation")
    accelerator: Literal["auto", "cpu", "gpu"] = _setting("auto", "where to compute")
    devices: int = _setting(1, "processes, one a device")
    nodes: int = _setting(1, "machines, each with --devices")
    test_curve: bool = _setting(
        False,
        "record the test score and the seconds of training alone for every epoch; chooses nothing",
    )
    # output
    runs_dir: str = _setting("runs", "folder of run folders")
    name: str | None = _setting(None, "run folder's name; default: made of data, model and seed")
    resume: bool = _setting(False, "go on with the run of this name from its last checkpoint")

    def __post_init__(self) -> None:
        for names, least, strict in _BOUNDS:
            for name in names:
                _check_at_least(name, getattr(self, name), least, strict)
        for name in ("dropout", "inner_momentum", "ema"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise UserError(f"{flag(name)} must be at least 0 and below 1, got {value}")
        parts_of(self.readout)
        build_adjoint(self.adjoint)
        if not self.inner_momentum > 0:
            raise UserError("--inner-momentum must be above 0: it is trained from there")
        if self.name is not None and ("/" in self.name or self.name in ("", ".", "..")):
            raise UserError(
                f"--name is a folder's name inside --runs-dir, without '/', got {self.name!r}"
            )


_BOUNDS: tuple[tuple[tuple[str, ...], float, bool], ...] = (
    (
        ("steps", "eval_steps", "ea_width", "potential_width", "width", "layers", "epochs"),
        1,
        False,
    ),
    (("batch_size", "seeds", "devices", "nodes", "patience"), 1, False),
    (("lr", "ea_lr", "inner_lr", "regulariser", "inner_clip", "gradient_clip"), 0, True),
    (("seed", "split_seed", "head_width", "warmup", "weight_decay", "inner_gtol"), 0, False),
    (("aux_weight", "local_aux_weight"), 0, False),
)
"""Names, least value, and whether the value has to be above it."""


def _check_at_least(name: str, value: float | None, least: float, strict: bool) -> None:
    if value is None:
        return
    if not (least < value < float("inf") if strict else least <= value < float("inf")):
        bound = f"above {least}" if strict else f"{least} or more"
        raise UserError(f"{flag(name)} must be {bound}, got {value}")


def known(value: T | None) -> T:
    """A setting that resolving has filled in."""
    if value is None:
        raise ValueError("the configuration is not resolved yet: call presets.resolve first")
    return value


def flag(name: str) -> str:
    """``"eval_steps" -> "--eval-steps"``."""
    return "--" + name.replace("_", "-")


def to_dict(config: Config) -> dict[str, Any]:
    """The settings that are not None, as plain values."""
    return {name: value for name, value in asdict(config).items() if value is not None}


def field_names() -> list[str]:
    """Names of all settings, in order."""
    return [f.name for f in fields(Config)]
