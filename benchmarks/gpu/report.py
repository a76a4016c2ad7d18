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
MAIN, GIN = "readout-300", "gin-256"


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
        ("A training step of the layer", _steps(values, units, "layer")),
        ("A training step of the GIN, 5 x 300", _steps(values, units, "model")),
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


def _ratio(
    values: Records, key: Key, peer: Key, quantity: str = "step", of_peer: str | None = None
) -> float | None:
    own, theirs = _median(values, key, quantity), _median(values, peer, of_peer or quantity)
    return own / theirs if own and theirs else None


def _steps(values: Records, units: dict[Key, str], section: str) -> list[dict[str, Any]]:
    """Time and memory of every contestant at each size and in each setting."""
    rows = []
    for key in _groups(values, section):
        runs = values.get(key._replace(quantity="step"), [])
        row: dict[str, Any] = {"size": key.case, "": key.contestant, "T": key.steps}
        row |= {"setting": key.detail, "ms": 1e3 * median(runs) if runs else "failed"}
        row["range, ms"] = f"{1e3 * min(runs):.4g} to {1e3 * max(runs):.4g}" if runs else ""
        peer = _pyg(values, key) if section == "layer" else _total(key)
        row[f"/ {peer.contestant}"] = _ratio(values, key, peer) or ""
        row["peak, MiB"] = _median(values, key, "peak") or ""
        if section == "model" and runs:
            row["2 M steps, h"] = PAPER_STEPS * median(runs) / 3_600
            row["loader's share"] = _ratio(values, _loader(key), key, "batch", "step") or ""
        row["note"] = units.get(key._replace(quantity="failed"), "")
        rows.append(row)
    return rows


def _total(key: Key) -> Key:
    """The model with sum pooling in the same setting."""
    return key._replace(contestant="sum", steps=0)


def _pyg(values: Records, key: Key) -> Key:
    """PyG's layer in the same precision, or in TF32 where that fails."""
    same = key._replace(contestant="pyg", detail=f"{key.detail.split()[0]} eager")
    return same if _median(values, same) else same._replace(detail="tf32 eager")


def _loader(key: Key) -> Key:
    return key._replace(contestant="loader", steps=0, detail="")


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
    models = [key for key in _groups(values, "model") if key.case == GIN]
    for steps, most in ((2, 1.2), (5, 1.4), (10, 1.8)):
        keys = [key for key in models if (key.contestant, key.steps) == ("unrolled", steps)]
        ratios = (_ratio(values, key, _total(key)) for key in keys)
        add(f"GIN with EA-{steps} / sum, batch 256", ratios, most)
    sums = (key for key in models if key.contestant == "sum")
    shares = (_ratio(values, _loader(key), key, "batch", "step") for key in sums)
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
    paths = []
    for section in ("layer", "model"):
        rows = _steps(values, units, section)
        bars = [
            (f"{row['']}-{row['T']} {row['setting']}", row["ms"])
            for row in reversed(rows)
            if row["size"] == rows[0]["size"] and row["ms"] != "failed"
        ]
        if bars:
            figure = Figure(figsize=(8, 1 + 0.25 * len(bars)), layout="constrained")
            axes = figure.add_subplot(xscale="log", xlabel=f"ms, {rows[0]['size']}")
            axes.barh(*zip(*bars, strict=True))
            paths.append(folder / f"{section}.png")
            figure.savefig(paths[-1], dpi=100)
    return paths
