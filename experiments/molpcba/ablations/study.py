"""A study: which runs it consists of, read from ``configs/ablations/NAME.yaml``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from experiments.molpcba.cli import parse
from experiments.molpcba.config import Config, flag, known
from experiments.molpcba.errors import UserError
from experiments.molpcba.models import build_network
from experiments.molpcba.presets import resolve

FOLDER = Path(__file__).resolve().parents[3] / "configs" / "ablations"
OWN = ("config", "name", "resume", "seeds", "split_seed", "devices", "nodes", "test_curve")
"""Settings that a study decides itself, or that make no sense in one."""


@dataclass(frozen=True)
class Row:
    """One row of a study.

    Args:
        name: of the row and, with the seed, of its run folders.
        settings: of the trainer, over the shared ones.
        reference: the row that paired differences are taken to.
        match: give the head a hidden layer so wide that the network has as many parameters as that
            row's.
        head_of: give the head the hidden layer of that row.
        potential_share: width of the potential, as a share of the network's.
    """

    name: str
    settings: dict[str, Any]
    reference: str
    match: str | None = None
    head_of: str | None = None
    potential_share: float | None = None


@dataclass(frozen=True)
class Tuning:
    """A setting that each row has its own best value of.

    Args:
        setting: of the trainer.
        values: to be tried, the same for every row.
        seed: of the runs that try them. Choose one that no run of the study itself has.
    """

    setting: str
    values: tuple[Any, ...]
    seed: int


@dataclass(frozen=True)
class Study:
    """A grid of settings.

    Args:
        name: of its file.
        base: the trainer's settings that all rows share.
        rows: in the order of the table.
        tuning: what is tuned for each row first, on the valid part alone.
    """

    name: str
    base: dict[str, Any]
    rows: dict[str, Row]
    tuning: Tuning | None = None

    @classmethod
    def read(cls, name: str) -> Study:
        """The study of that name.

        Raises:
            UserError: when its file does not hold what it should.
        """
        path = FOLDER / f"{name}.yaml"
        content = yaml.safe_load(path.read_text())
        try:
            base = _shared(content.get("shared")) | content.get("base", {})
            reference = content["reference"]
            rows = {
                row: _row(row, entry or {}, reference) for row, entry in content["rows"].items()
            }
            tune = content.get("tune")
            tuning = tune and Tuning(tune["setting"], tuple(tune["values"]), int(tune["seed"]))
        except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
            raise UserError(
                f"{path} must have rows and reference, may have base and shared (the name of a "
                f"file in {FOLDER / 'shared'}), and in tune, if it is there, setting, values and "
                f"seed ({type(error).__name__}: {error})"
            ) from error
        for row in rows.values():
            for other in (row.reference, row.match, row.head_of):
                if other is not None and other not in rows:
                    raise UserError(f"{path}: row {row.name} names {other}, which is no row")
        return cls(name, base, rows, tuning)

    def configurations(self, flags: Sequence[str], data_name: str, tasks: int) -> dict[str, Config]:
        """The resolved settings of each row, whatever the seed.

        Args:
            flags: the trainer's, which win over the study's base.
            data_name: name of the data.
            tasks: number of the network's outputs, on which the size of a matched head depends.

        Raises:
            UserError: for a setting that is none, or one that is not the user's to give.
        """
        self._check(flags)
        common = [*as_flags(self.base), *flags, "--test-curve"]
        if self.tuning is not None:
            for value in self.tuning.values:
                parse(as_flags({self.tuning.setting: value}))
        plain = {
            name: resolve(parse([*common, *as_flags(row.settings), "--name", name]), data_name)
            for name, row in self.rows.items()
        }
        for name, row in self.rows.items():
            if row.potential_share is not None:
                width = max(1, round(row.potential_share * known(plain[name].width)))
                plain[name] = replace(plain[name], potential_width=width)
        matched = {
            name: replace(plain[name], head_width=_matching(plain[name], plain[row.match], tasks))
            for name, row in self.rows.items()
            if row.match is not None
        }
        settled = plain | matched
        for name, row in self.rows.items():
            if row.head_of is not None:
                width = settled[row.head_of].head_width
                settled[name] = replace(settled[name], head_width=width)
        return settled

    def _check(self, flags: Sequence[str]) -> None:
        given = {word.partition("=")[0][2:].replace("-", "_") for word in flags if word[:2] == "--"}
        given |= {name.removeprefix("no_") for name in given}
        for name in sorted(given.intersection(OWN)):
            raise UserError(f"{flag(name)} is not for studies: leave it out")
        if self.tuning is not None and self.tuning.setting in given:
            raise UserError(
                f"{flag(self.tuning.setting)} is what {self.name} tunes for each row: leave it "
                f"out, or change tune in {FOLDER / self.name}.yaml"
            )
        for row in self.rows.values():
            for name in sorted(given & row.settings.keys()):
                raise UserError(
                    f"{flag(name)} is what row {row.name} of {self.name} sets: leave it out, or "
                    f"change {FOLDER / self.name}.yaml"
                )


def names() -> list[str]:
    """All studies there are."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def as_flags(settings: dict[str, Any]) -> list[str]:
    """``{"lr": 0.1} -> ["--lr=0.1"]``: the command line checks names and values."""
    return [f"{flag(name)}={_word(value)}" for name, value in settings.items()]


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _shared(name: str | None) -> dict[str, Any]:
    """Settings that several studies have in common."""
    return {} if name is None else yaml.safe_load((FOLDER / "shared" / f"{name}.yaml").read_text())


def _row(name: str, entry: dict[str, Any], reference: str) -> Row:
    special = ("reference", "match", "head_of", "potential_share")
    own = {key: entry[key] for key in special if key in entry}
    settings = {key: value for key, value in entry.items() if key not in special}
    return Row(name, settings, **{"reference": reference, **own})


def _matching(config: Config, target: Config, tasks: int) -> int:
    """The ``head_width`` with which ``config`` comes closest to the parameters of ``target``."""
    count: Callable[[Config], int] = lambda c: parameters(c, tasks)  # noqa: E731
    one, two = (count(replace(config, head_width=width)) for width in (1, 2))
    return max(1, 1 + round((count(target) - one) / (two - one)))


def parameters(config: Config, tasks: int) -> int:
    """Number of trained parameters of a network."""
    return sum(p.numel() for p in build_network(config, tasks).parameters() if p.requires_grad)
