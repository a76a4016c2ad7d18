"""Names of data sets and readouts, folders, and Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from experiments.records import Records

RESULTS = Path(__file__).parents[1] / "results"
MADE = Path(__file__).parent / "made"
STYLE = Path(__file__).parents[1] / "experiments" / "pictures.mplstyle"


class Shown(NamedTuple):
    """A data set on which a study compares readouts."""

    title: str
    study: str = "readout"


DATA = {
    "embedded-nci": Shown("embedded-nci: 4,991 molecules, exact labels"),
    "pcba-19k": Shown("pcba-19k: 19,144 molecules, noisy labels"),
    "hiv": Shown("hiv: 41,127 molecules, scaffold split"),
    "binding-60k": Shown("binding-60k: 59,944 molecules, measured labels", "heads"),
    "binding-212k": Shown("binding-212k: 212,231 molecules, measured labels", "whole"),
}

LABELS = {
    "readout": {
        "mean": "mean",
        "sum": "sum",
        "max": "max",
        "attention": "attention",
        "set2set": "Set2Set",
        "set-transformer": "Set Transformer",
        "pna": "PNA",
        "pyg-ea": "PyG EA 64",
        "mean-head": "mean, small MLP",
        "mean-wide-head": "mean, MLP",
        "sum-wide-head": "sum, MLP",
        "max-wide-head": "max, MLP",
        "attention-wide-head": "attention, MLP",
        "set-transformer-wide-head": "Set Transformer, MLP",
        "pna-wide-head": "PNA, MLP",
        "pyg-ea-wide-head": "PyG EA 64, MLP",
        "mean+sum+max": "mean+sum+max",
        "mean+sum+max-head": "mean+sum+max, small MLP",
        "mean+sum+max-wide-head": "mean+sum+max, MLP",
        "ea": "EA 64",
        "ea-head": "EA 64, small MLP",
        "wide-ea": "EA 384",
        "half-ea": "small EA 384",
        "ea+mean+sum+max": "EA 64 + mean+sum+max",
        "ea+mean+sum+max-head": "EA 64 + mean+sum+max, small MLP",
        "wide-ea+mean+sum+max": "EA 384 + mean+sum+max",
    },
    "heads": {
        "mean-head": "mean, MLP",
        "sum-head": "sum, MLP",
        "max-head": "max, MLP",
        "mean+sum+max-head": "mean+sum+max, MLP",
        "attention-head": "attention, MLP",
        "set-transformer-head": "Set Transformer, MLP",
        "pna": "PNA",
        "pna-head": "PNA, MLP",
        "wide-ea": "EA 384",
        "pyg-ea": "small PyG EA 384",
        "half-ea": "small EA 384",
        "half-ea-head": "small EA 384, MLP",
        "ea+mean+sum+max": "EA 320 + mean+sum+max",
        "half-ea+mean+sum+max": "small EA 384 + mean+sum+max",
        "narrow-ea+mean+sum+max-head": "small EA 64 + mean+sum+max, MLP",
    },
}
"""What the pages call the rows of a study. The glossary explains the names."""

LABELS["protocol"] = {
    "mean": "mean",
    "sum": "sum",
    "max": "max",
    "attention": "attention",
    "set2set": "Set2Set",
    "set-transformer": "Set Transformer",
    "deepsets": "DeepSets",
    "pna": "PNA",
    "mean+sum+max": "mean+sum+max",
    "pyg-ea": "small PyG EA 384",
    "half-ea": "small EA 384",
    "ea": "EA 384",
    "ea+mean+sum+max": "EA 384 + mean+sum+max",
    "mean-hidden": "mean, MLP",
    "sum-hidden": "sum, MLP",
    "max-hidden": "max, MLP",
    "attention-hidden": "attention, MLP",
    "pna-hidden": "PNA, MLP",
    "mean+sum+max-hidden": "mean+sum+max, MLP",
    "half-ea-hidden": "small EA 384, MLP",
    "half-ea+mean+sum+max-hidden": "small EA 384 + mean+sum+max, MLP",
    "mean-hidden-skip": "mean, MLP + linear",
    "mean+sum+max-hidden-skip": "mean+sum+max, MLP + linear",
    "mean+sum+max-hidden-bare": "mean+sum+max, MLP, no norm",
}
LABELS["local-protocol"] = {
    f"{model}-{row}": f"{model.upper()}, {label}"
    for model in ("gin", "gcn")
    for row, label in {
        "sum": "sum",
        "sum-wide": "sum, wider network",
        "sum-ea": "EA beside the sum",
        "ea": "EA in place of the sum",
    }.items()
}
LABELS["whole"] = {
    row: LABELS["heads"][row]
    for row in ("sum-head", "max-head", "mean+sum+max-head", "wide-ea", "ea+mean+sum+max")
}
LEADING = {
    row: LABELS["protocol"][row]
    for row in ("mean+sum+max", "mean+sum+max-hidden", "ea", "ea+mean+sum+max")
}
"""The leading rows of the protocol."""
LABELS["dropout"] = LEADING
SHORT = {
    row: LABELS["protocol"][row]
    for row in (
        "mean",
        "mean-hidden",
        "mean+sum+max",
        "mean+sum+max-hidden",
        "pna",
        "pyg-ea",
        "half-ea",
        "ea",
        "ea+mean+sum+max",
    )
}
"""Readouts of the README."""


def runs_of(study: str, data: str) -> pd.DataFrame:
    """Returns the recorded runs of a study on a data set."""
    return Records(RESULTS / "ablations" / f"{study}-on-{data}").runs


def folders(pattern: str) -> list[Path]:
    """Returns the folders of records that match."""
    return sorted(path for path in RESULTS.glob(pattern) if path.is_dir())


def table(head: Sequence[str], rows: Sequence[Sequence[object]], align: str = "--:") -> str:
    """Returns a table in Markdown; ``align`` applies to all columns but the first."""
    lines = [head, ["---"] + [align] * (len(head) - 1), *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)
