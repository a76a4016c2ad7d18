"""Claims: comparisons of two rows of a record, and what the record says of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

from docs.common import MADE, RESULTS, table
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
    """Returns the function that makes each table of the page, by the file it is kept in."""
    tables = {"claims": SUPPORTED, "refuted": REFUTED}
    return {MADE / f"{name}.md": partial(claims_table, of) for name, of in tables.items()}


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


NCI, PCBA, BINDING, HIV = (
    f"ablations/protocol-on-{own}" for own in ("embedded-nci", "pcba-19k", "binding-60k", "hiv")
)
WIDE = "ablations/protocol-width-128-on-pcba-19k"
SHORTER, LONGER = (f"ablations/protocol-{own}-epochs-on-embedded-nci" for own in (20, 80))
DROPOUT, DROPOUT_PCBA = (f"ablations/dropout-on-{own}" for own in ("embedded-nci", "pcba-19k"))
WHOLE, SCAFFOLD = (f"ablations/{own}-on-binding-212k" for own in ("whole", "whole-scaffold"))
LOCAL, LOCAL_BINDING = "ablations/local-protocol-on-embedded-nci", "ablations/local-on-binding-60k"
COUNTING, COUNTING_LONG, NODES = "counting", "counting-12000-steps", "nodes"

# fmt: off
SUPPORTED = [
    Claim("With a linear head EA 384 has a higher score than the mean, on exact labels",
          NCI, "ea", "mean", "protocol-embedded-nci"),
    Claim("The same on noisy labels",
          PCBA, "ea", "mean", "protocol-pcba-19k"),
    Claim("The same on affinities",
          BINDING, "ea", "mean", "protocol-binding-60k"),
    Claim("With a linear head EA 384 has a higher score than the maximum, on exact labels",
          NCI, "ea", "max", "protocol-embedded-nci"),
    Claim("The same against DeepSets",
          NCI, "ea", "deepsets", "protocol-embedded-nci"),
    Claim("The same against Set2Set",
          NCI, "ea", "set2set", "protocol-embedded-nci"),
    Claim("The same against the Set Transformer's pooling",
          NCI, "ea", "set-transformer", "protocol-embedded-nci"),
    Claim("The same against the mean with a hidden layer of as many parameters",
          NCI, "ea", "mean-hidden", "protocol-embedded-nci"),
    Claim("The same against the maximum with a hidden layer of as many parameters",
          NCI, "ea", "max-hidden", "protocol-embedded-nci"),
    Claim("With a linear head EA 384 has a higher score than PNA, on noisy labels",
          PCBA, "ea", "pna", "protocol-pcba-19k"),
    Claim("The same on affinities",
          BINDING, "ea", "pna", "protocol-binding-60k"),
    Claim("With a linear head EA 384 has a higher score than mean, sum and max, on noisy labels",
          PCBA, "ea", "mean+sum+max", "protocol-pcba-19k"),
    Claim("The same on affinities",
          BINDING, "ea", "mean+sum+max", "protocol-binding-60k"),
    Claim("With a linear head EA beside mean, sum and max has a higher score than these",
          NCI, "ea+mean+sum+max", "mean+sum+max", "protocol-embedded-nci"),
    Claim("The same on affinities",
          BINDING, "ea+mean+sum+max", "mean+sum+max", "protocol-binding-60k"),
    Claim("The same on exact labels, against these with a hidden layer of as many parameters",
          NCI, "ea+mean+sum+max", "mean+sum+max-hidden", "protocol-embedded-nci"),
    Claim("The same, after half the training",
          SHORTER, "ea+mean+sum+max", "mean+sum+max-hidden", "half-and-twice-the-training"),
    Claim("The same, after twice the training",
          LONGER, "ea+mean+sum+max", "mean+sum+max-hidden", "half-and-twice-the-training"),
    Claim("The same, with dropout tuned",
          DROPOUT, "ea+mean+sum+max", "mean+sum+max-hidden", "tuned-dropout"),
    Claim("EA beside mean, sum and max has a higher score than these with both kinds of head",
          NCI, "ea+mean+sum+max", "mean+sum+max-hidden-skip", "protocol-embedded-nci"),
    Claim("EA beside mean, sum and max has a higher score than PNA, on exact labels",
          NCI, "ea+mean+sum+max", "pna", "protocol-embedded-nci"),
    Claim("The same on affinities",
          BINDING, "ea+mean+sum+max", "pna", "protocol-binding-60k"),
    Claim("EA has a higher score than PyG's EA with as many steps and a potential as wide",
          NCI, "half-ea", "pyg-ea", "protocol-embedded-nci"),
    Claim("EA beside the sum over neighbours raises the score of GIN, under the protocol",
          LOCAL, "gin-sum-ea", "gin-sum", "local-ea-embedded-nci"),
    Claim("The same of GCN",
          LOCAL, "gcn-sum-ea", "gcn-sum", "local-ea-embedded-nci"),
    Claim("EA beside the sum over neighbours is better than a wider GIN, under the protocol",
          LOCAL, "gin-sum-ea", "gin-sum-wide", "local-ea-embedded-nci"),
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
    Claim("With a linear head EA 384 has a higher score than PNA, on exact labels",
          NCI, "ea", "pna", "protocol-embedded-nci"),
    Claim("On one task EA 384 has a higher score than the mean",
          HIV, "ea", "mean", "protocol-hiv"),
    Claim("The same against PNA",
          HIV, "ea", "pna", "protocol-hiv"),
    Claim("On noisy labels EA 384 has a higher score than the mean with a hidden layer",
          PCBA, "ea", "mean-hidden", "protocol-pcba-19k"),
    Claim("The same on affinities",
          BINDING, "ea", "mean-hidden", "protocol-binding-60k"),
    Claim("With a linear head EA 384 has a higher score than mean, sum and max, on exact labels",
          NCI, "ea", "mean+sum+max", "protocol-embedded-nci"),
    Claim("With a linear head EA beside mean, sum and max adds to them, after twice the training",
          LONGER, "ea+mean+sum+max", "mean+sum+max", "half-and-twice-the-training"),
    Claim("The same, with dropout tuned",
          DROPOUT, "ea+mean+sum+max", "mean+sum+max", "tuned-dropout"),
    Claim("With dropout tuned EA 384 has a higher score than mean, sum and max, on noisy labels",
          DROPOUT_PCBA, "ea", "mean+sum+max", "tuned-dropout"),
    Claim("In networks of width 128 EA has a higher score than mean, sum and max, on noisy labels",
          WIDE, "ea", "mean+sum+max", "protocol-width-128"),
    Claim("EA 384 has a higher score than mean, sum and max with a hidden layer",
          NCI, "ea", "mean+sum+max-hidden", "protocol-embedded-nci"),
    Claim("The same on noisy labels",
          PCBA, "ea", "mean+sum+max-hidden", "protocol-pcba-19k"),
    Claim("The same on affinities",
          BINDING, "ea", "mean+sum+max-hidden", "protocol-binding-60k"),
    Claim("The same on noisy labels, with dropout tuned",
          DROPOUT_PCBA, "ea", "mean+sum+max-hidden", "tuned-dropout"),
    Claim("More data change this",
          WHOLE, "wide-ea", "mean+sum+max-head", "binding-212k"),
    Claim("New scaffolds change this",
          SCAFFOLD, "wide-ea", "mean+sum+max-head", "binding-212k-scaffold-split"),
    Claim("With a linear head EA beside mean, sum and max adds to them, on noisy labels",
          PCBA, "ea+mean+sum+max", "mean+sum+max", "protocol-pcba-19k"),
    Claim("The same, against mean, sum and max with a hidden layer of as many parameters",
          PCBA, "ea+mean+sum+max", "mean+sum+max-hidden", "protocol-pcba-19k"),
    Claim("The same on affinities",
          BINDING, "ea+mean+sum+max", "mean+sum+max-hidden", "protocol-binding-60k"),
    Claim("The same of small EA on exact labels, under the protocol",
          NCI, "half-ea+mean+sum+max-hidden", "mean+sum+max-hidden", "protocol-embedded-nci"),
    Claim("EA beside the sum over neighbours is better than a wider GCN, on more molecules",
          LOCAL_BINDING, "gcn-sum-ea", "gcn-sum-wide", "local-ea-binding-60k"),
    Claim("EA beside the sum over neighbours is better than a wider GCN, under the protocol",
          LOCAL, "gcn-sum-ea", "gcn-sum-wide", "local-ea-embedded-nci"),
    Claim("EA in the place of the sum over neighbours raises the score of GIN, under the protocol",
          LOCAL, "gin-ea", "gin-sum", "local-ea-embedded-nci"),
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
