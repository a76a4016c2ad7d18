"""Tables of the pages that compare readouts, aggregators and settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import mean, stdev

import pandas as pd

from benchmarks import readouts
from docs.common import (
    LEADING,
    MADE,
    NEIGHBOURS,
    READOUTS,
    RESULTS,
    SETS,
    SHORT,
    WHOLE,
    runs_of,
    table,
)
from docs.costs import adjoint_table, gpu_table, layer_table, model_table
from docs.paper import paper_table
from experiments.metrics import LOWER_IS_BETTER, SMALL, TITLES
from experiments.records import Records
from experiments.report import differences


def pages() -> dict[Path, Callable[[], str]]:
    """Returns the function that makes each table of the pages, by the file it is kept in."""
    tables: dict[str, Callable[[], str]] = {
        "readouts": readout_table,
        "lengths": lengths_table,
        "readout-norm": norm_table,
        "size": size_table,
        "local": partial(tuned_table, "local-protocol-on-embedded-nci"),
        "settings": settings_table,
        "median": lambda: sets_table("median", {}),
        "counting": lambda: sets_table("counting", COUNTING),
        "counting-longer": lambda: sets_table("counting-12000-steps", COUNTING),
        "nodes": lambda: sets_table("nodes", NODES),
        "paper": paper_table,
        "layers": layer_table,
        "adjoints": adjoint_table,
        "models": model_table,
        "gpu": gpu_table,
    }
    for data in SETS:
        tables[f"fit-{data}"] = partial(fit_table, data)
    for record in TUNED:
        tables[record] = partial(tuned_table, record)
    return {MADE / f"{name}.md": make for name, make in tables.items()}


# ---- records


def cost() -> pd.DataFrame:
    """Returns parameters and time of a training step of each row of the protocol."""
    return readouts.summary(RESULTS / "trainer" / "protocol-on-embedded-nci")


def score(runs: pd.DataFrame, row: str, key: str = "test") -> str:
    """``0.734 ± 0.015``."""
    values = runs.loc[runs["row"] == row, key].tolist()
    return f"{mean(values):.3f} ± {stdev(values):.3f}"


def difference(runs: pd.DataFrame, row: str, other: str) -> str:
    """``+0.007 (0.002)``: the mean over seeds and its standard error."""
    values = differences(runs, row, other, "test")
    return f"{mean(values):+.3f} ({stdev(values) / len(values) ** 0.5:.3f})"


# ---- readouts of molecules

TUNED = (
    *(f"protocol-on-{data}" for data in (*SETS, "hiv")),
    "protocol-width-128-on-pcba-19k",
    "dropout-on-embedded-nci",
    "dropout-on-pcba-19k",
)
"""Records of studies whose rows each tune their settings."""
CHOSEN = {
    "input_norm": "norm before",
    "message_norm": "norm on messages",
    "dropout": "dropout",
    "lr": "rate",
}
"""Titles of the settings that rows choose."""


def readout_table() -> str:
    """The README's table: test score on each data set, parameters and time."""
    runs, costs = [runs_of("protocol", data) for data in SETS], cost()
    lines = [
        [
            READOUTS[row],
            *(score(own, row) for own in runs),
            f"{costs['parameters'][row]:,}",
            f"{costs['ratio'][row]:.1f}",
        ]
        for row in SHORT
    ]
    return table(["readout", *(f"{data}, AP" for data in SETS), "parameters", "time"], lines)


def tuned_table(record: str) -> str:
    """The rows of a study: what they chose, scores, parameters, time over the first row's."""
    records = Records(RESULTS / "ablations" / record)
    runs, best = records.runs, records.best_values(is_lower_better=False)
    labels = READOUTS | NEIGHBOURS
    rows = sorted(runs["row"].unique(), key=list(labels).index)
    if record.startswith("protocol-on"):
        time = cost()["ratio"]
    else:
        spent = records.curves.groupby("row")["processor_seconds"].mean()  # of an epoch
        time = spent / spent[rows[0]]
    lines = []
    for row in rows:
        own = runs[runs["row"] == row].iloc[0]
        lines.append(
            [
                labels[row],
                *("none" if value is None else value for value in best[row].values()),
                *(score(runs, row, key) for key in ("valid", "test")),
                "" if row == own.reference else difference(runs, row, own.reference),
                own.epochs,
                (runs["row"] == row).sum(),
                f"{own.parameters:,}",
                f"{time[row]:.1f}",
            ]
        )
    title = TITLES[runs["metric"].iloc[0]]
    chosen = [CHOSEN[key] for key in best[rows[0]]]
    head = ["row", *chosen, f"valid {title}", f"test {title}", "difference"]
    return table([*head, "epochs", "seeds", "parameters", "time"], lines)


