"""``python -m experiments.molpcba.predict``: a trained network on new molecules."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from experiments.molpcba.config import Config
from experiments.molpcba.data import DataError, GraphLoader, PackedGraphs, smiles_to_graphs
from experiments.molpcba.errors import UserError
from experiments.molpcba.models import MoleculeNetwork, build_network
from experiments.molpcba.runs import read_checkpoint, write_text


def load_network(path: Path) -> tuple[MoleculeNetwork, list[str]]:
    """The network of a checkpoint, in eval mode, and the names of its tasks.

    Raises:
        UserError: when the checkpoint is missing or damaged.
    """
    checkpoint = read_checkpoint(path)
    identity = checkpoint["pyg_ea"]
    network = build_network(Config(**identity["config"]), len(identity["task_names"]))
    prefix = "network."
    state = {
        key.removeprefix(prefix): value
        for key, value in checkpoint["state_dict"].items()
        if key.startswith(prefix)
    }
    network.load_state_dict(state)
    return network.eval(), identity["task_names"]


@torch.inference_mode()
def predict(network: MoleculeNetwork, graphs: PackedGraphs, batch_size: int) -> Tensor:
    """Probability of each task for each molecule: ``[G, tasks]``."""
    loader = GraphLoader(graphs, torch.arange(len(graphs)), batch_size)
    return torch.cat([network(batch).sigmoid() for batch in tqdm(loader, "predicting")])


def predict_file(checkpoint: Path, smiles_file: Path, out: Path, batch_size: int) -> int:
    """Predicts for a file with a SMILES at the start of each line and writes a CSV table.

    Lines that are no molecule are reported and left out.

    Returns:
        The number of molecules predicted.

    Raises:
        UserError: when a file cannot be read or written, or holds no molecule.
    """
    network, tasks = load_network(checkpoint)
    try:
        text = smiles_file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {smiles_file} ({error}): expected a text file") from error
    words = [(n, line.split()[0]) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    graphs, rejected = smiles_to_graphs([word for _, word in words], [n for n, _ in words])
    for item in rejected:
        print(f"line {item.line}: {item.smiles!r} left out: {item.reason}", file=sys.stderr)
    if not len(graphs):
        raise UserError(f"{smiles_file} holds no molecule: expected one SMILES a line")
    bad = {item.line for item in rejected}
    table = pd.DataFrame(predict(network, graphs, batch_size).numpy(), columns=tasks)
    table.insert(0, "smiles", [word for n, word in words if n not in bad])
    try:
        write_text(out, table.to_csv(index=False))
    except OSError as error:
        raise UserError(f"cannot write {out} ({error}): choose another --out") from error
    return len(table)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m experiments.molpcba.predict")
    parser.add_argument("--checkpoint", type=Path, required=True, help="runs/NAME/checkpoints/...")
    parser.add_argument("--smiles", type=Path, required=True, help="file, one SMILES a line")
    parser.add_argument("--out", type=Path, default=Path("predictions.csv"), help="table to write")
    parser.add_argument("--batch-size", type=int, default=256)
    given = parser.parse_args(argv)
    try:
        if given.batch_size < 1:
            raise UserError(f"--batch-size must be 1 or more, got {given.batch_size}")
        count = predict_file(given.checkpoint, given.smiles, given.out, given.batch_size)
    except (UserError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{count} molecules: probabilities in {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
