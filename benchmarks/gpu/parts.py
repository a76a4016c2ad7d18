"""Parts of the GPU benchmark.

Parts 1 to 5 need torch, torch_geometric, numpy and pytest only; parts 6 and 7 need the trainer's
packages and molecules that the trainer has prepared.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.contestants import CONTESTANTS
from benchmarks.gin import molecules
from benchmarks.gpu.measuring import (
    UNUSABLE,
    Setup,
    Step,
    is_usable,
    peak,
    precision,
    prepared,
    seconds,
    stream,
)
from benchmarks.model import ModelTimer
from benchmarks.products import ProductCounter
from benchmarks.timing import CLOCKS, backward
from benchmarks.workloads import (
    HALF_PRECISION,
    LOCAL_100,
    READOUT_64,
    READOUT_300,
    WORKLOADS,
    Workload,
)
from pyg_ea import solve_backend

ROOT = Path(__file__).parents[2]
BATCH_1024 = Workload("batch-1024", 1_024 * 26, 1_024, 300)
MAIN = (READOUT_300, READOUT_64, LOCAL_100, BATCH_1024)
Row = tuple[str, str, str]
"""Contestant, precision and execution mode."""
FIRST: list[Row] = [  # at the main sizes, then at the others
    ("unrolled", "bf16", "triton"),
    ("pyg", "bf16", "eager"),
    ("sum", "float32", "eager"),
    ("unrolled", "bf16", "graph"),
]
THEN: list[Row] = [  # at the main sizes
    *(("unrolled", name, mode) for name in ("tf32", "float32") for mode in ("triton", "graph")),
    ("unrolled", "bf16", "eager"),
    ("pna", "bf16", "eager"),
    ("pyg", "tf32", "eager"),
    ("listing", "tf32", "plain"),
]
BATCHES = (256, 32, 1_024)
READOUTS = [("sum", 0), *((who, t) for t in (5, 15, 2, 10) for who in ("unrolled", "half-width"))]
TRAINER_NEEDS = ("ogb", "rdkit", "lightning", "jsonargparse", "pandas")


def tests(setup: Setup) -> None:
    """Part 1: the library's tests on the GPU; in a rehearsal those of one file, on the CPU."""
    import pytest

    outcomes = {"passed": 0, "failed": 0, "skipped": 0}

    class Counter:
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.when == "call" or not report.passed:
                outcomes[report.outcome] += 1
            if report.failed:
                reason = report.longreprtext.strip().splitlines()[-1][:120]
                setup.add("tests", report.nodeid[:200], "tests", "failure", 1, unit=reason)

    folder = ROOT / "tests"
    words = [str(folder / "test_segments.py")]
    if not setup.rehearse:
        uses = [p for p in folder.glob("test_*.py") if "device" in p.read_text()]
        uses += [folder / f"test_{name}.py" for name in ("aggregation", "pool", "conv", "multi")]
        files = sorted(uses, key=lambda path: (path.name != "test_gpu.py", path))
        words = ["-m", "cuda", "--continue-on-collection-errors", *map(str, files)]
        words += ["-n", "8", "--dist", "worksteal"] if importlib.util.find_spec("xdist") else []
    options = ["-q", "-o", "addopts=", "-o", "filterwarnings=", "-p", "no:cacheprovider"]
    pytest.main([*options, *words], plugins=[Counter()])
    for name, number in outcomes.items():
        setup.add("tests", "all", "tests", name, number, unit="tests")


def host(setup: Setup) -> None:
    """Part 2: the host's own time of a step with Triton, and its launches. Needs no GPU."""
    if importlib.util.find_spec("triton") is None:
        print("left out: Triton is not installed")
        return
    from benchmarks.gpu.dry import install, launches

    dry, counts = install(90), {}
    size = Workload("toy", 26, 1, 16, steps=15)
    for steps in (14, 15):
        size = replace(size, steps=steps)
        step = _layer_step(replace(setup, device=torch.device("cpu")), size, "unrolled")[1]
        with solve_backend("triton"):
            step()
            counts[steps] = launches(dry, step)
            times = [_processor_time(step) for _ in range(20)]
    add = setup.row("host", size, "unrolled", "float32")
    add("launches of an inner step", counts[15] - counts[14], unit="launches")
    add("launches of a step", counts[15], unit="launches")
    for repetition, value in enumerate(times):
        add("step", value, repetition=repetition)


def _processor_time(step: Step) -> float:
    started = process_time()
    step()
    return process_time() - started


def layer(setup: Setup) -> None:
    """Part 3: a training step of the layer against its peers, rows of most worth first."""
    others = [w for w in WORKLOADS.values() if w not in (*MAIN, HALF_PRECISION)]
    main, others = (MAIN[:1], others[-1:]) if setup.rehearse else (MAIN, others)
    for sizes, rows in ((main, FIRST), (main, THEN), (others, FIRST)):
        for size in map(setup.size, sizes):
            for who, name, mode in rows:
                build = partial(_layer_step, setup, size, who)
                _measure(setup, "layer", size, who, name, mode, build)


