"""Tables of the pages."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, median, stdev
from typing import NamedTuple

import pandas as pd

from benchmarks import readouts
from benchmarks.analysis import Ratio, ratio, select
from benchmarks.gpu.report import MAIN, Key
from benchmarks.gpu.report import read as read_gpu
from benchmarks.records import read
from experiments.common import duration
from experiments.metrics import TITLES
from experiments.records import FRESH, Records

RESULTS = Path(__file__).parents[1] / "results"
MADE = Path(__file__).parent / "made"


class Shown(NamedTuple):
    """A data set on which a study compares readouts."""

    title: str
    study: str = "readout"


DATA = {
    "embedded-nci": Shown("embedded-nci: 4,991 molecules, exact labels"),
    "pcba-19k": Shown("pcba-19k: 19,144 molecules, noisy labels"),
    "hiv": Shown("hiv: 41,127 molecules, scaffold split"),
    "binding-60k": Shown("binding-60k: 59,944 molecules, measured labels", "heads"),
    "binding-212k": Shown("binding-212k: 212,231 molecules, measured labels", "whole"),
}


def folders(pattern: str) -> list[Path]:
    """The folders of records that match."""
    return sorted(path for path in RESULTS.glob(pattern) if path.is_dir())


def pages() -> dict[Path, Callable[[], str]]:
    """What makes the tables that pages include."""
    tables: dict[str, Callable[[], str]] = {
        "readouts": lambda: readout_table("readout", LABELS["readout"]),
        "readouts-short": lambda: readout_table("readout", SHORT),
        "heads": lambda: readout_table("heads", LABELS["heads"]),
        "whole": lambda: readout_table("whole", LABELS["whole"]),
        "heads-tuning": lambda: tuning_table("binding-60k"),
        "paper": paper_table,
        "layers": layer_table,
        "adjoints": adjoint_table,
        "models": model_table,
        "gpu": gpu_table,
    }
    return {MADE / f"{name}.md": make for name, make in tables.items()}


def table(head: Sequence[str], rows: Sequence[Sequence[object]], align: str = "--:") -> str:
    """A table in Markdown; ``align`` is that of all columns but the first."""
    lines = [head, ["---"] + [align] * (len(head) - 1), *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)


def gpu_table() -> str:
    """A training step of the layer on a GPU: milliseconds, over PyG's layer, and peak memory."""
    values, _ = read_gpu(RESULTS / "gpu" / "h200")

    def found(key: Key, quantity: str) -> float:
        return median(values[key._replace(quantity=quantity)])

    lines = []
    for mode, name in MODES.items():
        for precision in ("TF32", "bf16"):
            line = [f"{name}, {precision}"]
            for case in (MAIN, "batch-1024"):
                who, how = mode.split()
                key = Key("layer", case, who, 15, f"{precision.lower()} {how}", "")
                pyg = key._replace(contestant="pyg", detail=f"{precision.lower()} eager")
                step = found(key, "step")
                line += [f"{1e3 * step:.1f}", f"{step / found(pyg, 'step'):.2f}"]
                line.append("" if how == "graph" else f"{found(key, 'peak'):,.0f}")
            lines.append(line)
    sizes = ("6,656 x 300", "26,624 x 300")
    head = [name for size in sizes for name in (f"{size}, ms", "/ PyG", "MiB")]
    return table(["", *head], lines)


MODES = {
    "pyg eager": "PyG's EA",
    "unrolled eager": "EA, operation by operation",
    "unrolled default": "EA, compiled step",
    "unrolled graph": "EA, compiled step, in a CUDA graph",
}
"""Contestants and modes of the GPU benchmark, and what the pages call them."""

