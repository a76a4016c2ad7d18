"""From a prepared set to the first batch in a fresh process, and steps of the reference network.

Run by `python -m benchmarks.scale` as `python -m benchmarks.first_batch START CSV SPLIT ROOT
STEPS`, with START the time at which the process was started. Prints JSON.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import islice
from statistics import median


def main() -> None:
    """Measures; imports are in here because their time counts."""
    started, csv, split, root, number = float(sys.argv[1]), *sys.argv[2:5], int(sys.argv[5])
    marks = [("interpreter", time.time())]
    import torch

    import experiments.molpcba.__main__  # noqa: F401 (all that the trainer imports)
    from experiments.molpcba.config import Config, load_preset
    from experiments.molpcba.data import GraphLoader, load

    marks.append(("imports", time.time()))
    data = load(Config(csv=csv, root=root, split=split))
    marks.append(("opening the cache", time.time()))
    size = load_preset("reference")["batch_size"]
    loader = GraphLoader(data.graphs, data.splits["train"], size, shuffle=True)
    next(iter(loader))
    marks.append(("first batch", time.time()))
    record: dict[str, object] = {"molecules": len(data.graphs), "batches": len(loader)}
    before = started
    for name, at in marks:
        record[f"{name}, s"] = at - before
        before = at
    record["first batch since process start, s"] = before - started

    from benchmarks.loader import Step, rate

    loading = 1 / rate(loader, number).per_second
    record["loader, s a batch"] = loading
    for name, readout, inner in (("sum", "sum", 1), ("EA-5", "ea", 5), ("EA-15", "ea", 15)):
        torch.manual_seed(0)
        step = Step(data, readout=readout, steps=inner)
        seconds = median(step(batch) for batch in islice(loader, number)) + loading
        record[f"step with {name}, s"] = seconds
        record[f"estimate of a training epoch with {name}, h"] = seconds * len(loader) / 3_600
    print(json.dumps(record))


if __name__ == "__main__":
    main()
