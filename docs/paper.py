"""Table of the page "Reproduce the paper"."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from benchmarks.records import read
from docs.common import RESULTS, runs_of, table
from docs.costs import model_ratio
from experiments.common import duration
from experiments.records import FRESH, Records


def paper_table() -> str:
    """Every table and figure of the paper's appendix, beside what came out here."""
    median = Records(RESULTS / "median-published").runs.groupby("row")["test"].mean()
    best_other = median.drop(["ea", "ea_quantile"]).min()
    models = read(RESULTS / "benchmarks" / "model-2-cores")
    times = [model_ratio(models, "unrolled", steps).median for steps in (2, 5, 10)]
    study, ablations = "python -m experiments.studies", RESULTS / "ablations"
    trained = RESULTS / "molpcba" / "embedded" / "embedded-nci-gin-ea15-seed0" / "metrics.csv"
    return table(
        ["what", "the paper", "here", "command", "time on two cores", "prints"],
        [
            [
                "Figure 3, D.1: median of a set, error over the best other aggregator's",
                "about 0.1",
                f"{median['ea_quantile'] / best_other:.1f} with the quantile potential; "
                f"{median['ea'] / best_other:.1f} with the learned one",
                "`python -m experiments.median --config configs/median/published.yaml --jobs 2`",
                _time(RESULTS / "median-published"),
                "squared error of each aggregator",
            ],
            [
                "Figure C.1: step size, momentum, regulariser over training",
                "settle after 10⁶ steps",
                "[stay within 4 % of their start](records.md#step-size-and-momentum)",
                "`python -m experiments.molpcba --data embedded --steps 15 --epochs 20 --lr 0.02 "
                "--dropout 0.1 --readout-norm layer`",
                duration(sum(pd.read_csv(trained)["seconds"])),
                "scores; the curves are in `learning.png`",
            ],
            [
                "D.2: MOLPCBA, GCN and GIN, global and local EA",
                "in the main text",
                "not run: 437,929 molecules need a GPU",
                "`python -m experiments.molpcba --config configs/molpcba/gin_ea.yaml`",
                "not run",
                "scores",
            ],
            [
                "D.2: local EA, difference to the sum, GIN / GCN",
                "in the main text",
                " / ".join(
                    f"{_difference('local-protocol', row, other):+.3f}"
                    for row, other in (("gin-ea", "gin-sum"), ("gcn-ea", "gcn-sum"))
                ),
                f"`{study} local-protocol --jobs 2`",
                _time(ablations / "local-protocol-on-embedded-nci"),
                "AP of each aggregation of neighbours",
            ],
            [
                "E.1: valid AP with 1 / 2 / 5 / 10 steps",
                "0.235 / 0.257 / 0.263 / 0.268",
                _valid("steps", "ea-1", "ea-2", "ea-5", "ea-10"),
                f"`{study} steps --epochs 20 --jobs 2`",
                _time(ablations / "steps-on-embedded-nci"),
                "AP for each number of steps",
            ],
            [
                "E.2: time with 2 / 5 / 10 steps over the sum's",
                "1.42 / 1.84 / 2.86",
                " / ".join(f"{value:.2f}" for value in times),
                "`python -m benchmarks --threads 2 --only model --contestants sum unrolled "
                "half-width --rounds 3`",
                duration(models["value"].sum()),
                "time over the sum's",
            ],
            [
                "E.3: valid AP with auxiliary weight 1e-4 / 1e-3 / 1e-2 / 1e-1 / 1",
                "0.250 / 0.261 / 0.257 / 0.254 / 0.263",
                _valid("aux", "aux-0.0001", "aux-0.001", "aux-0.01", "aux-0.1", "aux-1"),
                f"`{study} aux --epochs 20 --jobs 2`",
                _time(ablations / "aux-on-embedded-nci"),
                "AP for each weight",
            ],
            [
                "E.4: valid AP with 10 / 30 / 60 / 100 / 130 % of the potential's width",
                "0.208 / 0.218 / 0.228 / 0.233 / 0.222",
                _valid("capacity", *(f"{share}-percent" for share in (10, 30, 60, 100, 130))),
                f"`{study} capacity --epochs 20 --jobs 2`",
                _time(ablations / "capacity-on-embedded-nci"),
                "AP for each width",
            ],
        ],
        align="---",
    )


def _valid(study: str, *rows: str) -> str:
    runs = runs_of(study, "embedded-nci")
    return " / ".join(f"{runs.loc[runs['row'] == row, 'valid'].mean():.3f}" for row in rows)


def _time(folder: Path) -> str:
    """Training time of all runs of a study, made on one thread each, two at a time."""
    records = Records(folder)
    runs, epochs = records.runs, records.runs["epochs"]
    is_fresh = runs["split"].iloc[0].startswith(FRESH)
    seconds = (runs["train_seconds"] * (1 if is_fresh else epochs)).sum()
    steps = records.tuning["config"].map(lambda config: json.loads(config)["steps"]).sum()
    if steps:  # the runs by which a rate was chosen are not timed
        seconds *= 1 + steps / epochs.sum()
    return duration(seconds / 2)


def _difference(study: str, row: str, other: str) -> float:
    means = runs_of(study, "embedded-nci").groupby("row")["test"].mean()
    return float(means[row] - means[other])