LABELS = {
    "readout": {
        "mean": "mean",
        "sum": "sum",
        "max": "max",
        "attention": "attention",
        "set2set": "Set2Set",
        "set-transformer": "Set Transformer",
        "pna": "PNA",
        "pyg-ea": "PyG's EA 64",
        "mean-head": "mean, hidden",
        "mean-wide-head": "mean, wide hidden",
        "sum-wide-head": "sum, wide hidden",
        "max-wide-head": "max, wide hidden",
        "attention-wide-head": "attention, wide hidden",
        "set-transformer-wide-head": "Set Transformer, wide hidden",
        "pna-wide-head": "PNA, wide hidden",
        "pyg-ea-wide-head": "PyG's EA 64, wide hidden",
        "mean+sum+max": "mean+sum+max",
        "mean+sum+max-head": "mean+sum+max, hidden",
        "mean+sum+max-wide-head": "mean+sum+max, wide hidden",
        "ea": "EA 64",
        "ea-head": "EA 64, hidden",
        "wide-ea": "EA 384",
        "half-ea": "half EA 384",
        "ea+mean+sum+max": "EA 64+mean+sum+max",
        "ea+mean+sum+max-head": "EA 64+mean+sum+max, hidden",
        "wide-ea+mean+sum+max": "EA 384+mean+sum+max",
    },
    "heads": {
        "mean-head": "mean, hidden",
        "sum-head": "sum, hidden",
        "max-head": "max, hidden",
        "mean+sum+max-head": "mean+sum+max, hidden",
        "attention-head": "attention, hidden",
        "set-transformer-head": "Set Transformer, hidden",
        "pna": "PNA",
        "pna-head": "PNA, hidden",
        "wide-ea": "EA 384",
        "pyg-ea": "PyG's EA 384, half",
        "half-ea": "half EA 384",
        "half-ea-head": "half EA 384, hidden",
        "ea+mean+sum+max": "EA 320+mean+sum+max",
        "half-ea+mean+sum+max": "half EA 384+mean+sum+max",
        "narrow-ea+mean+sum+max-head": "half EA 64+mean+sum+max, hidden",
    },
}
"""What the pages call the rows of a study."""

LABELS["whole"] = {
    row: LABELS["heads"][row]
    for row in ("sum-head", "max-head", "mean+sum+max-head", "wide-ea", "ea+mean+sum+max")
}
COSTS = {
    "readout": "readouts-on-embedded-nci",
    "heads": "heads-on-embedded-nci",
    "whole": "heads-on-embedded-nci",
}
SHORT = {
    row: LABELS["readout"][row]
    for row in (
        "mean",
        "mean-wide-head",
        "mean+sum+max",
        "mean+sum+max-wide-head",
        "pna",
        "pyg-ea",
        "wide-ea",
        "wide-ea+mean+sum+max",
    )
}


def readout_table(study: str, rows: dict[str, str]) -> str:
    """Test score of each row on each data set of a study, its parameters and its time."""
    shown = [data for data, own in DATA.items() if own.study == study]
    runs = {data: runs_of(study, data) for data in shown}
    titles = [f"{data}, {TITLES[own['metric'].iloc[0]]}" for data, own in runs.items()]
    cost = cost_of(study)
    lines = []
    for row, label in rows.items():
        scores = [own.loc[own["row"] == row, "test"].tolist() for own in runs.values()]
        line = [label, *(_short(values) if values else "not run" for values in scores)]
        lines.append([*line, f"{cost['parameters'][row]:,}", f"{cost['ratio'][row]:.1f}"])
    return table(["readout", *titles, "parameters", "time"], lines)


def tuning_table(data: str) -> str:
    """The valid score of each readout's best tuning run in the study of heads, by head."""
    records = Records(RESULTS / "ablations" / f"heads-on-{data}")
    best = records.tuning.groupby("row", sort=False)["valid_last"].max()
    labels = LABELS["readout"] | LABELS["heads"]
    lines = [
        [labels[row], f"{best[row]:.3f}", f"{best[row + '-head']:.3f}"]
        for row in best.index
        if row + "-head" in best.index
    ]
    return table(["readout", "linear head", "hidden layer"], lines)


def runs_of(study: str, data: str) -> pd.DataFrame:
    """The recorded runs of a study on a data set."""
    return Records(RESULTS / "ablations" / f"{study}-on-{data}").runs


def cost_of(study: str) -> pd.DataFrame:
    """Parameters and time of a training step of each row of a study."""
    return readouts.summary(RESULTS / "trainer" / COSTS[study])


def _short(values: list[float]) -> str:
    """``0.734 ± 0.015``."""
    return f"{mean(values):.3f} ± {stdev(values):.3f}"


