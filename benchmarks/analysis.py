"""Ratios within rounds, and their spread."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Ratio:
    """Median and range of a ratio over rounds."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        """The median, and the range in brackets."""
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


def select(frame: pd.DataFrame, **where: object) -> pd.DataFrame:
    """Returns the rows whose columns have the given values."""
    for column, value in where.items():
        frame = frame[frame[column] == value]
    return frame


def ratio(frame: pd.DataFrame, contestant: str, reference: str, **where: object) -> Ratio | None:
    """Contestant over reference, round by round, so that a busy moment hits both.

    None where one of the two was not measured.
    """
    rows = select(frame, **where)
    columns = [
        select(rows, contestant=name).set_index("repetition")["value"]
        for name in (contestant, reference)
    ]
    quotients = (columns[0] / columns[1]).dropna()
    if quotients.empty:
        return None
    return Ratio(float(quotients.median()), float(quotients.min()), float(quotients.max()))


def smallest(ratios: dict[str, Ratio | None]) -> tuple[str, Ratio] | None:
    """Returns name and ratio with the smallest median, or None if nothing was measured."""
    known = {name: value for name, value in ratios.items() if value is not None}
    if not known:
        return None
    name = min(known, key=lambda key: known[key].median)
    return name, known[name]
