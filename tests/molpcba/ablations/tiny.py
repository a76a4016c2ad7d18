"""The tiny study of these tests, and how its outcome is read."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

TINY = """
# Two readouts.
base: {width: 8, layers: 1, batch_size: 16, lr: 0.01, dropout: 0, epochs: 5, steps: 2, readout: ea}
reference: mean
rows:
  mean: {readout: mean}
  ea-1: {steps: 1}
  ea-2: {steps: 2}
"""
RUNS = [("mean", 0), ("mean", 1), ("ea-1", 0), ("ea-1", 1), ("ea-2", 0), ("ea-2", 1)]


def table(path: Path) -> pd.DataFrame:
    """The cells of a Markdown table."""
    lines = [line for line in path.read_text().splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return pd.DataFrame(rows[1:], columns=rows[0]).set_index("row")


def refused(call, capsys, *flags: str) -> str:
    capsys.readouterr()
    assert call(*flags) == 2
    line = capsys.readouterr().err.splitlines()[-1]  # what is said of the data stands before it
    assert line.startswith("error: ")
    return line
