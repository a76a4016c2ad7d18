"""Command lines made of dataclasses: one flag for each field, in groups, with types in words."""

from __future__ import annotations

import argparse
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, field
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionYesNo, ArgumentError, ArgumentParser

from experiments.common import UserError, read_yaml


def opt(default: Any, help: str) -> Any:
    """A field of a dataclass with its default and its meaning."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


def flag(name: str) -> str:
    """``"eval_steps" -> "--eval-steps"``."""
    return "--" + name.replace("_", "-")


class Parser(ArgumentParser):
    """Flags for the fields of a dataclass, and ``--config`` for a YAML file with the same keys.

    The fields are made by :func:`opt`. ``groups`` are titles of groups of flags, by the first field
    of each; ``defaults`` are values that replace the fields' own.
    """

    def __init__(
        self,
        kind: type,
        prog: str,
        description: str,
        groups: Mapping[str, str],
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            prog=prog,
            usage="%(prog)s [--config FILE] [--FLAG VALUE ...]",
            description=description,
            exit_on_error=False,
            formatter_class=argparse.HelpFormatter,
        )
        self.add_argument(
            "--config", action="config", metavar="FILE", help="YAML file; flags win over it"
        )
        group: Any = self
        items: dict[str, Field] = kind.__dataclass_fields__  # type: ignore[attr-defined]
        for name, hint in typing.get_type_hints(kind).items():
            if name in groups:
                group = self.add_argument_group(groups[name])
            item, option = items[name], _option(hint)
            own = item.default if item.default_factory is MISSING else item.default_factory()
            default = (defaults or {}).get(name, own)
            shown = "" if default is None or default is False else f"; default: {default}"
            help = f"{item.metadata['help']}{shown}"
            group.add_argument(flag(name), **option, default=default, help=help)

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        """The help, without a control character of jsonargparse."""
        return super().format_help(formatter).replace(" \b", "")

    def values(self, argv: Sequence[str], closing: Sequence[str] = ()) -> dict[str, Any]:
        """The value of each field, from these words; flags win over files, ``closing`` over all.

        Leaves by ``SystemExit`` after ``--help`` and ``--print_config``.
        """
        try:
            files, rest = split(argv)
            words = [*(f"--config={path}" for path in files), *rest, *closing]
            # Through YAML: jsonargparse's checked numbers are classes of their own.
            values = yaml.safe_load(self.dump(self.parse_args(words)))
        except (ArgumentError, argparse.ArgumentError, ValueError, TypeError, OSError) as error:
            raise UserError(_one_line(str(error))) from error
        values.pop("config", None)
        return values


def split(argv: Sequence[str]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The files given by ``--config`` with their content, and the other words."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", action="append", default=[])
    try:
        found, rest = parser.parse_known_args(list(argv))
        return {path: read_yaml(Path(path)) for path in found.config}, rest
    except argparse.ArgumentError as error:
        raise UserError(str(error)) from error
    except UserError as error:
        raise UserError(f"--config {error}") from error


def _option(hint: Any) -> dict[str, Any]:
    """Type of a flag for the parser, and in words."""
    if hint is bool:
        return {"action": ActionYesNo(no_prefix="no-")}
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = typing.get_args(hint)[0]  # None: not given, which is no value to type
    if typing.get_origin(hint) is typing.Literal:
        return {"type": hint, "metavar": "{" + ",".join(typing.get_args(hint)) + "}"}
    if typing.get_origin(hint) is list:
        return {"type": hint, "metavar": "[A,B,...]"}
    word = {int: "INTEGER", float: "NUMBER", str: "TEXT"}
    return {"type": hint, "metavar": next(w for own, w in word.items() if issubclass(hint, own))}


def _one_line(message: str) -> str:
    """jsonargparse's message with flags for its keys and without its Python types."""
    text = " ".join(message.split())
    text = re.sub(r'.*key "(\w+)": (Not of type \w+: )?', lambda match: f"{flag(match[1])}: ", text)
    text = text.replace("does not conform to restriction v", "is not ").replace(" and v", " and ")
    return text.replace("a typing.Literal", "one of ") + "; see --help"
