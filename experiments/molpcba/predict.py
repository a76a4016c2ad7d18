"""``python -m experiments.molpcba.predict``: a trained network on new molecules."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from experiments.common import UserError, command, write_text
from experiments.molpcba.config import Config, saved_settings
from experiments.molpcba.data import GraphLoader, PackedGraphs, pack_smiles
from experiments.molpcba.data.table import SEPARATORS, find_smiles_column, is_smiles_name, reading
from experiments.molpcba.folder import read_checkpoint
from experiments.molpcba.model import MoleculeNetwork


class Line(NamedTuple):
    """One line of the input: its number, SMILES, and the rest of it."""

    number: int
    smiles: str
    name: str


def load_network(path: Path) -> tuple[MoleculeNetwork, list[str]]:
    """The network of a checkpoint, in eval mode, and the names of its tasks.

    Raises:
        UserError: when the checkpoint is missing, damaged, or of a version with other settings.
    """
    checkpoint = read_checkpoint(path)
    identity = checkpoint["pyg_ea"]
    config = Config(**saved_settings(identity["config"], str(path)))
    tasks = identity["task_names"]
    network = MoleculeNetwork(config, len(tasks), real=identity.get("metric") == "rmse")
    prefix = "network."
    state = checkpoint["state_dict"].items()
    try:
        network.load_state_dict({k.removeprefix(prefix): v for k, v in state if prefix in k})
    except RuntimeError as error:
        raise UserError(
            f"{path} is of another version, whose network differs: use that version, or train again"
        ) from error
    return network.eval(), tasks


@torch.inference_mode()
def predict(network: MoleculeNetwork, graphs: PackedGraphs, batch_size: int) -> Tensor:
    """Probability, or value, of each task for each molecule: ``[G, tasks]``."""
    loader = GraphLoader(graphs, torch.arange(len(graphs)), batch_size)
    outputs = torch.cat([network(batch) for batch in tqdm(loader, "predicting")])
    return outputs if network.real else outputs.sigmoid()


def read_lines(path: Path, column: str | None) -> tuple[list[Line], str]:
    """The molecules of a text file, and where its SMILES were found.

    A table has a header and columns separated by comma, semicolon or tab; otherwise each line has
    a SMILES and, behind white space, a name.

    Args:
        path: the file, gzip or not.
        column: name, or number from 1, of the column with SMILES; None: recognised by the header's
            names, otherwise the first.

    Raises:
        UserError: when the file cannot be read or has no such column.
    """
    with reading(path) as file:
        rows = file.read().decode("utf-8-sig").splitlines()
    if not rows:
        raise UserError(f"{path} is empty: expected one SMILES a line")
    separator = max(SEPARATORS, key=rows[0].count)
    if separator in rows[0]:
        split = [next(csv.reader([row], delimiter=separator), []) for row in rows]
    else:
        split = [row.split(maxsplit=1) for row in rows]
    header = [cell.strip() for cell in split[0]]
    has_header = column in header or any(is_smiles_name(cell) for cell in header)
    if column is not None and column.isdecimal() and column not in header:
        position = int(column) - 1
        if not 0 <= position < len(header):
            raise UserError(f"--smiles-column {column}: {path} has {len(header)} columns")
    elif has_header or column is not None:
        position = header.index(find_smiles_column(path, header, column, []))
    else:
        position = 0
    lines = []
    for number, cells in enumerate(split, 1):
        if number == 1 and has_header:
            continue
        smiles = cells[position].strip() if position < len(cells) else ""
        rest = " ".join(cell for i, cell in enumerate(cells) if i != position)
        lines.append(Line(number, smiles, rest.strip()))
    where = f"column {position + 1}" + (f" ({header[position]!r})" if has_header else "")
    return lines, where


def predict_file(
    checkpoint: Path, smiles_file: Path, out: Path, batch_size: int, column: str | None = None
) -> tuple[int, int]:
    """Writes a CSV table with a row for each line of ``smiles_file``, in order.

    A line that cannot be read has an empty prediction and a reason.

    Returns:
        The number of molecules predicted, and of all lines.

    Raises:
        UserError: when a file cannot be read or written, or has no molecule.
    """
    network, tasks = load_network(checkpoint)
    lines, where = read_lines(smiles_file, column)
    first = ", ".join(repr(line.smiles) for line in lines[:3])
    print(f"SMILES from {where} of {smiles_file}: {first}", file=sys.stderr)
    smiles = [line.smiles for line in lines]
    packed = pack_smiles(smiles, np.zeros((len(lines), 0), dtype=np.int8))
    for row, reason in packed.rejected.items():
        text = f"line {lines[row].number}: {smiles[row]!r} has no prediction: {reason}"
        print(text, file=sys.stderr)
    if packed.graphs is None:
        raise UserError(f"{smiles_file} has no molecule: expected one SMILES a line")
    values = np.full((len(lines), len(tasks)), np.nan)
    values[packed.rows] = predict(network, packed.graphs, batch_size).numpy()
    table = pd.DataFrame(values, columns=tasks)
    table.insert(0, "line", [line.number for line in lines])
    table.insert(1, "name", [line.name for line in lines], allow_duplicates=True)
    table.insert(2, "smiles", smiles, allow_duplicates=True)
    table["reason"] = [packed.rejected.get(row, "") for row in range(len(lines))]
    try:
        write_text(out, table.to_csv(index=False))
    except OSError as error:
        raise UserError(f"cannot write {out} ({error}): choose another --out") from error
    return len(packed.rows), len(lines)


@command
def main(argv: Sequence[str]) -> None:
    """Predicts for a file of SMILES."""
    parser = argparse.ArgumentParser(prog="python -m experiments.molpcba.predict")
    parser.add_argument("--checkpoint", type=Path, required=True, help="runs/NAME/checkpoints/...")
    parser.add_argument(
        "--smiles", type=Path, required=True, help="one SMILES a line, or a table with a header"
    )
    parser.add_argument("--smiles-column", help="name, or number from 1, of the column with SMILES")
    parser.add_argument("--out", type=Path, default=Path("predictions.csv"), help="table to write")
    parser.add_argument("--batch-size", type=int, default=256)
    given = parser.parse_args(argv)
    if given.batch_size < 1:
        raise UserError(f"--batch-size must be 1 or more, got {given.batch_size}")
    count, total = predict_file(
        given.checkpoint, given.smiles, given.out, given.batch_size, given.smiles_column
    )
    print(f"{count} molecules of {total} lines: predictions in {given.out}")


if __name__ == "__main__":
    sys.exit(main())
