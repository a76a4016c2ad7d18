"""Tables and pictures of a run of the GPU benchmark, made from its records alone."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.records import MACHINE, MEASUREMENTS

PAPER_STEPS = 2e6
BF16_PEAK = 790.0
"""TFLOP/s of bf16 products on an H100, and the aims below are for it."""
MAIN = "readout-300"


class Key(NamedTuple):
    """What was measured, but for the repetition."""

    section: str
    case: str
    contestant: str
    steps: int
    detail: str
    quantity: str


Records = dict[Key, list[float]]


def read(folder: Path) -> tuple[Records, dict[Key, str]]:
    """Values and units of a run.

    Raises:
        FileNotFoundError: when ``folder`` holds no record.
    """
    path = folder / MEASUREMENTS
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no {MEASUREMENTS}: give the folder of a run")
    values: Records = {}
    units: dict[Key, str] = {}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            key = Key._make(int(row[n]) if n == "steps" else row[n] for n in Key._fields)
            values.setdefault(key, []).append(float(row["value"]))
            units[key] = row["unit"]
    return values, units


def report(folder: Path) -> str:
    """All tables, as markdown."""
    values, units = read(folder)
    machine = json.loads((folder / MACHINE).read_text())
    names = ("gpu", "cpu", "torch", "torch_geometric", "python", "revision", "command")
    about = ", ".join(f"{name} {machine[name]}" for name in names if name in machine)
    parts = [
        {"part": name, "status": p["status"], "seconds": p["seconds"], "note": p["note"]}
        for name, p in machine["parts"].items()
    ]
    tables = [
        ("Parts", parts),
        ("Tests of the library", _plain(values, units, "tests")),
        ("A training step of the layer", _layer(values, units)),
        ("A training step of the GIN, 5 x 300", _model(values, units)),
        ("Where the time goes", _plain(values, units, "profile")),
        ("One epoch of the trainer", _plain(values, units, "stand-in")),
        ("Training", _plain(values, units, "training")),
        ("Aims", _aims(values)),
    ]
    return "\n\n".join([about, *(f"**{t}**\n\n{_table(rows)}" for t, rows in tables if rows)])


def _table(rows: Sequence[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, ["---"] * len(columns)]
    lines += [[_text(row.get(name, "")) for name in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "/")


def _plain(values: Records, units: dict[Key, str], section: str) -> list[dict[str, Any]]:
    """Every number of a section as it stands."""
    return [
        {"case": k.case, "": k.contestant, "T": k.steps, "what": k.quantity, "value": median(v),
         "unit": units[k]}
        for k, v in values.items()
        if k.section == section
    ]  # fmt: skip


def _groups(values: Records, section: str) -> Iterable[Key]:
    """The contestants of a section, at each size and in each setting, once."""
    keys = (key._replace(quantity="") for key in values if key.section == section)
    return dict.fromkeys(key for key in keys if key.contestant != "loader")


def _median(values: Records, key: Key, quantity: str = "step") -> float | None:
    found = values.get(key._replace(quantity=quantity))
    return median(found) if found else None


def _ratio(values: Records, key: Key, peer: Key, quantity: str = "step") -> float | None:
    own, theirs = (_median(values, k, quantity) for k in (key, peer))
    return own / theirs if own and theirs else None


def _total(key: Key) -> Key:
    """The model with sum pooling in the same setting."""
    return key._replace(contestant="sum", steps=0)


def _layer(values: Records, units: dict[Key, str]) -> list[dict[str, Any]]:
    rows = []
    for key in _groups(values, "layer"):
        step, peak = _median(values, key), _median(values, key, "peak")
        row: dict[str, Any] = {"size": key.case, "": key.contestant, "setting": key.detail}
        row |= {"T": key.steps, "ms": "failed" if step is None else 1e3 * step}
        if step is not None:
            runs = values[key._replace(quantity="step")]
            row["range, ms"] = f"{1e3 * min(runs):.4g} to {1e3 * max(runs):.4g}"
        row["/ pyg"] = _ratio(values, key, _pyg(values, key)) or ""
        row["peak, MiB"] = peak or ""
        row["note"] = units.get(key._replace(quantity="failed"), "")
        rows.append(row)
    return rows


def _pyg(values: Records, key: Key) -> Key:
    """PyG's layer in the same precision, or in TF32 where that fails."""
    precision = key.detail.split()[0]
    same = key._replace(contestant="pyg", detail=f"{precision} eager")
    return same if _median(values, same) else same._replace(detail="tf32 eager")


