"""``python -m experiments.molpcba.predict``: a trained network on new molecules."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jsonargparse.typing import PositiveInt
from torch import Tensor
from tqdm import tqdm

from experiments.common import UserError, command, write_text
from experiments.molpcba.config import recorded
from experiments.molpcba.data import PackedGraphs
from experiments.molpcba.data.columns import FIRST_SPACE, SPACE, SPACES, Columns, read_columns, some
from experiments.molpcba.data.molecules import is_smiles, pack, read_molecules
from experiments.molpcba.fitting import explained
from experiments.molpcba.folder import RunFolder, read_checkpoint
from experiments.molpcba.model import MoleculeNetwork

OWN = ("line", "name", "smiles", "reason")
"""Columns of the output besides the tasks' columns."""
MAX_ATOMS = 50_000
"""Atoms of a batch, each molecule counted as its largest."""


def load_network(path: Path) -> tuple[MoleculeNetwork, dict[str, Any]]:
    """The network of a run folder or a checkpoint, in eval mode, and what it was trained for."""
    if path.is_dir():
        if not RunFolder(path).best.exists():
            raise UserError(f"{path} has no checkpoints/best.ckpt: expected runs/NAME, or a file")
        path = RunFolder(path).best
    checkpoint = read_checkpoint(path)
    try:
        identity, state = checkpoint["pyg_ea"], checkpoint["state_dict"]
        state = {name.removeprefix("network."): value for name, value in state.items()}
        tasks, real = list(identity["task_names"]), identity.get("metric") == "rmse"
        config = recorded(identity["config"], path)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a checkpoint of python -m experiments.molpcba") from error
    network = MoleculeNetwork(config, len(tasks), real=real)
    network.load_state_dict(state)
    return network.eval(), identity


@torch.no_grad()
def predict(network: MoleculeNetwork, graphs: PackedGraphs, batch_size: int) -> Tensor:
    """Probability of label 1, or value, of each task for each molecule: ``[G, tasks]``."""
    sizes = graphs.node_ptr.diff()
    order = left = sizes.argsort(descending=True)
    batches = []
    while len(left):
        count = min(batch_size, max(1, MAX_ATOMS // int(sizes[left[0]])))
        batches.append(left[:count])
        left = left[count:]
    outputs = [network(graphs.batch(index)) for index in tqdm(batches, "predicting", disable=None)]
    values = torch.cat(outputs)[order.argsort()]
    return values if network.real else values.sigmoid()


def read_smiles(table: Columns) -> pd.DataFrame:
    """Columns line, name, smiles and reason, a row for each line; a name is all that is no SMILES.

    A row of another length than the first one has SMILES only if they are in its first column.
    """
    rows, glue = [], " " if table.separator in SPACES else table.separator
    for line, cells in table.rows:
        smiles, names = "", cells
        if len(cells) == len(table.names) or table.smiles == 0:
            smiles = cells[table.smiles].strip()
            names = cells[: table.smiles] + cells[table.smiles + 1 :]
        is_short = names is cells and any(map(str.strip, cells))
        reason = f"{len(cells)} columns instead of {len(table.names)}" if is_short else ""
        rows.append((line, glue.join(names).strip(" "), smiles, reason))
    return pd.DataFrame(rows, columns=["line", "name", "smiles", "reason"])


def check_out(path: Path, inputs: Sequence[Path], overwrite: bool) -> None:
    """Refuses a path to write to that is an input, no regular file, or there already."""
    if not os.path.lexists(path):
        return
    if path.is_symlink() or not path.is_file():
        raise UserError(f"--out {path} is not a regular file: choose another one")
    for given in inputs:
        if os.path.exists(given) and path.samefile(given):
            raise UserError(f"--out {path} is an input: choose another file")
    if not overwrite:
        raise UserError(f"--out {path} exists: choose another file, or add --overwrite")


def predict_file(given: argparse.Namespace) -> str:
    """Writes a CSV table with a row for each line of the input, in order; a sentence about it.

    A line that cannot be read has an empty prediction and a reason.
    """
    out, source = given.out, given.smiles
    inputs = [source, given.checkpoint, RunFolder(given.checkpoint).best]
    check_out(out, inputs, given.overwrite)
    network, identity = load_network(given.checkpoint)
    if is_smiles(str(source)) and not os.path.exists(source):
        raise UserError(f"{source} is no file: write SMILES to a file, or to standard input for -")
    columns = read_columns(source, given.smiles_column, [FIRST_SPACE, SPACE])
    print(f"{source}: {columns.about}", file=sys.stderr)
    table = read_smiles(columns)
    asked = table.index[table["reason"] == ""]
    molecules, rejected = read_molecules(table["smiles"][asked].tolist(), grouped=False)
    table.loc[asked[list(rejected)], "reason"] = list(rejected.values())
    if not molecules:
        raise UserError(f"{source} has no molecule: expected one SMILES a line")
    graphs = pack(list(molecules.values()), np.zeros((len(molecules), 0), dtype=np.int8))
    values = predict(network, graphs, given.batch_size)
    if identity.get("units") is not None:
        offset, scale = identity["units"]
        values = values.double() * scale + offset
    tasks = [f"{name} (predicted)" if name in OWN else name for name in identity["task_names"]]
    predicted = pd.DataFrame(values.numpy(), index=asked[list(molecules)], columns=tasks)
    reasons = table.pop("reason")
    reasons[predicted.index[~np.isfinite(predicted).all(axis=1)]] = "the output is not finite"
    table = pd.concat([table, predicted.reindex(table.index), reasons], axis=1)
    write_text(out, table.to_csv(index=False), given.overwrite)
    what = f"{'values' if network.real else 'probabilities'} of {some(tasks, 3)}"
    return f"{len(molecules):,} molecules of {len(table):,} lines: {what} in {out}"


@command
@explained()
def main(argv: Sequence[str]) -> None:
    """Predicts for a file of SMILES."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.molpcba.predict",
        description="Predict for the molecules of a file: the probability of label 1 for each "
        "task, or in a regression its value. The output is a CSV table with a row for each line of "
        "the input: line, name, smiles, a column for each task, and the reason where there is no "
        "prediction.",
    )
    default, add = "(default: %(default)s)", parser.add_argument
    add("--checkpoint", type=Path, required=True, help="folder of a run, or a checkpoint")
    add("--smiles", type=Path, required=True, help="SMILES and names, or a table; - reads stdin")
    add("--smiles-column", help="column with SMILES, by name or number from 1 (default: detected)")
    add("--out", type=Path, default=Path("predictions.csv"), help=f"table to write {default}")
    add("--overwrite", action="store_true", help="replace the file of --out if it exists")
    add("--batch-size", type=PositiveInt, default=256, help=f"molecules of a batch {default}")
    print(predict_file(parser.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
