"""Tables of the pages that compare readouts and settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

import pandas as pd

from benchmarks import readouts
from docs.common import DATA, LABELS, MADE, RESULTS, SHORT, runs_of, table
from docs.costs import adjoint_table, gpu_table, layer_table, model_table
from docs.paper import paper_table
from experiments.metrics import LOWER_IS_BETTER, SMALL, TITLES
from experiments.records import Records
from experiments.report import differences

COSTS = {
    "readout": "readouts-on-embedded-nci",
    "heads": "heads-on-embedded-nci",
    "whole": "heads-on-embedded-nci",
    "protocol": "protocol-on-embedded-nci",
}
"""The record of the time of each study's rows."""


def pages() -> dict[Path, Callable[[], str]]:
    """Returns the function that makes each table of the pages, by the file it is kept in."""
    tables: dict[str, Callable[[], str]] = {
        "readouts": lambda: readout_table("readout", LABELS["readout"]),
        "readouts-short": lambda: readout_table(
            "protocol", SHORT, ("embedded-nci", "pcba-19k", "binding-60k")
        ),
        "linear": linear_table,
        "heads-tuning": tuning_table,
        "capacity": lambda: capacity_table(CAPACITY),
        "beside": lambda: capacity_table(BESIDE),
        "heads": lambda: readout_table("heads", LABELS["heads"]),
        "size": size_table,
        "local": local_table,
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
    return {MADE / f"{name}.md": make for name, make in tables.items()}


# ---- records


def cost_of(study: str) -> pd.DataFrame:
    """Returns parameters and time of a training step of each row of a study."""
    return readouts.summary(RESULTS / "trainer" / COSTS[study])


def score(runs: pd.DataFrame, row: str, key: str = "test") -> str:
    """``0.734 ± 0.015``."""
    values = runs.loc[runs["row"] == row, key].tolist()
    return f"{mean(values):.3f} ± {stdev(values):.3f}" if values else "not run"


def difference(runs: pd.DataFrame, row: str, other: str) -> str:
    """``+0.007 (0.002)``: the mean over seeds and its standard error."""
    values = differences(runs, row, other, "test")
    return f"{mean(values):+.3f} ({stdev(values) / len(values) ** 0.5:.3f})"


def _titles(runs: Mapping[str, pd.DataFrame]) -> list[str]:
    return [f"{data}, {TITLES[own['metric'].iloc[0]]}" for data, own in runs.items()]


# ---- readouts of molecules

LINEAR = (
    *("mean", "sum", "max", "attention", "set2set", "set-transformer", "pna", "pyg-ea", "ea"),
    *("wide-ea", "mean+sum+max", "ea+mean+sum+max", "wide-ea+mean+sum+max"),
)
CAPACITY = {
    "mean, MLP": ("mean-wide-head", "mean-head"),
    "sum, MLP": ("sum-wide-head", "sum-head"),
    "max, MLP": ("max-wide-head", "max-head"),
    "attention, MLP": ("attention-wide-head", "attention-head"),
    "Set Transformer, MLP": ("set-transformer-wide-head", "set-transformer-head"),
    "PNA, MLP": ("pna-wide-head", "pna-head"),
    "PyG EA, MLP": ("pyg-ea-wide-head", "pyg-ea-head"),
    "EA 384": ("wide-ea", "wide-ea"),
}
"""Networks of one size: the label, and the rows in the studies of readouts and of heads."""
BESIDE = {
    "mean+sum+max, MLP": ("mean+sum+max-wide-head", "mean+sum+max-head"),
    "EA 384": ("wide-ea", "wide-ea"),
    "EA + mean+sum+max": ("wide-ea+mean+sum+max", "ea+mean+sum+max"),
    "small EA 64 + mean+sum+max, MLP": ("", "narrow-ea+mean+sum+max-head"),
}
"""The same for EA beside other readouts."""


def readout_table(study: str, rows: Mapping[str, str], data: Sequence[str] = ()) -> str:
    """Test score of each row on each data set of a study, its parameters and its time."""
    shown = data or [name for name, own in DATA.items() if own.study == study]
    runs, cost = {name: runs_of(study, name) for name in shown}, cost_of(study)
    lines = [
        [
            label,
            *(score(own, row) for own in runs.values()),
            f"{cost['parameters'][row]:,}",
            f"{cost['ratio'][row]:.1f}",
        ]
        for row, label in rows.items()
    ]
    return table(["readout", *_titles(runs), "parameters", "time"], lines)


def linear_table() -> str:
    """Test scores with a linear head, as in the paper."""
    shown = [name for name, own in DATA.items() if own.study == "readout"]
    runs, time = {name: runs_of("readout", name) for name in shown}, cost_of("readout")["ratio"]
    lines = [
        [LABELS["readout"][row], *(score(own, row) for own in runs.values()), f"{time[row]:.1f}"]
        for row in LINEAR
    ]
    return table(["linear head", *_titles(runs), "time"], lines)


def tuning_table() -> str:
    """The valid score of each readout's best tuning run on binding-60k, by head."""
    records = Records(RESULTS / "ablations" / "heads-on-binding-60k")
    best = records.tuning.groupby("row", sort=False)["valid_last"].max()
    labels = LABELS["readout"] | LABELS["heads"]
    lines = [
        [labels[row], f"{best[row]:.3f}", f"{best[row + '-head']:.3f}"]
        for row in best.index
        if row + "-head" in best.index
    ]
    lines.append(["EA 384", f"{best['wide-ea']:.3f}", "not run"])
    return table(["binding-60k, valid AP", "linear head", "MLP head"], lines)


def capacity_table(rows: Mapping[str, tuple[str, str]]) -> str:
    """Test scores and time of networks with about 250,000 parameters."""
    runs = {name: runs_of("readout", name) for name in ("embedded-nci", "pcba-19k")}
    runs["binding-60k"] = runs_of("heads", "binding-60k")
    costs = {study: cost_of(study)["ratio"] for study in ("readout", "heads")}
    lines = []
    for label, (own, in_heads) in rows.items():
        keys = zip(runs.values(), (own, own, in_heads), strict=True)
        time = costs["readout"][own] if own else costs["heads"][in_heads]
        lines.append([label, *(score(of_data, key) for of_data, key in keys), f"{time:.1f}"])
    return table(["readout", *_titles(runs), "time"], lines)


def size_table() -> str:
    """Test scores on more molecules, and on scaffolds that training has not seen."""
    folders = {
        "60k, random": "heads-on-binding-60k",
        "212k, random": "whole-on-binding-212k",
        "60k, scaffold": "whole-on-binding-60k",
        "212k, scaffold": "whole-scaffold-on-binding-212k",
    }
    runs = [Records(RESULTS / "ablations" / folder).runs for folder in folders.values()]
    rows = LABELS["whole"].items()
    lines = [[label, *(score(own, row) for own in runs)] for row, label in rows]
    return table(["binding, test AP", *folders], lines)


def local_table() -> str:
    """Local aggregation: the score of the sum, and differences to it."""
    kinds = {
        "sum": "sum",
        "sum-wide": "sum, wider network",
        "sum-ea": "EA beside the sum",
        "ea": "EA in place of the sum",
    }
    places = [(model, data) for data in ("embedded-nci", "binding-60k") for model in ("gin", "gcn")]
    lines = []
    for kind, label in kinds.items():
        cells = []
        for model, data in places:
            runs, row, other = runs_of("local", data), f"{model}-{kind}", f"{model}-sum"
            is_run = (runs["row"] == row).any()
            cells.append(
                "not run"
                if not is_run
                else score(runs, row)
                if row == other
                else difference(runs, row, other)
            )
        lines.append([label, *cells])
    return table(["aggregation", *(f"{model.upper()}, {data}" for model, data in places)], lines)


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
