"""Processor time of a training step with every readout of the study `protocol`.

The networks are the study's rows, on one batch of molecules, with Adam and EA's auxiliary
loss. Rows take turns. Processor time leaves out other work on the machine; use one thread,
`OMP_NUM_THREADS=1`. Records are OUT/steps.csv and OUT/machine.json.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt
from torch.nn import functional as F
from torch_geometric.data import Batch

from benchmarks.records import write_machine
from benchmarks.timing import interleaved
from experiments.molpcba.config import Config
from experiments.molpcba.data import GraphLoader, MoleculeData, load
from experiments.molpcba.model import MoleculeNetwork
from experiments.studies import Study
from pyg_ea import EAAggregation, auxiliary_loss, collect_solutions

RECORDS = "steps.csv"


class Step:
    """Training step of a row's network, repeated on one batch."""

    def __init__(self, config: Config, data: MoleculeData, batch: Batch) -> None:
        sizes = batch.ptr.diff()
        self.batch, self.network = batch, MoleculeNetwork(config, len(data.task_names), sizes)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), fused=True)
        has_ea = any(isinstance(module, EAAggregation) for module in self.network.modules())
        self.aux_weight = config.aux_weight if has_ea else 0.0
        self.parameters = sum(p.numel() for p in self.network.parameters())
        self()

    def __call__(self) -> dict[str, float]:
        """Runs one training step and returns its time in seconds."""
        start, labelled = time.process_time(), ~self.batch.y.isnan()
        self.optimizer.zero_grad()
        with collect_solutions() as solutions:
            logits = self.network(self.batch)
        loss = F.binary_cross_entropy_with_logits(logits[labelled], self.batch.y[labelled])
        if self.aux_weight:
            loss = loss + self.aux_weight * auxiliary_loss(solutions)
        loss.backward()
        self.optimizer.step()
        return {"seconds": time.process_time() - start}


def measure(data: MoleculeData, rounds: int) -> pd.DataFrame:
    """Returns a row for each step: readout, parameters of its network, round, seconds."""
    configs = Study.read("protocol").configurations([], data.name, len(data.task_names))
    index = torch.randperm(len(data.graphs), generator=torch.Generator().manual_seed(0))
    size = next(iter(configs.values())).batch_size
    batch = next(iter(GraphLoader(data.graphs, index[:size], size)))
    steps = {row: Step(config, data, batch) for row, config in configs.items()}
    rows = [
        {"row": row, "parameters": steps[row].parameters, "round": repetition, **times}
        for row, repetition, times in interleaved(steps, rounds, "readouts")
    ]
    return pd.DataFrame(rows)


def summary(folder: Path) -> pd.DataFrame:
    """Returns a row for each readout: median time, and its ratio to the mean with its range."""
    table = pd.read_csv(folder / RECORDS)
    times = table.pivot(index="round", columns="row", values="seconds")[table["row"].unique()]
    ratios = times.div(times["mean"], axis=0)
    return pd.DataFrame(
        {
            "parameters": table.groupby("row")["parameters"].first(),
            "ms": 1_000 * times.median(),
            "ratio": ratios.median(),
            "least": ratios.min(),
            "most": ratios.max(),
        }
    ).loc[times.columns]


def report(folder: Path) -> str:
    """Returns the table of a record."""
    shown = summary(folder)
    shown.index.name = None
    title = "processor time of a training step; ratio to the mean readout within rounds, its range"
    return f"{title}\n{shown.to_string(float_format=lambda value: f'{value:.3g}')}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints the table and writes the records to `--out`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = ArgumentParser(prog="python -m benchmarks.readouts", description=__doc__)
    parser.add_argument(
        "--root", type=Path, default=Path("dataset"), help="folder of prepared data"
    )
    parser.add_argument("--rounds", type=PositiveInt, default=15, help="number of measurements")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/benchmarks/readouts"), help="folder of the records"
    )
    options = parser.parse_args(words)
    options.out.mkdir(parents=True, exist_ok=True)
    write_machine(options.out, "benchmarks.readouts", words)
    data = load(Config("embedded", str(options.root)))
    table = measure(data, options.rounds)
    table.to_csv(options.out / RECORDS, index=False)
    print(report(options.out))


if __name__ == "__main__":
    main()
