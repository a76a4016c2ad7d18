"""Speed of the trainer's loader against PyG's `DataLoader` on the same molecules.

PyG's loader gets its best case: a plain list of `Data` in memory and no worker processes. Both
shuffle, and they take turns, so that other load on the machine affects both. Columns of the table:

- `ratio`: elapsed time of PyG's loader divided by the packed loader's
- `cpu_ratio`: the same for processor time, which other load does not disturb
- `share`: the packed loader's part of a training step of OGB's GIN (5 layers of 300)
- `small_share`: the same for the preset small

Medians over `--rounds` are printed and written to OUT/loader.csv, beside OUT/machine.json.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Literal, NamedTuple

import pandas as pd
import torch
from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader

from benchmarks.records import write_machine
from experiments.common import UserError
from experiments.molpcba.config import Config, resolve
from experiments.molpcba.data import GraphLoader, MoleculeData, PackedGraphs, load
from experiments.molpcba.model import MoleculeNetwork
from pyg_ea import auxiliary_loss, collect_solutions

RECORDS = "loader.csv"


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m benchmarks.loader", description=__doc__)
    parser.add_argument("--data", default="embedded", help="data set, as in the trainer")
    parser.add_argument(
        "--csv", type=str | None, default=None, help="table of molecules in place of --data"
    )
    parser.add_argument("--root", default="dataset", help="folder of prepared data")
    parser.add_argument(
        "--batch-sizes", type=list[PositiveInt], default=[32, 256, 1024], help="batch sizes"
    )
    parser.add_argument(
        "--graphs", type=PositiveInt, default=20_000, help="maximum number of molecules"
    )
    parser.add_argument(
        "--batches", type=PositiveInt, default=50, help="maximum number of batches in a round"
    )
    parser.add_argument("--rounds", type=PositiveInt, default=5, help="number of measurements")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/benchmarks/loader"), help="folder of the records"
    )
    return parser


class Rate(NamedTuple):
    """Batches a second of elapsed time, and milliseconds of processor time a batch."""

    per_second: float
    cpu_ms: float


def rate(loader: Iterable, number: int) -> Rate:
    """Returns the rate over the first `number` batches of a pass, or over all if it has fewer."""
    start, cpu, count = time.perf_counter(), time.process_time(), 0
    for _ in islice(loader, number):
        count += 1
    elapsed = time.perf_counter() - start
    return Rate(count / elapsed, 1_000 * (time.process_time() - cpu) / count)


def singles(graphs: PackedGraphs, index: Tensor) -> list[Data]:
    """Returns the graphs `index` as a list of `Data`."""
    batches = [graphs.batch(one) for one in index.split(1)]
    return [Data(b.x, b.edge_index, b.edge_attr, b.y) for b in batches]


class Step:
    """A training step of a preset's GIN, with Adam.

    Args:
        data: that it is trained on.
        preset: sizes of the network.
        readout: of the network; EA has the auxiliary loss.
        steps: of EA.
    """

    def __init__(
        self,
        data: MoleculeData,
        preset: Literal["reference", "small"] = "reference",
        readout: str = "mean",
        steps: int = 15,
    ) -> None:
        config = resolve(Config(readout=readout, steps=steps, preset=preset), data.name)
        self.network = MoleculeNetwork(config, len(data.task_names))
        self.optimizer = torch.optim.Adam(self.network.parameters())
        self.aux_weight = config.aux_weight if readout == "ea" else 0.0

    def __call__(self, batch: Batch) -> float:
        """Runs one training step and returns its time in seconds."""
        start, labelled = time.perf_counter(), ~batch.y.isnan()
        self.optimizer.zero_grad()
        with collect_solutions() as solutions:
            logits = self.network(batch)
        loss = F.binary_cross_entropy_with_logits(logits[labelled], batch.y[labelled])
        if self.aux_weight:
            loss = loss + self.aux_weight * auxiliary_loss(solutions)
        loss.backward()
        self.optimizer.step()
        return time.perf_counter() - start


def measure(
    data: MoleculeData, batch_sizes: Sequence[int], graphs: int, batches: int, rounds: int
) -> pd.DataFrame:
    """Returns a row for each batch size: the median rates of both loaders and their ratio."""
    index = torch.randperm(len(data.graphs), generator=torch.Generator().manual_seed(0))[:graphs]
    pyg_graphs = singles(data.graphs, index)
    rows = []
    for batch_size in batch_sizes:
        packed = GraphLoader(data.graphs, index, batch_size, shuffle=True)
        pyg = DataLoader(pyg_graphs, batch_size, shuffle=True)
        batch = next(iter(packed))
        steps = Step(data), Step(data, "small")
        for step in steps:
            step(batch)  # warm-up
        seconds, pairs = [], []
        for _ in range(rounds):
            pairs.append((rate(packed, batches), rate(pyg, batches)))
            seconds.append([step(batch) for step in steps])
        ours, theirs = (
            Rate(*map(median, zip(*rates, strict=True))) for rates in zip(*pairs, strict=True)
        )
        reference, small = map(median, zip(*seconds, strict=True))
        rows.append(
            {
                "data": data.name,
                "graphs": len(pyg_graphs),
                "batch_size": batch_size,
                "packed_per_s": ours.per_second,
                "pyg_per_s": theirs.per_second,
                "ratio": ours.per_second / theirs.per_second,
                "packed_cpu_ms": ours.cpu_ms,
                "pyg_cpu_ms": theirs.cpu_ms,
                "cpu_ratio": theirs.cpu_ms / ours.cpu_ms,
                "step_ms": 1_000 * reference,
                "share": 1 / (1 + reference * ours.per_second),
                "small_step_ms": 1_000 * small,
                "small_share": 1 / (1 + small * ours.per_second),
            }
        )
    return pd.DataFrame(rows)


def aims(table: pd.DataFrame) -> str:
    """Returns a line for each aim of the loader: whether it is met."""
    lines = []
    for row in table.itertuples():
        if row.batch_size == 256:
            lines.append(_aim("times PyG's DataLoader at batch 256", row.ratio, ">=", 10))
        claim = f"share of a step of the reference network at batch {row.batch_size}"
        lines.append(_aim(claim, row.share, "<=", 0.03))
    return "\n".join(lines)


def _aim(claim: str, value: float, sign: str, bound: float) -> str:
    met = value >= bound if sign == ">=" else value <= bound
    return f"{claim}: {value:.3g} (aim {sign} {bound}) {'met' if met else 'NOT MET'}"


def report(folder: Path) -> str:
    """Returns the table of a record, with a column for each batch size, and the aims."""
    table = pd.read_csv(folder / RECORDS)
    columns = table.set_index("batch_size").drop(columns=["data", "graphs"]).T
    head = f"{table['data'][0]}, {table['graphs'][0]:,} molecules"
    shown = columns.to_string(float_format=lambda value: f"{value:.3g}")
    return f"{head}\n{shown}\n{aims(table)}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints the table and writes the records to `--out`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(words)
    try:
        data = load(Config("auto" if options.csv else options.data, options.root, options.csv))
    except UserError as error:
        sys.exit(f"error: {error}")
    print(data.source)
    options.out.mkdir(parents=True, exist_ok=True)
    write_machine(options.out, "benchmarks.loader", words)
    table = measure(data, options.batch_sizes, options.graphs, options.batches, options.rounds)
    table.to_csv(options.out / RECORDS, index=False)
    print(report(options.out))
    print(f"records: {options.out}")


if __name__ == "__main__":
    main()