def _model(values: Records, units: dict[Key, str]) -> list[dict[str, Any]]:
    rows = []
    for key in _groups(values, "model"):
        step = _median(values, key)
        row: dict[str, Any] = {"batch": key.case, "readout": key.contestant, "T": key.steps}
        row |= {"setting": key.detail, "steps/s": "failed" if step is None else 1 / step}
        loader = [v for k, v in values.items() if k.case == key.case and k.contestant == "loader"]
        if step is not None:
            row["/ sum"] = _ratio(values, key, _total(key)) or ""
            row["loader's share"] = median(loader[0]) / step if loader else ""
            row["hours for 2 M steps"] = PAPER_STEPS * step / 3_600
        row["note"] = units.get(key._replace(quantity="failed"), "")
        rows.append(row)
    return rows


def _aims(values: Records) -> list[dict[str, Any]]:
    """The aims of the design against the best setting of each precision."""
    rows = []

    def add(claim: str, ratios: Iterable[float | None], most: float) -> None:
        found = [ratio for ratio in ratios if ratio is not None]
        if found:
            met = "yes" if min(found) <= most else "NO"
            rows.append({"aim": claim, "measured": min(found), "at most": most, "met": met})

    layers = [k for k in _groups(values, "layer") if (k.case, k.contestant) == (MAIN, "unrolled")]
    for claim, precision, quantity, most in (
        ("step of the layer / pyg, 6,656 x 300, T = 15, bf16", "bf16", "step", 1 / 20),
        ("the same in TF32", "tf32", "step", 1 / 10),
        ("its peak memory / pyg, bf16", "bf16", "peak", 1 / 5),
    ):
        keys = [key for key in layers if key.detail.startswith(precision)]
        add(claim, (_ratio(values, key, _pyg(values, key), quantity) for key in keys), most)
    models = [key for key in _groups(values, "model") if key.case == "gin-256"]
    for steps, most in ((2, 1.2), (5, 1.4), (10, 1.8)):
        keys = [key for key in models if (key.contestant, key.steps) == ("unrolled", steps)]
        ratios = (_ratio(values, key, _total(key)) for key in keys)
        add(f"GIN with EA-{steps} / sum, batch 256", ratios, most)
    loaders = [v for k, v in values.items() if (k.case, k.contestant) == ("gin-256", "loader")]
    sums = [step for k in models if k.contestant == "sum" and (step := _median(values, k))]
    shares = (median(loader) / step for loader in loaders for step in sums)
    add("loader / step with sum, batch 256", shares, 0.03)
    return rows


def draw(folder: Path) -> list[Path]:
    """Pictures of layer and model, where matplotlib is there."""
    try:
        import matplotlib
    except ImportError:
        print("no pictures: matplotlib is not installed")
        return []
    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    values, units = read(folder)
    bars = {
        "layer": [
            (f"{r['']} {r['setting']}", r["ms"]) for r in _layer(values, units) if r["size"] == MAIN
        ],
        "model": [
            (f"{r['batch']} {r['readout']}-{r['T']} {r['setting']}", 1e3 / r["steps/s"])
            for r in _model(values, units)
            if r["steps/s"] != "failed"
        ],
    }
    paths = []
    for name, found in bars.items():
        found = [bar for bar in found if bar[1] != "failed"]
        if found:
            figure = Figure(figsize=(8, 1 + 0.25 * len(found)), layout="constrained")
            axes = figure.add_subplot(xscale="log", xlabel="ms a training step")
            axes.barh(*zip(*reversed(found), strict=True))
            paths.append(folder / f"{name}.png")
            figure.savefig(paths[-1], dpi=100)
    return paths
