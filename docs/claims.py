"""Claims: comparisons of two rows of a record, and what the record says of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

import pandas as pd

from docs.common import LABELS, LEADING, MADE, RESULTS, table
from docs.tables import cost_of, difference, score
from experiments.metrics import LOWER_IS_BETTER, TITLES
from experiments.records import Records
from experiments.report import differences

ERRORS = 2.0
"""A difference of less than so many standard errors counts as level."""
LEVEL, AHEAD, BEHIND = "level", "ahead", "behind"


class Claim(NamedTuple):
    """A sentence, and the two rows of a record that it compares by a column."""

    text: str
    record: str
    """Folder in ``results/``."""
    row: str
    other: str
    page: str
    """Anchor of the record in ``docs/records.md``."""
    key: str = "test"


def pages() -> dict[Path, Callable[[], str]]:
    """What makes the tables of the page, by the file it is kept in."""
    tables: dict[str, Callable[[], str]] = {
        "claims": lambda: claims_table(SUPPORTED),
        "refuted": lambda: claims_table(REFUTED),
        "lengths": lengths_table,
        "local-protocol": lambda: protocol_table("local-protocol", "embedded-nci"),
        "readout-norm": norm_table,
        "dropout-embedded-nci": lambda: protocol_table("dropout", "embedded-nci"),
        "dropout-pcba-19k": lambda: protocol_table("dropout", "pcba-19k"),
    }
    for data in ("embedded-nci", "pcba-19k", "binding-60k"):
        tables[f"protocol-{data}"] = partial(protocol_table, "protocol", data)
        tables[f"fit-{data}"] = partial(fit_table, data)
    return {MADE / f"{name}.md": make for name, make in tables.items()}


def claims_table(claims: list[Claim]) -> str:
    """A line for each claim: the comparison, seeds, difference with its standard error, verdict."""
    lines = []
    for claim in claims:
        runs = Records(RESULTS / claim.record).runs
        values = differences(runs, claim.row, claim.other, claim.key)
        digits = ".1e" if runs["metric"].iloc[0] == "mse" else ".3f"
        error = stdev(values) / len(values) ** 0.5
        test, _, key = claim.key.rpartition("_")
        metric = (
            f"{test.replace('_', ' ')} {TITLES.get(key, key)}"
            if test
            else TITLES[runs["metric"].iloc[0]]
        )
        lines.append(
            [
                claim.text,
                f"{claim.row}, {claim.other}",
                f"{runs['data'].iloc[0]}, {metric.replace('_', ' ')}",
                len(values),
                f"{mean(values):+{digits}} ({error:{digits}})",
                verdict(claim),
                f"[record](records.md#{claim.page})",
            ]
        )
    head = ["claim", "compared", "on", "seeds", "difference", "so the first is", ""]
    return table(head, lines, "---")


def verdict(claim: Claim) -> str:
    """Whether the first row of a claim is ahead of the other, level with it or behind."""
    runs = Records(RESULTS / claim.record).runs
    values = differences(runs, claim.row, claim.other, claim.key)
    error = stdev(values) / len(values) ** 0.5
    if abs(mean(values)) < ERRORS * error:
        return LEVEL
    metric = runs["metric"].iloc[0] if claim.key == "test" else claim.key
    is_lower_better = metric.rpartition("_")[-1] in (*LOWER_IS_BETTER, "error")
    return AHEAD if (mean(values) < 0) == is_lower_better else BEHIND


CHOSEN = {
    "input_norm": "norm before",
    "message_norm": "norm on messages",
    "dropout": "dropout",
    "lr": "rate",
}
"""Titles of the settings that rows choose."""


def protocol_table(study: str, data: str) -> str:
    """The rows of a study by the protocol: what they chose, scores, time over the first row's."""
    records = Records(RESULTS / "ablations" / f"{study}-on-{data}")
    runs, best = records.runs, records.best_values(is_lower_better=False)
    if study == "protocol":
        time = cost_of("protocol")["ratio"]
    else:
        spent = records.curves.groupby("row", sort=False)["processor_seconds"].sum()
        time = spent / spent.iloc[0]
    lines = []
    for row in runs["row"].unique():
        own = runs[runs["row"] == row].iloc[0]
        lines.append(
            [
                LABELS[study][row],
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
    chosen = [CHOSEN[key] for key in best[runs["row"].iloc[0]]]
    head = ["row", *chosen, f"valid {title}", f"test {title}", "difference"]
    return table([*head, "epochs", "seeds", "parameters", "time"], lines)


LENGTHS = {40: "protocol", 80: "protocol-80-epochs"}
"""The records of the protocol on embedded-nci by the number of epochs."""


def lengths_table() -> str:
    """Test scores and differences to the reference after 40 and 80 epochs."""
    runs = {
        epochs: Records(RESULTS / "ablations" / f"{name}-on-embedded-nci").runs
        for epochs, name in LENGTHS.items()
    }
    rival, lines = "mean+sum+max-hidden", []
    for row, label in LEADING.items():
        line = [label]
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
            lines.append([f"{LEADING[row]}, {data}, {metric}", *scores])
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
            LABELS["protocol"][str(row)],
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


EMBEDDED, PCBA, HIV = (f"ablations/readout-on-{own}" for own in ("embedded-nci", "pcba-19k", "hiv"))
BINDING, WHOLE = "ablations/heads-on-binding-60k", "ablations/whole-on-binding-212k"
SCAFFOLD = "ablations/whole-scaffold-on-binding-212k"
LOCAL, LOCAL_BINDING = (f"ablations/local-on-{own}" for own in ("embedded-nci", "binding-60k"))
LOCAL_PROTOCOL = "ablations/local-protocol-on-embedded-nci"
LONGER = "ablations/protocol-80-epochs-on-embedded-nci"
DROPOUT = "ablations/dropout-on-embedded-nci"
PROTOCOL, PROTOCOL_PCBA, PROTOCOL_BINDING = (
    f"ablations/protocol-on-{own}" for own in ("embedded-nci", "pcba-19k", "binding-60k")
)
COUNTING, COUNTING_LONG = "counting", "counting-12000-steps"
NODES = "nodes"

# fmt: off
SUPPORTED = [
    Claim("With a linear head EA 384 has a higher score than the mean",
          PCBA, "wide-ea", "mean", "pcba-19k"),
    Claim("The same under the protocol",
          PROTOCOL, "ea", "mean", "protocol-embedded-nci"),
    Claim("The same against the maximum",
          PROTOCOL, "ea", "max", "protocol-embedded-nci"),
    Claim("The same against DeepSets",
          PROTOCOL, "ea", "deepsets", "protocol-embedded-nci"),
    Claim("The same against the mean with a hidden layer of as many parameters",
          PROTOCOL, "ea", "mean-hidden", "protocol-embedded-nci"),
    Claim("The same against the maximum with a hidden layer of as many parameters",
          PROTOCOL, "ea", "max-hidden", "protocol-embedded-nci"),
    Claim("With a linear head EA 384 has a higher score than mean, sum and max, on noisy labels",
          PROTOCOL_PCBA, "ea", "mean+sum+max", "protocol-pcba-19k"),
    Claim("The same on affinities",
          PROTOCOL_BINDING, "ea", "mean+sum+max", "protocol-binding-60k"),
    Claim("With a linear head EA beside mean, sum and max has a higher score than these",
          PROTOCOL, "ea+mean+sum+max", "mean+sum+max", "protocol-embedded-nci"),
    Claim("The same on affinities",
          PROTOCOL_BINDING, "ea+mean+sum+max", "mean+sum+max", "protocol-binding-60k"),
    Claim("The same on exact labels, against these with a hidden layer of as many parameters",
          PROTOCOL, "ea+mean+sum+max", "mean+sum+max-hidden", "protocol-embedded-nci"),
    Claim("The same, after twice the training",
          LONGER, "ea+mean+sum+max", "mean+sum+max-hidden", "twice-the-training"),
    Claim("The same, with dropout tuned",
          DROPOUT, "ea+mean+sum+max", "mean+sum+max-hidden", "tuned-dropout"),
    Claim("EA beside mean, sum and max has a higher score than these with both kinds of head",
          PROTOCOL, "ea+mean+sum+max", "mean+sum+max-hidden-skip", "protocol-embedded-nci"),
    Claim("EA beside mean, sum and max has a higher score than PNA",
          PROTOCOL, "ea+mean+sum+max", "pna", "protocol-embedded-nci"),
    Claim("EA has a higher score than PyG's EA with as many steps and a potential as wide",
          BINDING, "half-ea", "pyg-ea", "binding-60k-heads"),
    Claim("The same on exact labels, under the protocol",
          PROTOCOL, "half-ea", "pyg-ea", "protocol-embedded-nci"),
    Claim("EA beside the sum over neighbours raises the score of GIN, under the protocol",
          LOCAL_PROTOCOL, "gin-sum-ea", "gin-sum", "local-ea-tuned"),
    Claim("The same of GCN",
          LOCAL_PROTOCOL, "gcn-sum-ea", "gcn-sum", "local-ea-tuned"),
    Claim("EA beside the sum over neighbours is better than a wider GIN, under the protocol",
          LOCAL_PROTOCOL, "gin-sum-ea", "gin-sum-wide", "local-ea-tuned"),
    Claim("Over the neighbours of a node EA is better than the sum",
          NODES, "ea", "sum", "node-classification"),
    Claim("The same among outliers, 20 % of the nodes",
          NODES, "ea", "sum", "node-classification", "outliers_20_accuracy"),
    Claim("A vector six times as wide as the nodes raises EA's score",
          "ablations/ea-on-embedded-nci", "ea-384", "ea-64", "settings-of-ea"),
    Claim("Five steps are better than one",
          "ablations/steps-on-embedded-nci", "ea-5", "ea-1", "steps"),
    Claim("EA with a wide y counts classes better than attention, trained for 12,000 steps",
          COUNTING_LONG, "ea_wide", "attention", "class-counting-trained-longer"),
    Claim("The same against the maximum",
          COUNTING_LONG, "ea_wide", "max", "class-counting-trained-longer"),
    Claim("The same against PNA",
          COUNTING_LONG, "ea_wide", "pna", "class-counting-trained-longer"),
    Claim("The same against Set2Set",
          COUNTING_LONG, "ea_wide", "set2set", "class-counting-trained-longer"),
    Claim("The same against attention in sets larger than those of training",
          COUNTING_LONG, "ea_wide", "attention", "class-counting-trained-longer", "larger_mae"),
    Claim("The same against attention among outliers",
          COUNTING_LONG, "ea_wide", "attention", "class-counting-trained-longer", "outliers_mae"),
    Claim("With a learned potential EA finds the median better than attention pooling",
          "median", "ea", "pma", "median-of-a-set"),
    Claim("The same against attention",
          "median", "ea", "attention", "median-of-a-set"),
    Claim("With the potential of the task EA finds the median better than the Set Transformer",
          "median-published", "ea_quantile", "set_transformer", "median-in-the-papers-setting"),
]
"""Claims of an advantage of EA that the records support."""

REFUTED = [
    Claim("With a linear head EA 384 has a higher score than PNA",
          PCBA, "wide-ea", "pna", "pcba-19k"),
    Claim("The same on exact labels, under the protocol",
          PROTOCOL, "ea", "pna", "protocol-embedded-nci"),
    Claim("EA has a higher score than the mean on one task",
          HIV, "ea", "mean", "hiv"),
    Claim("With a linear head EA 384 has a higher score than mean, sum and max, on exact labels",
          PROTOCOL, "ea", "mean+sum+max", "protocol-embedded-nci"),
    Claim("With a linear head EA beside mean, sum and max adds to them, after twice the training",
          LONGER, "ea+mean+sum+max", "mean+sum+max", "twice-the-training"),
    Claim("The same, with dropout tuned",
          DROPOUT, "ea+mean+sum+max", "mean+sum+max", "tuned-dropout"),
    Claim("EA 384 has a higher score than the mean with a hidden layer",
          PCBA, "wide-ea", "mean-wide-head", "pcba-19k"),
    Claim("EA 384 has a higher score than mean, sum and max with a hidden layer",
          PROTOCOL, "ea", "mean+sum+max-hidden", "protocol-embedded-nci"),
    Claim("The same on noisy labels",
          PROTOCOL_PCBA, "ea", "mean+sum+max-hidden", "protocol-pcba-19k"),
    Claim("The same on affinities",
          PROTOCOL_BINDING, "ea", "mean+sum+max-hidden", "protocol-binding-60k"),
    Claim("The same on affinities, in 8 epochs",
          BINDING, "wide-ea", "mean+sum+max-head", "binding-60k-heads"),
    Claim("More data change this",
          WHOLE, "wide-ea", "mean+sum+max-head", "binding-212k"),
    Claim("New scaffolds change this",
          SCAFFOLD, "wide-ea", "mean+sum+max-head", "binding-212k-scaffold-split"),
    Claim("With a linear head EA beside mean, sum and max adds to them, on noisy labels",
          PROTOCOL_PCBA, "ea+mean+sum+max", "mean+sum+max", "protocol-pcba-19k"),
    Claim("The same, against mean, sum and max with a hidden layer of as many parameters",
          PROTOCOL_PCBA, "ea+mean+sum+max", "mean+sum+max-hidden", "protocol-pcba-19k"),
    Claim("The same on affinities",
          PROTOCOL_BINDING, "ea+mean+sum+max", "mean+sum+max-hidden", "protocol-binding-60k"),
    Claim("EA beside mean, sum and max adds to them if they have a hidden layer",
          BINDING, "narrow-ea+mean+sum+max-head", "mean+sum+max-head", "binding-60k-heads"),
    Claim("The same of small EA on exact labels, under the protocol",
          PROTOCOL, "half-ea+mean+sum+max-hidden", "mean+sum+max-hidden", "protocol-embedded-nci"),
    Claim("EA in the place of the sum over neighbours raises the score",
          LOCAL, "gcn-ea", "gcn-sum", "local-ea"),
    Claim("EA beside the sum over neighbours is better than a wider network",
          LOCAL, "gcn-sum-ea", "gcn-sum-wide", "local-ea"),
    Claim("EA beside the sum over neighbours is better than a wider network, on more molecules",
          LOCAL_BINDING, "gcn-sum-ea", "gcn-sum-wide", "local-ea"),
    Claim("EA beside the sum over neighbours is better than a wider GCN, under the protocol",
          LOCAL_PROTOCOL, "gcn-sum-ea", "gcn-sum-wide", "local-ea-tuned"),
    Claim("EA in the place of the sum over neighbours raises the score of GIN, under the protocol",
          LOCAL_PROTOCOL, "gin-ea", "gin-sum", "local-ea-tuned"),
    Claim("Over the neighbours of a node EA beside the sum is better than the sum",
          NODES, "sum_ea", "sum", "node-classification"),
    Claim("Over the neighbours of a node EA is better than attention",
          NODES, "ea", "attention", "node-classification"),
    Claim("More steps than ten raise the score",
          "ablations/steps-on-embedded-nci", "ea-15", "ea-10", "steps"),
    Claim("EA needs few parameters: a tenth of the potential's width is enough",
          "ablations/capacity-on-embedded-nci", "10-percent", "100-percent", "capacity"),
    Claim("EA with a wide y counts classes better than attention, trained for 6,000 steps",
          COUNTING, "ea_wide", "attention", "class-counting"),
    Claim("The same against the maximum",
          COUNTING, "ea_wide", "max", "class-counting"),
    Claim("The same against attention in sets larger than those of training",
          COUNTING, "ea_wide", "attention", "class-counting", "larger_mae"),
    Claim("With a learned potential EA finds the median better than the Set Transformer",
          "median", "ea", "set_transformer", "median-of-a-set"),
]
"""Claims of an advantage that were tried, and that the records do not support."""
# fmt: on
