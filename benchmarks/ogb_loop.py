"""OGB's reference training loop, written plainly, beside ``python -m experiments.molpcba``.

The loop is that of OGB's ``main_pyg.py``: PyG's ``DataLoader`` over single ``Data`` objects, Adam
at a constant rate, cross entropy over the known labels of a batch, valid and test scored after
every epoch, the test score reported at the best-valid epoch. Network, data, split and batch size
are those of a configuration of the trainer, so the two can be compared in score and in time:

    python -m benchmarks.ogb_loop --out ogb_loop.json --readout sum --epochs 10
    python -m experiments.molpcba --readout sum --epochs 10 --schedule constant
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch_geometric.loader import DataLoader
from tqdm import tqdm

from experiments.molpcba.cli import parse
from experiments.molpcba.config import Config, known
from experiments.molpcba.data import DataError, MoleculeData
from experiments.molpcba.errors import UserError
from experiments.molpcba.evaluation import Metric
from experiments.molpcba.models import build_network
from experiments.molpcba.presets import resolve
from experiments.molpcba.run import load_data
from experiments.molpcba.runs import write_text


def train_epoch(
    model: nn.Module, loader: DataLoader, optimizer: torch.optim.Optimizer, device: torch.device
) -> float:
    """OGB's ``train``; returns the mean loss of the steps."""
    model.train()
    losses = []
    for batch in tqdm(loader, "training", leave=False):
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
def evaluate(model: nn.Module, loader: DataLoader, metric: Metric, device: torch.device) -> float:
    """OGB's ``eval``."""
    model.eval()
    pairs = [(b.y, model(b.to(device)).cpu()) for b in tqdm(loader, "scoring", leave=False)]
    return metric(torch.cat([y for y, _ in pairs]), torch.cat([out for _, out in pairs]))


def run(config: Config, data: MoleculeData) -> dict[str, Any]:
    """Trains as OGB does; the scores, and the seconds of each epoch's training and evaluation."""
    torch.manual_seed(config.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    graphs = data.graphs.batch(torch.arange(len(data.graphs))).to_data_list()
    loaders = {
        part: DataLoader(
            [graphs[i] for i in index.tolist()], config.batch_size, shuffle=part == "train"
        )
        for part, index in data.splits.items()
    }
    model = build_network(config, data.num_tasks).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=known(config.lr))
    metric = Metric(data.metric, data.num_tasks)
    rows = []
    for epoch in range(known(config.epochs)):
        start = time.perf_counter()
        loss = train_epoch(model, loaders["train"], optimizer, device)
        trained = time.perf_counter()
        valid = evaluate(model, loaders["valid"], metric, device)
        scored = time.perf_counter()
        test = evaluate(model, loaders["test"], metric, device)
        rows.append(
            {
                "epoch": epoch,
                "train_loss": loss,
                "valid": valid,
                "test": test,
                "train_seconds": trained - start,
                "valid_seconds": scored - trained,
            }
        )
        print(f"epoch {epoch:3d}  loss {loss:.4f}  valid {valid:.4f}  {trained - start:.1f} s")
    best = max(rows, key=lambda row: row["valid"])
    return {"loop": "ogb", "data": data.name, "readout": config.readout, "seed": config.seed,
            "valid": best["valid"], "test": best["test"], "epochs": rows}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """The trainer's flags, and ``--out FILE`` for the record; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    out = None
    if "--out" in words:
        at = words.index("--out")
        out = Path(words[at + 1])
        del words[at : at + 2]
    try:
        config = parse(words)
        data = load_data(config)
        results = run(resolve(config, data.name), data)
    except (UserError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"valid {results['valid']:.4f}  test {results['test']:.4f}")
    if out is not None:
        write_text(out, json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
