"""Tables of time and memory."""

from __future__ import annotations

from statistics import median

import pandas as pd

from benchmarks.analysis import Ratio, ratio, select
from benchmarks.gpu.report import MAIN, Key
from benchmarks.gpu.report import read as read_gpu
from benchmarks.records import read
from docs.common import RESULTS, table

SIZES = {
    "one-graph-64": "1 graph, 64 channels",
    "one-graph": "1 graph, 300 channels",
    "graphs-32": "32 graphs, 64 channels",
    "graphs-128": "128 graphs, 64 channels",
    "readout-64": "256 graphs, 64 channels",
    "readout-300": "256 graphs, 300 channels",
    "local-100": "6,500 neighbourhoods, 100 channels",
}
"""Workloads of the layer benchmark, and what the pages call them."""

ADJOINTS = {
    "unrolled": "`Unrolled()`, the default",
    "checkpointed": "`Checkpointed()`",
    "truncated-3": "`Truncated(3)`",
    "implicit": "`Implicit()`",
    "half-width": "`Unrolled()`, half the hidden width",
}
"""Contestants of the benchmark of adjoints, and what the pages call them."""

MODES = {
    "pyg eager": "PyG's layer",
    "unrolled eager": '`solve_backend("torch")`',
    "unrolled default": "compiled inner step (removed since)",
    "unrolled graph": "compiled inner step in a CUDA graph (removed since)",
}
"""Contestants and modes of the GPU benchmark, and what the pages call them."""


def layer_table() -> str:
    """Time of the layer over that of PyG's, for each size."""
    frame = read(RESULTS / "benchmarks" / "layer-2-cores")
    rows = []
    for case, label in SIZES.items():
        own = select(frame, case=case)
        size = [f"{own.iloc[0].elements:,}", own.iloc[0].steps]
        rows.append([label, *size, *(_short(_to_pyg(own, key)) for key in ("step", "eval"))])
    return table(["", "elements", "steps", "training step", "evaluation"], rows)


def _to_pyg(frame: pd.DataFrame, quantity: str, contestant: str = "unrolled") -> Ratio | None:
    return ratio(frame, contestant, "pyg", quantity=quantity)


def _short(value: Ratio | None) -> str:
    return "" if value is None else f"{value.median:.2f} ({value.low:.2f} to {value.high:.2f})"


def adjoint_table() -> str:
    """Time and memory of each adjoint over those of PyG's layer."""
    time = read(RESULTS / "benchmarks" / "adjoints-2-cores")
    peak = read(RESULTS / "benchmarks" / "peak-1-core")
    theirs = _peak(peak, "pyg")
    rows = []
    for name, label in ADJOINTS.items():
        step, evaluation = (_short(_to_pyg(time, key, name)) for key in ("step", "eval"))
        mib = _peak(peak, name)
        memory = (
            ("", "") if mib is None or theirs is None else (f"{mib:,.0f}", f"{mib / theirs:.2f}")
        )
        rows.append([label, step, evaluation, *memory])
    return table(["", "training step", "evaluation", "peak, MiB", "peak / PyG"], rows)


def _peak(frame: pd.DataFrame, contestant: str) -> float | None:
    values = select(frame, contestant=contestant, quantity="peak_step", steps=15)["value"]
    return None if values.empty else float(values.iloc[0])


def model_ratio(frame: pd.DataFrame, contestant: str, steps: int) -> Ratio:
    """Returns the time of a whole model with EA over that with the sum readout."""
    own = select(frame, contestant=contestant, steps=steps)
    found = ratio(pd.concat([select(frame, contestant="sum"), own]), contestant, "sum")
    assert found is not None
    return found


def model_table() -> str:
    """Time of a training step of GIN with EA over that with the sum readout."""
    frame = read(RESULTS / "benchmarks" / "model-2-cores")
    steps = sorted(set(frame["steps"]) - {0})
    names = {"unrolled": "CPU", "half-width": "CPU, half the hidden width"}
    rows = [
        [label, *(f"{model_ratio(frame, name, number).median:.1f}" for number in steps)]
        for name, label in names.items()
    ]
    values, _ = read_gpu(RESULTS / "gpu" / "h200-models")
    modes = {"bf16 default": "H200, launched one by one", "bf16 graph": "H200, in a CUDA graph"}
    for detail, label in modes.items():
        key = Key("model", "gin-256", "sum", 0, detail, "step")
        total = median(values[key])
        own = [median(values[key._replace(contestant="unrolled", steps=n)]) for n in steps]
        rows.append([label, *(f"{value / total:.1f}" for value in own)])
    return table(["", *(f"{number} steps" for number in steps)], rows)


def gpu_table() -> str:
    """A training step of the layer on a GPU: milliseconds, over PyG's layer, and peak memory."""
    values, _ = read_gpu(RESULTS / "gpu" / "h200")
    rows = []
    for mode, label in MODES.items():
        who, how = mode.split()
        row = [label]
        for precision in ("tf32", "bf16"):
            key = Key("layer", MAIN, who, 15, f"{precision} {how}", "step")
            pyg = key._replace(contestant="pyg", detail=f"{precision} eager")
            step = median(values[key])
            row += [f"{1e3 * step:.1f}", f"{step / median(values[pyg]):.2f}"]
        peak = values.get(Key("layer", MAIN, who, 15, f"bf16 {how}", "peak"))
        rows.append([*row, f"{median(peak):,.0f}" if peak else ""])
    return table(["", "TF32, ms", "/ PyG", "bf16, ms", "/ PyG", "bf16 peak, MiB"], rows)
