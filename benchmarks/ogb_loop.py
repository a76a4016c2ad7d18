"""OGB's reference training loop against ``python -m experiments.molpcba``.

The loop follows OGB's ``main_pyg.py``: PyG's ``DataLoader``, Adam at a constant rate, cross entropy
over the known labels of a batch, scores after every epoch, and the test score at the best valid
epoch. Network, data, split, batch size and seeds are the trainer's. The two take turns, seed
by seed, with the same readout; the trainer also trains EA (15 steps) with the first three seeds:

    python -m benchmarks.ogb_loop --data embedded --epochs 10 --seeds 3 --out runs/ogb_loop

Flags are the trainer's (readout ``sum`` and a constant rate unless given) and ``--out``, a new
folder for ``records.csv`` (a row for each run), ``machine.json`` and the trainer's run folders.
Seconds are those of training for an epoch and of scoring the valid part, the median over a run's
epochs; the trainer's include its checkpoints.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F
from torch_geometric.loader import DataLoader
from tqdm import tqdm

from benchmarks.loader import singles
from benchmarks.records import write_machine
from experiments.common import UserError, mean_and_deviation, write_text
from experiments.molpcba.__main__ import run
from experiments.molpcba.config import Config, parse, resolve
from experiments.molpcba.data import MoleculeData, load
from experiments.molpcba.folder import RunFolder
from experiments.molpcba.model import MoleculeNetwork
from experiments.molpcba.training import score
from experiments.report import difference_text

RECORDS = "records.csv"
EA_SEEDS = 3
"""Number of seeds for EA: enough for a ratio of times."""

Row = dict[str, float]
"""``valid`` and ``test`` score at the best-valid epoch, and ``seconds`` an epoch."""


def train_epoch(
    model: nn.Module, loader: DataLoader, optimizer: torch.optim.Optimizer, device: torch.device
) -> float:
    """OGB's ``train``; returns the mean loss of the steps."""
    model.train()
    losses = []
    for batch in tqdm(loader, "training", leave=False, disable=None):
        batch = batch.to(device)
        if batch.x.shape[0] == 1 or batch.batch[-1] == 0:
            continue  # as OGB: BatchNorm cannot bear it
        logits = model(batch)
        optimizer.zero_grad()
        labelled = batch.y == batch.y
        loss = F.binary_cross_entropy_with_logits(logits[labelled], batch.y[labelled])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses) / len(losses)


@torch.no_grad()
def evaluate(model: nn.Module, loader: DataLoader, metric: str, device: torch.device) -> float:
    """OGB's ``eval``."""
    model.eval()
    bar = tqdm(loader, "scoring", leave=False, disable=None)
    pairs = [(b.y, model(b.to(device)).cpu()) for b in bar]
    return score(metric, torch.cat([y for y, _ in pairs]), torch.cat([out for _, out in pairs]))


def run_plainly(config: Config, data: MoleculeData) -> Row:
    """Trains as OGB does."""
    torch.manual_seed(config.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loaders = {
        part: DataLoader(singles(data.graphs, index), config.batch_size, shuffle=part == "train")
        for part, index in data.splits.items()
    }
    model = MoleculeNetwork(config, len(data.task_names)).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
    rows = []
    for epoch in range(config.epochs):
        start = time.perf_counter()
        loss = train_epoch(model, loaders["train"], optimizer, device)
        valid = evaluate(model, loaders["valid"], data.metric, device)
        scored = time.perf_counter()
        test = evaluate(model, loaders["test"], data.metric, device)
        seconds = scored - start
        rows.append({"valid": valid, "test": test, "seconds": seconds})
        print(f"epoch {epoch:3d}  loss {loss:.4f}  valid {valid:.4f}  {seconds:.1f} s", flush=True)
    best = max(rows, key=lambda row: row["valid"])
    return best | {"seconds": median(row["seconds"] for row in rows)}


def run_trainer(config: Config) -> Row:
    """Trains with the trainer."""
    results = run(config)
    metrics = pd.read_csv(RunFolder(Path(config.runs_dir) / results["config"]["name"]).metrics)
    seconds = float(metrics["seconds"].median())
    return {"valid": results["valid"], "test": results["test"], "seconds": seconds}


def compare(config: Config, folder: Path) -> None:
    """Trains every run and writes a row for each to ``folder`` as soon as it is finished."""
    data = load(config)
    rows = []
    for seed in range(config.seed, config.seed + config.seeds):
        given = replace(config, seed=seed, seeds=1, name=None, runs_dir=str(folder / "runs"))
        same = resolve(given, data.name)
        with_ea = resolve(replace(given, readout="ea", steps=15), data.name)
        turns = {
            f"OGB's loop, {config.readout}": lambda same=same: run_plainly(same, data),
            f"trainer, {config.readout}": lambda same=same: run_trainer(same),
        }
        if with_ea != same and seed < config.seed + EA_SEEDS:
            turns["trainer, EA-15"] = lambda with_ea=with_ea: run_trainer(with_ea)
        for name, turn in turns.items():
            print(f"\n--- {name}, seed {seed}", flush=True)
            rows.append({"loop": name, "seed": seed, "data": data.name, **turn()})
            write_text(folder / RECORDS, pd.DataFrame(rows).to_csv(index=False))


def table(records: pd.DataFrame) -> pd.DataFrame:
    """Scores over seeds, their difference to OGB's loop seed by seed (its standard error in
    brackets), and the ratio of times.
    """
    wide = records.pivot(index="seed", columns="loop", values=["test", "valid", "seconds"])
    loops = list(records["loop"].unique())
    test, seconds = wide["test"], wide["seconds"]
    reference = loops[0]
    return pd.DataFrame(
        [
            {
                "loop": loop,
                "seeds": int(test[loop].count()),
                "test": mean_and_deviation(list(test[loop].dropna())),
                "test - OGB's": difference_text(list((test[loop] - test[reference]).dropna())),
                "valid": mean_and_deviation(list(wide["valid"][loop].dropna())),
                "s an epoch": round(float(seconds[loop].median()), 2),
                "time / OGB's": round(float((seconds[loop] / seconds[reference]).median()), 3),
            }
            for loop in loops
        ]
    )


def report(folder: Path) -> str:
    """Returns the table of a record."""
    return table(pd.read_csv(folder / RECORDS)).to_string(index=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--out", type=Path, default=Path("runs/ogb_loop"))
    options, flags = parser.parse_known_args(words)
    folder = options.out
    try:
        config = parse(["--readout", "sum", "--schedule", "constant", *flags])
        if folder.exists():
            raise UserError(f"{folder} is there already: give --out a new folder")
        folder.mkdir(parents=True)
        write_machine(folder, "benchmarks.ogb_loop", words)
        compare(config, folder)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"\n{report(folder)}\nrecords: {folder / RECORDS}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
