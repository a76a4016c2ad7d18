"""The command line and YAML files, turned into a :class:`Config`."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from jsonargparse import ActionYesNo, ArgumentError, ArgumentParser

from experiments.molpcba.adjoints import NAMES
from experiments.molpcba.config import Config, flag
from experiments.molpcba.errors import UserError
from experiments.molpcba.readouts import PARTS

EXAMPLES = """
Examples:
  python -m experiments.molpcba --model gin --steps 15
  python -m experiments.molpcba --config configs/molpcba/gcn_ea.yaml --data ogb
  python -m experiments.molpcba --csv my_molecules.csv.gz --split scaffold --readout mean
"""


def build_parser(exit_on_error: bool = False) -> ArgumentParser:
    """The parser: one flag for each field of :class:`Config`, and ``--config``."""
    parser = ArgumentParser(
        prog="python -m experiments.molpcba",
        description="Train a graph network with Equilibrium Aggregation on molecules." + EXAMPLES,
        exit_on_error=exit_on_error,
    )
    parser.add_argument("--config", action="config", help="YAML file; flags win over it")
    hints = typing.get_type_hints(Config)
    for item in fields(Config):
        text = item.metadata["help"].format(parts=", ".join(PARTS), adjoints=", ".join(NAMES))
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
    parser.set_defaults(defaults or {})
    try:
        namespace = parser.parse_args(_normalised(argv))
    except (ArgumentError, ValueError, TypeError) as error:
        raise UserError(_one_line(str(error))) from error
    values = namespace.as_dict()
    return Config(**{item.name: values[item.name] for item in fields(Config)})


def _normalised(argv: Sequence[str]) -> list[str]:
    """``--config`` first, so that flags win over it; ``--eval_steps`` as ``--eval-steps``."""
    configs: list[str] = []
    others: list[str] = []
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        if name.startswith("--") and name != "--print_config":
            word = name.replace("_", "-") + equals + value
        if word == "--config":
            configs += [word, *[value for value in [next(words, None)] if value is not None]]
        elif word.startswith("--config="):
            configs.append(word)
        else:
            others.append(word)
    return configs + others


def _without_none(hint: Any) -> Any:
    """``int | None -> int``: None stands for "not given", which is no value to type."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
    return hint


def _one_line(message: str) -> str:
    """jsonargparse's message without its Python types."""
    text = " ".join(message.split())
    typed = re.search(r'Parser key "(\w+)": Expected a (.+?)\. Got value: (.*)', text)
    if typed is None:
        return text + "; see --help"
    name, kind, value = typed.groups()
    kind = re.sub(r"<class '(\w+)'>", r"\1", kind).replace("typing.Literal", "one of ")
    return f"{flag(name)} must be {kind}, got {value}; see --help"
