"""Defaults that follow the data, read from the files that also serve as their documentation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from experiments.molpcba.config import Config, to_dict
from experiments.molpcba.errors import UserError
from experiments.molpcba.readouts import ITERATIVE, parts_of

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "molpcba" / "presets"
REFERENCE_DATA = "ogbg-molpcba"


def resolve(config: Config, data_name: str) -> Config:
    """``config`` with nothing left open that a run needs; what is given stays as it is.

    Args:
        config: as given by the user.
        data_name: name of the data the run will see; ``--preset auto`` depends on it.

    Raises:
        UserError: when a preset's file is missing.
    """
    preset = config.preset
    if preset == "auto":
        preset = "reference" if data_name == REFERENCE_DATA else "small"
    given = to_dict(config)
    missing = {key: value for key, value in load_preset(preset).items() if key not in given}
    resolved = replace(config, **missing, preset=preset)
    name = resolved.name or default_name(resolved, data_name)
    return replace(
        resolved,
        ea_lr=resolved.ea_lr if _has_ea(resolved) else None,
        ea_width=_ea_width(resolved),
        eval_steps=resolved.eval_steps or resolved.steps,
        potential_width=resolved.potential_width or resolved.width,
        name=name,
    )


def load_preset(name: str) -> dict[str, Any]:
    """Settings of ``configs/molpcba/presets/NAME.yaml``."""
    path = FOLDER / f"{name}.yaml"
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


def _ea_width(config: Config) -> int | None:
    """None without a readout that it is the size of."""
    there = set(parts_of(config.readout)).intersection(ITERATIVE)
    return (config.ea_width or config.width) if there else None


def _has_ea(config: Config) -> bool:
    return config.local == "ea" or "ea" in parts_of(config.readout)
