"""Tables of the study, made from its records alone."""

from __future__ import annotations

from typing import Any

import pandas as pd

from experiments.median.aggregators import AGGREGATORS

Runs = list[dict[str, Any]]


def summarise(runs: Runs) -> pd.DataFrame:
    """One row for each method, in the order of increasing error.

    ``mse`` is the error at the end, averaged over seeds, ``std`` its spread over seeds, ``rmse``
    the root of ``mse``; ``best`` the best evaluation of any seed; ``ratio`` is ``mse`` in units of
    the smallest ``mse`` of a method that is not ours.
    """
    frame = pd.DataFrame(runs)
    groups = frame.groupby("method")
    table = pd.DataFrame(
        {
            "seeds": groups["seed"].nunique(),
            "learning_rate": groups["learning_rate"].first(),
            "parameters": groups["parameters"].first(),
            "mse": groups["final_mse"].mean(),
            "std": groups["final_mse"].std(),
            "rmse": groups["final_mse"].mean() ** 0.5,
            "best": groups["best_mse"].min(),
            "seconds": groups["seconds"].mean(),
        }
    )
    others = [name for name in table.index if not AGGREGATORS[name].ours]
    reference = table.loc[others, "mse"].min() if others else float("nan")
    table.insert(3, "ratio", table["mse"] / reference)
    return table.sort_values("mse")


def render(table: pd.DataFrame) -> str:
    """The summary as text for a terminal."""
    shown = table.rename(index=lambda name: AGGREGATORS[name].label)
    shown.index.name = None
    formats = {
        **dict.fromkeys(["mse", "std", "best"], "{:.2e}".format),
        "rmse": "{:.5f}".format,
        "ratio": "{:.3f}".format,
        "seconds": "{:.0f}".format,
        "learning_rate": "{:g}".format,
    }
    return shown.to_string(formatters=formats)


def as_json(table: pd.DataFrame, runs: Runs) -> dict[str, Any]:
    """The summary with what is needed to make it again."""
    rows = table.astype(object).where(table.notna(), None).to_dict(orient="index")
    for name, row in rows.items():
        row["label"] = AGGREGATORS[str(name)].label
        row["final_mse_by_seed"] = {
            run["seed"]: run["final_mse"] for run in runs if run["method"] == name
        }
    return {
        "metric": "mean squared error of the median",
        "methods": rows,
        "steps": runs[0]["steps"],
        "config": runs[0]["config"],
        "environments": [dict(e) for e in sorted({tuple(r["environment"].items()) for r in runs})],
    }
