"""Names of data sets and readouts, folders, and Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from experiments.records import Records

RESULTS = Path(__file__).parents[1] / "results"
MADE = Path(__file__).parent / "made"
STYLE = Path(__file__).parents[1] / "experiments" / "pictures.mplstyle"

SETS = ("embedded-nci", "pcba-19k", "binding-60k")
"""Data sets of the README."""

READOUTS = {
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
"""What the pages call the rows of the protocol. The glossary explains the names."""
LEADING = ("mean+sum+max", "mean+sum+max-hidden", "ea", "ea+mean+sum+max")
SHORT = ("mean", "mean-hidden", "pna", *LEADING)
"""Rows of the README."""

NEIGHBOURS = {
    f"{model}-{row}": f"{model.upper()}, {label}"
    for model in ("gin", "gcn")
    for row, label in {
        "sum": "sum",
        "sum-wide": "sum, wider network",
        "sum-ea": "EA beside the sum",
        "ea": "EA in place of the sum",
    }.items()
}
"""What the pages call the rows of the studies of local aggregation."""
WHOLE = {
    "sum-head": "sum, MLP",
    "max-head": "max, MLP",
    "mean+sum+max-head": "mean+sum+max, MLP",
    "wide-ea": "EA 384",
    "ea+mean+sum+max": "EA 320 + mean+sum+max",
}
"""What the pages call the rows of the study of many molecules."""


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
