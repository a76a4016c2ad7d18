"""From a prepared set to the first batch in a fresh process, and steps of the reference network.

Run by `python -m benchmarks.scale` as `python -m benchmarks.first_batch START CSV ROOT STEPS`, with
START the time at which the process was started. Prints JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from statistics import median

READOUTS = ("sum", "ea")


def main() -> None:
    """Measures; imports stand here because they are part of what is measured."""
    started, csv, root, number = float(sys.argv[1]), *sys.argv[2:4], int(sys.argv[4])
    marks = [("interpreter", time.time())]
    import torch

    import experiments.molpcba.__main__  # noqa: F401 (all that the trainer imports)
    from experiments.molpcba.config import load_preset
    from experiments.molpcba.data import GraphLoader, load

    marks.append(("imports", time.time()))
    data = load(csv=Path(csv), root=Path(root), split="random")
    marks.append(("opening the cache", time.time()))
    size = load_preset("reference")["batch_size"]
    loader = GraphLoader(data.graphs, data.splits["train"], size, shuffle=True)
    batch = next(iter(loader))
    marks.append(("first batch", time.time()))
    record: dict[str, object] = {"molecules": len(data.graphs), "batches": len(loader)}
    before = started
    for name, at in marks:
        record[f"{name}, s"] = at - before
        before = at
    record["first batch since process start, s"] = before - started

    from benchmarks.loader import Step, rate

    loading = 1 / rate(loader, number).per_second
    torch.manual_seed(0)
    for readout in READOUTS:
        step = Step(data, batch, readout=readout)
        seconds = median(step() for _ in range(number)) + loading
        name = "EA-15" if readout == "ea" else readout
        record[f"step with {name}, s"] = seconds
        record[f"estimate of a training epoch with {name}, h"] = seconds * len(loader) / 3_600
    print(json.dumps(record))


if __name__ == "__main__":
    main()
