"""Command lines made of dataclasses: one flag for each field, in groups, with types in words."""

from __future__ import annotations

import argparse
import json
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import field, fields
from pathlib import Path
from typing import Any, cast

import yaml
from jsonargparse import ActionYesNo, ArgumentError, ArgumentParser

from experiments.common import UserError, read_yaml


def opt(default: Any, help: str) -> Any:
    """A field of a dataclass with its default and its meaning."""
    about = {"help": help, "default": default}
    return field(default_factory=lambda: copy(default), metadata=about)


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
        about = "YAML file; flags win over it"
        self.add_argument("--config", action="config", metavar="FILE", help=about)
        hints, group = typing.get_type_hints(kind), cast(Any, self)
        self.names = hints.keys()
        for item in fields(kind):
            if item.name in groups:
                group = self.add_argument_group(groups[item.name])
            option = _option(hints[item.name]) | item.metadata
            option["default"] = default = (defaults or {}).get(item.name, option["default"])
            if default is not None and default is not False:
                option["help"] += f"; default: {default}"
            group.add_argument(flag(item.name), **option)

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        """The help, without a control character of jsonargparse."""
        return super().format_help(formatter).replace(" \b", "")

    def values(
        self, argv: Sequence[str], adapt: Callable[[dict[str, Any]], dict[str, Any]] = dict
    ) -> dict[str, Any]:
        """The value of each field; flags win over files, whose content ``adapt`` may change.

        Leaves by ``SystemExit`` after ``--help`` and ``--print_config``.
        """
        finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        finder.add_argument("--config", action="append", type=Path, default=[])
        try:
            found, rest = finder.parse_known_args(list(argv))
            words: list[str] = []
            for path in found.config:
                content = adapt(read_yaml(path))
                for key in sorted(map(str, content.keys() - self.names)):
                    raise UserError(f"{path} has {key!r}, which is no setting; see --help")
                words += as_words(content)
            # Through YAML: jsonargparse's checked numbers are classes of their own.
            return yaml.safe_load(self.dump(self.parse_args([*words, *rest])))
        except UserError as error:
            raise UserError(f"--config {error}") from error
        except (ArgumentError, argparse.ArgumentError, ValueError, TypeError, OSError) as error:
            raise UserError(_one_line(str(error))) from error


def as_words(settings: Mapping[str, Any]) -> list[str]:
    """``{"lr": 0.1, "resume": False, "name": None} -> ["--lr=0.1", "--no-resume"]``."""
    words = []
    for key, value in settings.items():
        if isinstance(value, bool):
            words.append(flag(f"{'' if value else 'no_'}{key}"))
        elif value is not None:
            text = json.dumps(value) if isinstance(value, list) else value
            words.append(f"{flag(str(key))}={text}")
    return words


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
    text = re.sub(r"<class '(\w+)'>", r"\1", text)
    text = text.replace("does not conform to restriction v", "is not ").replace(" and v", " and ")
    return text.replace("a typing.Literal", "one of ") + "; see --help"