def model(setup: Setup) -> None:
    """Part 4: a training step of the GIN with sum and EA (E.2), and what its loader takes."""
    batches = [replace(READOUT_300, name=f"gin-{n}", segments=n, steps=0) for n in BATCHES]
    if setup.rehearse:
        batches = [replace(setup.size(batches[0]), segments=4, steps=0)]
    full_width = [(who, steps) for who, steps in READOUTS if who != "half-width"]
    readouts, modes = READOUTS, ("triton", "graph")
    if setup.rehearse:
        readouts = full_width = READOUTS[::4]

    def measure(size: Workload, who: str, steps: int, name: str, mode: str) -> None:
        size = replace(size, steps=steps)
        _measure(setup, "model", size, who, name, mode, partial(_model_step, setup, size, who))

    for mode in modes:
        for who, steps in readouts:
            measure(batches[0], who, steps, "bf16", mode)
    for size in batches:
        if setup.begin(f"loader {size.name}"):
            _loader(setup, size)
    for who, steps in full_width:
        for size in batches[1:]:
            measure(size, who, steps, "bf16", "triton")
        measure(batches[0], who, steps, "tf32", "triton")


def _layer_step(setup: Setup, size: Workload, who: str) -> tuple[nn.Module, Step]:
    contestant = CONTESTANTS[who]
    module = contestant.layer(size.channels, size.steps).to(setup.device)
    x, index = (tensor.detach().to(setup.device) for tensor in size.data())
    x.requires_grad_()

    def step() -> None:
        x.grad = None
        module.zero_grad(set_to_none=True)
        backward(contestant.forward(module, x, index, size.segments).float())

    return module, step


def _model_step(setup: Setup, size: Workload, who: str) -> tuple[nn.Module, Step]:
    timer = ModelTimer(
        CONTESTANTS[who], size.channels, size.steps, size.segments, CLOCKS["wall"], setup.device
    )
    return timer.model, timer.step


def _measure(
    setup: Setup,
    section: str,
    size: Workload,
    who: str,
    name: str,
    mode: str,
    build: Callable[[], tuple[nn.Module, Step]],
) -> None:
    """Records time and peak memory of a step, or that and why it failed."""
    if mode == "graph" and setup.device.type == "cpu":
        return
    if not setup.begin(" ".join([section, size.name, who, str(size.steps), name, mode])):
        return
    add = setup.row(section, size, who, f"{name} {mode}")
    try:
        with stream(mode, setup.device), precision(name, setup.device):
            _, step = build()
            run = prepared(step, mode, setup.device)
            for repetition, value in enumerate(seconds(run, setup.device)):
                add("step", value, repetition=repetition)
            if mode != "graph":
                add("peak", peak(run, setup.device) / 2**20, unit="MiB")
    except Exception as error:  # the others are measured all the same
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        print(f"{size.name}, {who}, {name} {mode}: {reason}")
        add("failed", 1, unit=reason[:120])
        if not is_usable(setup.device):
            sys.exit(UNUSABLE)
    gc.collect()
    if setup.device.type == "cuda":
        torch.cuda.empty_cache()


def _loader(setup: Setup, workload: Workload) -> None:
    """Seconds in which the trainer's loader makes a batch on the device."""
    path = ROOT / "experiments" / "molpcba" / "data" / "graphs.py"  # alone: it needs torch only
    spec = importlib.util.spec_from_file_location("packed_graphs", path)
    assert spec is not None
    assert spec.loader is not None
    packed: Any = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = packed
    spec.loader.exec_module(packed)
    batch = molecules(4 * workload.segments)
    own = batch.edge_index - batch.ptr[batch.batch[batch.edge_index[0]]]
    node_ptr, edge_ptr = (batch._slice_dict[name].long() for name in ("x", "edge_attr"))
    columns = [batch.x[:, None].expand(-1, 9), batch.edge_attr[:, None].expand(-1, 3)]
    x, edge_attr = (column.to(torch.uint8) for column in columns)
    graphs = packed.PackedGraphs(
        x, own.int(), edge_attr, batch.y.to(torch.int8), node_ptr, edge_ptr
    )
    loader = packed.GraphLoader(
        graphs.to(setup.device), torch.arange(len(graphs)), workload.segments, shuffle=True
    )
    add = setup.row("model", workload, "loader", "")
    for repetition, value in enumerate(seconds(lambda: list(loader), setup.device)):
        add("batch", value / len(loader), repetition=repetition)