LENGTHS = {20: "protocol-20-epochs", 40: "protocol", 80: "protocol-80-epochs"}
"""The records of the protocol on embedded-nci by the number of epochs."""


def lengths_table() -> str:
    """Test scores, and differences to mean+sum+max with an MLP, after each number of epochs."""
    runs = {
        epochs: Records(RESULTS / "ablations" / f"{name}-on-embedded-nci").runs
        for epochs, name in LENGTHS.items()
    }
    rival, lines = "mean+sum+max-hidden", []
    for row in LEADING:
        line = [READOUTS[row]]
        for own in runs.values():
            line += [score(own, row), "" if row == rival else difference(own, row, rival)]
        lines.append(line)
    head = [title for epochs in runs for title in (f"{epochs} epochs", "difference")]
    return table(["test AP", *head], lines)


def norm_table() -> str:
    """The best valid score of the tries with each norm behind the readout."""
    lines, norms = [], ("layer", "batch", "none")
    for data, pick in (("embedded-nci", "max"), ("logp", "min")):
        tries = Records(RESULTS / "ablations" / f"readout-norm-on-{data}").tuning
        norm = tries["value"].map(lambda text: json.loads(f"[{text}]")[0])
        best = tries.groupby(["row", norm], sort=False)["valid_last"].agg(pick)
        metric = "AP" if pick == "max" else "RMSE"
        for row in tries["row"].unique():
            scores = (f"{best[row, norm]:.3f}" for norm in norms)
            lines.append([f"{READOUTS[row]}, {data}, {metric}", *scores])
    return table(["valid score", "LayerNorm", "BatchNorm", "no norm"], lines)


def fit_table(data: str) -> str:
    """What the rows of the protocol end with: losses, gradient, inner loop; means over seeds."""
    curves = Records(RESULTS / "ablations" / f"protocol-on-{data}").curves
    last = curves[curves["epoch"] == curves.groupby(["row", "seed"])["epoch"].transform("max")]
    first = curves[curves["epoch"] == 0]
    ends, starts = (own.groupby("row", sort=False).mean() for own in (last, first))
    lines = []
    for row, own in ends.iterrows():
        line = [
            READOUTS[str(row)],
            *(f"{own[key]:.4f}" for key in ("train_loss", "valid_loss", "gradient_norm")),
        ]
        loop = ["", ""]
        if pd.notna(own["readout_gradient"]):
            change = starts.loc[row, "readout_gradient"], own["readout_gradient"]
            loop = [" to ".join(f"{value:.3f}" for value in change)]
            loop.append(f"{own['readout_converged']:.0%}")
        lines.append([*line, *loop])
    loop = ["last inner gradient, first to last epoch", "converged"]
    return table(["row", "train loss", "valid loss", "gradient norm", *loop], lines)


def size_table() -> str:
    """Test scores on more molecules, and on scaffolds that training has not seen."""
    folders = {
        "212k, random": "whole-on-binding-212k",
        "60k, scaffold": "whole-on-binding-60k",
        "212k, scaffold": "whole-scaffold-on-binding-212k",
    }
    runs = [Records(RESULTS / "ablations" / folder).runs for folder in folders.values()]
    lines = [[label, *(score(own, row) for own in runs)] for row, label in WHOLE.items()]
    return table(["binding, test AP", *folders], lines)


# ---- settings

