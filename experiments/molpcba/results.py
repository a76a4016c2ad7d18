"""What is said of a run: ``results.json`` and the short table on the terminal."""

from __future__ import annotations

import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from experiments.molpcba.callbacks import Row, best_row
from experiments.molpcba.config import Config, to_dict
from experiments.molpcba.data import MoleculeData
from experiments.molpcba.evaluation import TITLES, Metric
from experiments.molpcba.readouts import ITERATIVE, parts_of

PACKAGES = ("pyg_ea", "torch", "torch-geometric", "lightning", "ogb", "rdkit", "numpy")


def collect(
    config: Config, data: MoleculeData, module: nn.Module, history: list[Row], status: str
) -> dict[str, Any]:
    """The content of ``results.json``; the test score is filled in later.

    Args:
        config: resolved.
        data: what was trained on.
        module: what was trained; its parameters are counted.
        history: a row for each epoch.
        status: ``"finished"`` or ``"interrupted"``.
    """
    score = f"valid_{data.metric}"
    best = best_row(history, score) if history else None
    test_labels = data.graphs.labels(data.splits["test"])
    return {
        "name": config.name,
        "status": status,
        "metric": data.metric,
        "valid": None if best is None else best[score],
        "test": None,
        "chance": Metric(data.metric, data.num_tasks).chance(test_labels),
        "best_epoch": None if best is None else int(best["epoch"]),
        "epochs": len(history),
        "seconds": round(sum(row["seconds"] for row in history), 1),
        "parameters": sum(p.numel() for p in module.parameters() if p.requires_grad),
        "model": config.model,
        "readout": config.readout,
        "local": config.local,
        "steps": config.steps,
        "seed": config.seed,
        "data": {
            "name": data.name,
            "source": data.source,
            "fingerprint": data.fingerprint,
            "graphs": data.graphs_sha256[:16],
            "split": data.split,
            "molecules": {part: len(index) for part, index in data.splits.items()},
            "tasks": data.num_tasks,
        },
        "config": to_dict(config),
        "threads": torch.get_num_threads(),
        "versions": {name: _version(name) for name in PACKAGES},
        "revision": revision(),
    }


def revision() -> str | None:
    """The git commit of the code, ``-dirty`` if changed since; None outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def describe_config(config: Config) -> str:
    """The resolved settings, a few to a line."""
    words = [f"{key}={value}" for key, value in to_dict(config).items() if key != "resume"]
    lines, line = [], "settings:"
    for word in words:
        if len(line) + len(word) > 98:
            lines.append(line)
            line = "         "
        line += " " + word
    return "\n".join([*lines, line])


def table(results: dict[str, Any], folder: Path) -> str:
    """The end of a run on the terminal."""
    data = results["data"]
    rows = [
        ("run", f"{folder} ({results['status']})"),
        ("data", f"{data['name']}, split {data['split']}: " + _parts(data["molecules"])),
        ("model", f"{_architecture(results)}, {results['parameters']:,} parameters"),
        ("time", f"{_duration(results['seconds'])} for {results['epochs']} epochs"),
    ]
    if results["valid"] is None:
        rows.append(("score", "stopped before the end of the first epoch; --resume starts again"))
    else:
        title = TITLES[results["metric"]]
        test = "not known" if results["test"] is None else f"{results['test']:.4f}"
        scores = f"valid {results['valid']:.4f}   test {test}"
        rows.append((title, f"{scores}   (best-valid epoch {results['best_epoch']}; "
                            f"chance {results['chance']:.4f})"))  # fmt: skip
    return "\n" + "\n".join(f"{name:8s} {text}" for name, text in rows)


def _architecture(results: dict[str, Any]) -> str:
    virtual = " with virtual node" if results["config"]["virtual_node"] else ""
    local = f", local {results['local']}" if results["local"] != "sum" else ""
    uses_steps = results["local"] == "ea" or set(ITERATIVE) & set(parts_of(results["readout"]))
    steps = f", {results['steps']} inner steps" if uses_steps else ""
    return f"{results['model']}{virtual}, readout {results['readout']}{local}{steps}"


def _parts(molecules: dict[str, int]) -> str:
    return " / ".join(f"{molecules[part]:,}" for part in ("train", "valid", "test"))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
