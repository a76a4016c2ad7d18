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
LAYER_AIMS = (("readout-300", 1 / 15, 3.9), ("readout-64", 1 / 20, 1.65), ("local-100", 1 / 8, 8.4))
"""Size, most time of a step over PyG's, and most ms in a CUDA graph: half of the older code's."""
NAMES = {
    "unrolled": "EA",
    "half-width": "EA, half width",
    "listing": "EA by autograd",
    "pna": "PNA",
}
MODES = {
    "eager": "torch operations",
    "default": "compiled",
    "triton": "Triton",
    "graph": "in a CUDA graph",
}
LINES = {"pyg": ("PyG's EA", "tab:red"), "sum": ("sum", "tab:green")}


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
        ("The host's own time", _plain(values, units, "host")),
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
    """The aims of the Triton backend, each against its fastest precision."""
    rows = []

    def add(claim: str, found: Iterable[float | None], most: float) -> None:
        known = [value for value in found if value is not None]
        if known:
            met = "yes" if min(known) <= most else "NO"
            rows.append({"aim": claim, "measured": min(known), "at most": most, "met": met})

    def of(section: str, mode: str, steps: int | None = None) -> list[Key]:
        keys = [key for key in _groups(values, section) if key.contestant == "unrolled"]
        return [k for k in keys if k.detail.endswith(mode) and steps in (None, k.steps)]

    for case, most, graph in LAYER_AIMS:
        keys = [key for key in of("layer", "triton") if key.case == case]
        add(f"{case}: step / PyG's", (_ratio(values, k, _pyg(values, k)) for k in keys), most)
        graphs = [key for key in of("layer", "graph") if key.case == case]
        steps = (_median(values, key) for key in graphs)
        add(f"{case}: ms in a CUDA graph", (1e3 * step if step else None for step in steps), graph)
        peaks = (_ratio(values, k, _pyg(values, k), "peak") for k in keys)
        add(f"{case}: peak memory / PyG's", peaks, 1 / 10)
    for number, most in ((5, 1.4), (15, 1.8)):
        keys = [key for key in of("model", "triton", number) if key.case == GIN]
        ratios = (_ratio(values, key, _total(key)) for key in keys)
        add(f"GIN with EA-{number} / sum, batch 256", ratios, most)
    sums = (k for k in _groups(values, "model") if k.case == GIN and k.contestant == "sum")
    shares = (
        _ratio(values, _loader(k), k, "batch", "step") for k in sums if "graph" not in k.detail
    )
    add("loader / step with sum, batch 256", shares, 0.03)
    host = (_median(values, key) for key in _groups(values, "host"))
    add("host's own ms of a step, T = 15", (1e3 * time if time else None for time in host), 3)
    return rows


def draw(folder: Path) -> list[Path]:
    """Pictures of layer and model, where matplotlib is there."""
    try:
        import matplotlib
    except ImportError:
        print("no pictures: matplotlib is not installed")
        return []
    matplotlib.use("Agg")
    values, units = read(folder)
    paths = []
    for section in ("layer", "model"):
        rows = [row for row in _steps(values, units, section) if row["ms"] != "failed"]
        if rows:
            paths.append(folder / f"{section}.png")
            _draw_sizes(rows, paths[-1])
    return paths


def _draw_sizes(rows: list[dict[str, Any]], path: Path) -> None:
    """Bars by size; the fastest times of PyG's layer and of the sum are lines."""
    from matplotlib.figure import Figure

    sizes = list(dict.fromkeys(row["size"] for row in rows))
    groups = [[row for row in rows if row["size"] == size] for size in sizes]
    figure = Figure(figsize=(8, 1 + 0.25 * len(rows) + 0.5 * len(sizes)), layout="constrained")
    heights = [len(group) + 2 for group in groups]
    grid = figure.subplots(len(sizes), squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    for axes, size, group in zip(grid, sizes, groups, strict=True):
        bars = [row for row in reversed(group) if row[""] not in LINES]
        axes.barh([_words(row) for row in bars], [row["ms"] for row in bars])
        for name, (words, colour) in LINES.items():
            times = [row["ms"] for row in group if row[""] == name]
            if times:
                axes.axvline(min(times), color=colour, label=words)
        axes.set(xscale="log", title=size)
    grid[-1].set_xlabel("ms a training step")
    handles = dict(zip(*reversed(grid[0].get_legend_handles_labels()), strict=True))
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside upper right")
    figure.savefig(path, dpi=100)


def _words(row: dict[str, Any]) -> str:
    """A contestant and its setting."""
    name = NAMES.get(row[""], row[""])
    precision, mode = row["setting"].split(maxsplit=1)
    if row[""] not in ("unrolled", "half-width"):
        return f"{name}, {precision}"
    return f"{name}, T = {row['T']}, {precision}, {MODES.get(mode, mode)}"