SETTINGS = (
    ("size of y 64 → 384", "ea", "ea-384", "ea-64"),
    ("size of y 384 → 768", "ea", "ea-768", "ea-384"),
    ("1 → 5 steps", "steps", "ea-5", "ea-1"),
    ("5 → 10 steps", "steps", "ea-10", "ea-5"),
    ("10 → 15 steps", "steps", "ea-15", "ea-10"),
    ("5 → 15 steps at test only", "eval-steps", "train-5-test-15", "train-5-test-5"),
    ("hidden width 60 % → 100 %", "capacity", "100-percent", "60-percent"),
    ("hidden width 100 % → 130 %", "capacity", "130-percent", "100-percent"),
    ("`Unrolled` → `Checkpointed`", "adjoint", "checkpointed", "unrolled"),
    ("`Unrolled` → `Truncated(5)`", "adjoint", "truncated-5", "unrolled"),
    ("`Unrolled` → `Implicit`", "adjoint", "implicit", "unrolled"),
    ("auxiliary weight 0 → 0.01", "aux", "aux-0.01", "aux-0"),
    ("auxiliary weight 0.01 → 1", "aux", "aux-1", "aux-0.01"),
    ("EA's learning rate 0.03 → 0.001", "ea-lr", "0.03-ea-0.001", "0.03-ea-0.03"),
    ("initial prior weight 0.1 → 0.01", "ea", "regulariser-0.01", "ea-384"),
    ("initial prior weight 0.1 → 1", "ea", "regulariser-1", "ea-384"),
    ("initial step size 0.125 → 0.5", "ea", "inner-lr-0.5", "ea-384"),
    ("warm-up of 120 steps", "ea", "warmup-120", "ea-384"),
)
"""A change of one setting: the label, the study, the row with it and the row without."""


def settings_table() -> str:
    """Paired change of the test score with one setting, on embedded-nci."""
    lines = []
    for label, study, row, other in SETTINGS:
        lines.append([label, difference(runs_of(study, "embedded-nci"), row, other)])
    return table(["change", "test AP"], lines)


# ---- sets and nodes

AGGREGATORS = {
    "ea": "EA",
    "ea_wide": "EA, y four times as wide",
    "ea_quantile": "EA, quantile potential",
    "sum_ea": "sum with EA beside it",
    "pyg_ea": "PyG's EA",
    "set_transformer": "Set Transformer",
    "pma": "attention pooling (PMA)",
    "attention": "attention",
    "deepsets": "DeepSets",
    "set2set": "Set2Set",
    "pna": "mean, max, min, std (PNA)",
    "mean": "mean",
    "max": "max",
    "sum": "sum",
    "median": "median",
}
"""Names of the aggregators of sets and neighbours."""
COUNTING = {"accuracy": "accuracy", "larger_mae": "larger sets", "outliers_mae": "with outliers"}
NODES = {f"outliers_{share}_accuracy": f"{share} % outliers" for share in (10, 20, 30)}
"""Further scores of the tables."""


def sets_table(study: str, others: Mapping[str, str]) -> str:
    """The rows of a study on sets or nodes: what they chose, scores, fit, time, and the difference
    to the row without EA with the best valid score, the rival.
    """
    records = Records(RESULTS / study)
    runs, curves = records.runs, records.curves
    metric = runs["metric"].iloc[0]
    is_error, form = metric in LOWER_IS_BETTER, ".1e" if metric in SMALL else ".3f"
    chosen = records.best_values(is_error)
    means = runs.groupby("row")[["valid", "test", "train_seconds", *others]].mean()
    means["loss"] = (
        curves[curves["epoch"] == curves["epoch"].max()].groupby("row")["train_loss"].mean()
    )
    means = means.sort_values("test", ascending=is_error)
    plain = [row for row in means.index if "ea" not in str(row).split("_")]
    rival = means.loc[plain, "valid"].sort_values(ascending=is_error).index[0]
    lines = []
    for row, own in means.iterrows():
        values = differences(runs, str(row), rival, "test")
        error = stdev(values) / len(values) ** 0.5
        lines.append(
            [
                AGGREGATORS[str(row)],
                f"{chosen[str(row)]['norm'] or 'none'}, {chosen[str(row)]['learning_rate']}",
                *(f"{own[key]:{form}}" for key in ("valid", "test")),
                "rival" if row == rival else f"{mean(values):+{form}} ({error:{form}})",
                *(f"{own[key]:.3f}" for key in others),
                f"{own['loss']:{form}}",
                f"{own['train_seconds'] / means.loc[rival, 'train_seconds']:.1f}",
            ]
        )
    title = TITLES[metric]
    head = ["", "norm, rate", f"valid {title}", f"test {title}", "difference", *others.values()]
    return table([*head, "train loss", "time"], lines)