def paper_table() -> str:
    """Every table and figure of the paper's appendix, beside what came out here."""
    median = Records(RESULTS / "median").runs.groupby("row")["test"].mean()
    best_other = median.drop(["ea", "ea_quantile"]).min()
    models = read(RESULTS / "benchmarks" / "model-2-cores")
    times = [model_ratio(models, "unrolled", steps).median for steps in (2, 5, 10)]
    study, ablations = "python -m experiments.studies", RESULTS / "ablations"
    trained = RESULTS / "molpcba" / "embedded" / "embedded-nci-gin-ea15-seed0" / "metrics.csv"
    return table(
        ["what", "the paper", "here", "command", "time on two cores", "prints"],
        [
            [
                "Figure 3, D.1: median of a set, error over that of the best other aggregator",
                "about 0.1",
                f"{median['ea_quantile'] / best_other:.1f} with the quantile potential; "
                f"{median['ea'] / best_other:.1f} with the learned one",
                "`python -m experiments.median --jobs 2`",
                _time(RESULTS / "median"),
                "squared error of each aggregator",
            ],
            [
                "Figure C.1: step size, momentum, regulariser over training",
                "settle after 10⁶ steps",
                "[stay within 4 % of their start](records.md#step-size-and-momentum)",
                "`python -m experiments.molpcba --data embedded --model gin --steps 15`",
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
                    f"{_difference('local', row, other):+.3f}"
                    for row, other in (("gin-ea", "gin-sum"), ("gcn-ea", "gcn-sum"))
                ),
                f"`{study} local --epochs 20 --jobs 2`",
                _time(ablations / "local-on-embedded-nci"),
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
                "E.2: time with 2 / 5 / 10 steps over that of the sum",
                "1.42 / 1.84 / 2.86",
                " / ".join(f"{value:.2f}" for value in times),
                "`python -m benchmarks --threads 2 --only model --contestants sum unrolled "
                "half-width --rounds 3`",
                duration(models["value"].sum()),
                "time over that of the sum",
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
    seconds = (runs["train_seconds"] * (1 if runs["split"].iloc[0] == FRESH else epochs)).sum()
    steps = records.tuning["config"].map(lambda config: json.loads(config)["steps"]).sum()
    if steps:  # the runs by which a rate was chosen are not timed
        seconds *= 1 + steps / epochs.sum()
    return duration(seconds / 2)


def _difference(study: str, row: str, other: str) -> float:
    means = runs_of(study, "embedded-nci").groupby("row")["test"].mean()
    return float(means[row] - means[other])


def layer_table() -> str:
    """Time of our layer over that of PyG's, for each size."""
    frame = read(RESULTS / "benchmarks" / "layer-2-cores")
    rows = []
    for case, own in frame.groupby("case", sort=False):
        first = own.iloc[0]
        size = [f"{first.elements:,}", f"{first.segments:,}", first.channels, first.steps]
        ratios = [ratio(own, "unrolled", "pyg", quantity=key) for key in ("step", "eval")]
        rows.append([case, *size, *ratios])
    head = ["", "elements N", "sets S", "channels D", "steps T", "training step", "evaluation"]
    return table(head, rows)


def adjoint_table() -> str:
    """Time and memory of each adjoint over those of PyG's layer."""
    time = read(RESULTS / "benchmarks" / "adjoints-2-cores")
    peak = read(RESULTS / "benchmarks" / "peak-1-core")
    names = [name for name in peak["contestant"].unique() if name != "pyg"]
    names += [name for name in time["contestant"].unique() if name not in [*names, "pyg"]]
    theirs = _peak(peak, "pyg", "peak_step", 15)
    rows = []
    for name in names:
        step, evaluation = (ratio(time, name, "pyg", quantity=key) for key in ("step", "eval"))
        mib = _peak(peak, name, "peak_step", 15)
        rows.append(
            [
                f"`{name}`",
                *("" if value is None else value for value in (step, evaluation)),
                *(
                    ("", "")
                    if mib is None or theirs is None
                    else (f"{mib:,.0f}", f"{mib / theirs:.3f}")
                ),
            ]
        )
    return table(["", "training step", "evaluation", "peak of a step, MiB", "over PyG's"], rows)


def _peak(frame: pd.DataFrame, contestant: str, quantity: str, steps: int) -> float | None:
    values = select(frame, contestant=contestant, quantity=quantity, steps=steps)["value"]
    return None if values.empty else float(values.iloc[0])


def model_ratio(frame: pd.DataFrame, contestant: str, steps: int) -> Ratio:
    """Time of a whole model with that layer and so many steps over that with the sum."""
    own = select(frame, contestant=contestant, steps=steps)
    found = ratio(pd.concat([select(frame, contestant="sum"), own]), contestant, "sum")
    assert found is not None
    return found


def model_table() -> str:
    """Time of a training step of a whole network over that with the sum readout."""
    frame = read(RESULTS / "benchmarks" / "model-2-cores")
    steps = sorted(set(frame["steps"]) - {0})
    names = {"unrolled": "potential as wide as the nodes", "half-width": "half as wide"}
    rows = [
        [label, *(model_ratio(frame, name, number) for number in steps)]
        for name, label in names.items()
    ]
    return table(["", *(f"{number} steps" for number in steps)], rows)
