"""What is read off the measurements: ratios within rounds, slopes, shares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Ratio:
    """A ratio's median over rounds and its spread."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        """The median, and the range in brackets."""
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


def select(frame: pd.DataFrame, **where: object) -> pd.DataFrame:
    """The rows whose columns have the values given."""
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
    """Name and ratio of the smallest median; None where nothing was measured."""
    known = {name: value for name, value in ratios.items() if value is not None}
    if not known:
        return None
    name = min(known, key=lambda key: known[key].median)
    return name, known[name]


def slope(frame: pd.DataFrame, variable: str, contestant: str, quantity: str) -> float | None:
    """Slope of log time over log size by least squares on medians: 1 is linear, 2 quadratic."""
    rows = select(frame, section="growth", case=variable, contestant=contestant, quantity=quantity)
    medians = rows.groupby(variable)["value"].median()
    if len(medians) < 2:
        return None
    return float(np.polyfit(np.log(medians.index), np.log(medians), 1)[0])


def bound(frame: pd.DataFrame, case: str, contestant: str) -> tuple[float, float, float] | None:
    """For a step of section ``limit``: seconds of its products at the measured rate, measured
    seconds, and the first over the second."""
    rows = select(frame, section="limit", case=case)
    rates = select(rows, quantity="rate")["value"]
    products = select(rows, contestant=contestant, quantity="products")["value"]
    measured = select(rows, contestant=contestant, quantity="step")["value"]
    if rates.empty or products.empty or measured.empty:
        return None
    rate = len(rates) / (1 / rates).sum()  # equal work in each kind of product
    seconds = float(products.iloc[0] / rate)
    return seconds, float(measured.median()), seconds / float(measured.median())