def profiles(setup: Setup) -> None:
    """Part 5: kernels, their share of a step, and the rate of products reached."""
    device = setup.device
    size = setup.size(READOUT_300)
    graphs = setup.size(replace(READOUT_300, name="gin-256"))
    steps = {}
    for mode in ("triton", "eager"):
        steps["layer", mode, size.steps] = _layer_step(setup, size, "unrolled")[1]
        fewer = replace(size, steps=size.steps - 1)
        steps["layer", mode, size.steps - 1] = _layer_step(setup, fewer, "unrolled")[1]
    steps["gin sum", "triton", 0] = _model_step(setup, replace(graphs, steps=0), "sum")[1]
    steps["gin", "triton", graphs.steps] = _model_step(setup, graphs, "unrolled")[1]
    with precision("bf16", device):
        for (case, mode, number), step in steps.items():
            run = prepared(step, mode, device)
            add = setup.row("profile", replace(size, name=case, steps=number), mode, "bf16")
            wall = min(seconds(run, device))
            add("wall", wall)
            for name, value, unit in _profile(run, device):
                add(name, value, unit=unit)
            with ProductCounter() as counter:
                prepared(step, "eager", device)
            add("products", counter.total / 1e12, unit="TFLOP")
            add("rate", counter.total / 1e12 / wall, unit="TFLOP/s")
    _rates(setup)


def _profile(run: Step, device: torch.device) -> list[tuple[str, float, str]]:
    """Number of kernels, seconds in which they run, and the longest of them."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        run()
        if on_gpu:
            torch.cuda.synchronize(device)
    kind = DeviceType.CUDA if on_gpu else DeviceType.CPU
    totals: dict[str, list[float]] = {}
    for event in profiler.events() or []:
        if event.device_type == kind:
            time = event.device_time_total if on_gpu else event.self_cpu_time_total
            totals.setdefault(event.name, []).append(time / 1e6)
    longest = sorted(totals.items(), key=lambda item: -sum(item[1]))[:8]
    return [
        ("kernels", float(sum(map(len, totals.values()))), "kernels"),
        ("busy", sum(map(sum, totals.values())), "s"),
        *((f"kernel {len(t)} x {name[:60]}", sum(t), "s") for name, t in longest),
    ]


def _rates(setup: Setup) -> None:
    """What this device reaches: products of 8,192 squared in bf16, and copies."""
    n = 64 if setup.rehearse else 8_192
    a, b = (torch.randn(n, n, device=setup.device).bfloat16() for _ in range(2))
    c = torch.empty(n * n * 16, dtype=torch.uint8, device=setup.device)
    d = torch.empty_like(c)
    add = setup.row("profile", Workload("device", 0, 0, 0, steps=0), "device", "")
    add("product", 2 * n**3 / min(seconds(lambda: a @ b, setup.device)) / 1e12, unit="TFLOP/s")
    add("copy", 2 * c.nbytes / min(seconds(lambda: d.copy_(c), setup.device)) / 1e12, unit="TB/s")


def stand_in(setup: Setup) -> None:
    """Part 6: one epoch of the trainer on the CSV with sum and EA-5, and its evaluation."""
    for readout in ("sum", "ea"):
        _train(setup, "stand-in", readout, epochs=1)


def training(setup: Setup) -> None:
    """Part 7: training for real, as many epochs as fit."""
    started = perf_counter()
    for readout, share in (("sum", 0.3), ("ea", 1.0)):
        known = setup.known("stand-in", readout)
        if "seconds" not in known:
            print("left out: part 6 has no time of an epoch")
            return
        left = (setup.seconds - (perf_counter() - started)) * share - known["set-up"]
        epochs = 2 if setup.rehearse else int(left / known["seconds"])
        if epochs < 1:
            print(f"left out: an epoch with {readout} takes {known['seconds']:.0f} s")
            return
        _train(setup, "training", readout, epochs)


def _train(setup: Setup, section: str, readout: str, epochs: int) -> None:
    """Runs the trainer's command and records what its results say."""
    missing = [name for name in TRAINER_NEEDS if importlib.util.find_spec(name) is None]
    if missing or not setup.csv:
        print("left out: " + (f"{', '.join(missing)} not installed" if missing else "no --csv"))
        return
    with tempfile.TemporaryDirectory() as folder:
        words = f"--readout {readout} --steps 5 --epochs {epochs} --name run --preset reference"
        words += " --precision bf16 --batch-size 1024 --accelerator gpu"
        if setup.rehearse:
            words = (
                f"--readout {readout} --steps 2 --epochs {epochs} --name run --width 8 --layers 1"
            )
        places = ["--csv", str(setup.csv), "--root", str(setup.root), "--runs-dir", folder]
        started = perf_counter()
        command = [sys.executable, "-m", "experiments.molpcba", *words.split(), *places]
        subprocess.run(command, check=True, cwd=ROOT)
        took = perf_counter() - started
        results = json.loads((Path(folder) / "run" / "results.json").read_text())
    add = setup.row(section, Workload("csv", 0, 0, 0, steps=5), readout, f"{epochs} epochs")
    add("seconds", results["seconds"] / results["epochs"], unit="s an epoch")
    add("set-up", took - results["seconds"])
    for part in ("valid", "test"):
        add(part, results[part], unit=results["metric"])
        add(f"{part} molecules", results["data"]["molecules"][part], unit="molecules")
    add("train molecules", results["data"]["molecules"]["train"], unit="molecules")


PARTS: dict[str, Callable[[Setup], None]] = {
    "tests": tests,
    "host": host,
    "layer": layer,
    "model": model,
    "profile": profiles,
    "stand-in": stand_in,
    "training": training,
}
