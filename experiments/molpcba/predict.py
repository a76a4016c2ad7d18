"""``python -m experiments.molpcba.predict``: a trained network on new molecules."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jsonargparse.typing import PositiveInt
from torch import Tensor
from tqdm import tqdm

from experiments.common import UserError, command, write_text
from experiments.molpcba.config import recorded
from experiments.molpcba.data import GraphLoader, PackedGraphs
from experiments.molpcba.data.molecules import pack, read_molecules
from experiments.molpcba.data.splits import reading
from experiments.molpcba.data.table import SMILES, find_smiles_column, separator_of
from experiments.molpcba.failures import explained
from experiments.molpcba.folder import read_checkpoint
from experiments.molpcba.model import MoleculeNetwork


def load_network(path: Path) -> tuple[MoleculeNetwork, list[str]]:
    """The network of a checkpoint, in eval mode, and the names of its tasks."""
    checkpoint = read_checkpoint(path)
    identity = checkpoint["pyg_ea"]
    config, tasks = recorded(identity["config"], path), identity["task_names"]
    network = MoleculeNetwork(config, len(tasks), real=identity.get("metric") == "rmse")
    state = checkpoint["state_dict"]
    network.load_state_dict({k.removeprefix("network."): v for k, v in state.items()})
    return network.eval(), tasks


@torch.no_grad()
def predict(network: MoleculeNetwork, graphs: PackedGraphs, batch_size: int) -> Tensor:
    """Probability, or value, of each task for each molecule: ``[G, tasks]``."""
    loader = GraphLoader(graphs, torch.arange(len(graphs)), batch_size)
    outputs = torch.cat([network(batch) for batch in tqdm(loader, "predicting", disable=None)])
    return outputs if network.real else outputs.sigmoid()


def read_lines(path: Path, column: str | None) -> tuple[pd.DataFrame, str]:
    """Columns line, name and smiles of a text file, and where its SMILES were found.

    A table has a header and columns separated by comma, semicolon or tab; otherwise each line has
    a SMILES and, behind white space, a name. The column is given by name or number, from 1; without
    it, it is recognised by the header's names, otherwise the first.
    """
    with reading(path) as file:
        texts = file.read().splitlines() or [""]
    separator = separator_of(texts[0])
    rows = [text.split(maxsplit=1) for text in texts]
    if separator in texts[0]:
        rows = list(csv.reader(texts, delimiter=separator))
    header = [cell.strip() for cell in rows[0]]
    has_header = column in header or any(SMILES.search(cell) for cell in header)
    position = 0
    number = int(column) if column is not None and column.isdecimal() else 0
    if 1 <= number <= len(header) and column not in header:
        position = number - 1
    elif has_header or column is not None:
        position = header.index(find_smiles_column(path, header, column))
    smiles = ["".join(row[position : position + 1]).strip() for row in rows]
    names = [" ".join(row[:position] + row[position + 1 :]).strip() for row in rows]
    table = pd.DataFrame({"line": range(1, len(rows) + 1), "name": names, "smiles": smiles})
    where = f"column {position + 1}" + (f" ({header[position]!r})" if has_header else "")
    return table[int(has_header) :].reset_index(drop=True), where


def predict_file(given: argparse.Namespace) -> str:
    """Writes a CSV table with a row for each line of the input, in order; a sentence about it.

    A line that cannot be read has an empty prediction and a reason.
    """
    network, tasks = load_network(given.checkpoint)
    table, where = read_lines(given.smiles, given.smiles_column)
    smiles = table["smiles"].tolist()
    first = ", ".join(map(repr, smiles[:3]))
    print(f"SMILES from {where} of {given.smiles}: {first}", file=sys.stderr)
    molecules, rejected = read_molecules(smiles)
    if not molecules:
        raise UserError(f"{given.smiles} has no molecule: expected one SMILES a line")
    graphs = pack(list(molecules.values()), np.zeros((len(molecules), 0), dtype=np.int8))
    values = predict(network, graphs, given.batch_size)
    predictions = pd.DataFrame(values.numpy(), index=list(molecules), columns=tasks)
    table = pd.concat([table, predictions.reindex(table.index)], axis=1)
    table["reason"] = [rejected.get(row, "") for row in table.index]
    write_text(given.out, table.to_csv(index=False))
    return f"{len(molecules)} molecules of {len(table)} lines: predictions in {given.out}"


@command
def main(argv: Sequence[str]) -> None:
    """Predicts for a file of SMILES."""
    parser = argparse.ArgumentParser(prog="python -m experiments.molpcba.predict")
    parser.add_argument("--checkpoint", type=Path, required=True, help="runs/NAME/checkpoints/...")
    parser.add_argument("--smiles", type=Path, required=True, help="a SMILES a line, or a table")
    parser.add_argument("--smiles-column", help="name, or number from 1, of the column with SMILES")
    parser.add_argument("--out", type=Path, default=Path("predictions.csv"), help="table to write")
    parser.add_argument("--batch-size", type=PositiveInt, default=256)
    given = parser.parse_args(argv)
    with explained():
        print(predict_file(given))


if __name__ == "__main__":
    sys.exit(main())
