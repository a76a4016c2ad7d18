"""Write a data set in OGB's raw layout: what the stock `PygGraphPropPredDataset` reads.

```
RELEASE_v1.txt                                  without it the stock class asks on the terminal
raw/num-node-list.csv.gz, num-edge-list.csv.gz  atoms and bonds of each molecule
raw/node-feat.csv.gz                            atom features
raw/edge.csv.gz, edge-feat.csv.gz               each bond once: the stock class adds the inverse
raw/graph-label.csv.gz                          0, 1 or empty
mapping/mol.csv.gz                              smiles, mol_id
```
Files are gzip members put end to end: each chunk of molecules is featurised and compressed in a
worker, and the parent only appends bytes, so memory does not grow with the data.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from .molecules import BadSmilesError, Graph, Rejected, featurise, parse
from .packed import MISSING
from .parallel import ordered_map

CHUNK = 500
"""Molecules that a worker takes at a time."""

RAW_FILES = (
    "raw/num-node-list.csv.gz",
    "raw/num-edge-list.csv.gz",
    "raw/node-feat.csv.gz",
    "raw/edge.csv.gz",
    "raw/edge-feat.csv.gz",
    "raw/graph-label.csv.gz",
    "mapping/mol.csv.gz",
)


class Record(NamedTuple):
    """One row of a data set: `labels` holds a byte for each task, 0, 1 or `UNKNOWN`."""

    line: int
    smiles: str
    mol_id: str
    labels: bytes


UNKNOWN = MISSING & 0xFF
"""`MISSING` as an unsigned byte."""


class Written(NamedTuple):
    """What `write_layout` did: molecules and bonds written, and rows left out."""

    num_graphs: int
    num_bonds: int
    rejected: list[Rejected]


class _Encoded(NamedTuple):
    files: list[bytes]
    num_graphs: int
    num_bonds: int
    rejected: list[Rejected]


def write_layout(
    folder: Path, chunks: Iterable[list[Record]], *, workers: int, total: int | None = None
) -> Written:
    """Featurise the records and write them under `folder`, with a progress bar.

    Args:
        folder: an existing, empty folder.
        chunks: the records, about `CHUNK` at a time.
        workers: processes; 0 works in this one.
        total: number of records, for the bar.

    Raises:
        OSError: when writing fails.
        DataError: when a worker dies.
    """
    num_graphs, num_bonds, rejected = 0, 0, []
    (folder / "raw").mkdir()
    (folder / "mapping").mkdir()
    (folder / "RELEASE_v1.txt").write_text("")
    with ExitStack() as stack:
        outputs = [stack.enter_context(open(folder / name, "wb")) for name in RAW_FILES]
        outputs[-1].write(_compress(["smiles,mol_id"]))
        bar = stack.enter_context(tqdm(total=total, desc="molecules to graphs", unit="mol"))
        for encoded in ordered_map(_encode, chunks, workers):
            for output, data in zip(outputs, encoded.files, strict=True):
                output.write(data)
            num_graphs += encoded.num_graphs
            num_bonds += encoded.num_bonds
            rejected += encoded.rejected
            bar.update(encoded.num_graphs + len(encoded.rejected))
    return Written(num_graphs, num_bonds, rejected)


def _encode(records: list[Record]) -> _Encoded:
    """Featurise one chunk and compress its part of every file (runs in a worker)."""
    graphs: list[tuple[Record, Graph]] = []
    rejected = []
    for record in records:
        try:
            graphs.append((record, featurise(parse(record.smiles))))
        except BadSmilesError as error:
            rejected.append(Rejected(record.line, record.smiles, str(error)))
    rows = [
        [str(len(g.x)) for _, g in graphs],
        [str(len(g.bonds)) for _, g in graphs],
        [_row(atom) for _, g in graphs for atom in g.x],
        [_row(bond) for _, g in graphs for bond in g.bonds],
        [_row(attr) for _, g in graphs for attr in g.bond_attr],
        [_label_row(r.labels) for r, _ in graphs],
        [_mapping_row(r) for r, _ in graphs],
    ]
    return _Encoded(
        [_compress(lines) for lines in rows],
        num_graphs=len(graphs),
        num_bonds=len(rows[3]),
        rejected=rejected,
    )


def _row(values: Iterable[int]) -> str:
    return ",".join(map(str, values))


_LABEL_TEXT = {0: "0", 1: "1", UNKNOWN: ""}


def _label_row(labels: bytes) -> str:
    # A single empty field would be a blank line, which pandas skips: say `nan` instead.
    return ",".join(map(_LABEL_TEXT.__getitem__, labels)) or "nan"


def _mapping_row(record: Record) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow([record.smiles, record.mol_id])
    return text.getvalue()


def _compress(lines: list[str]) -> bytes:
    # mtime=0: the same data gives the same bytes. Level 4: half the time of 6, 5 % larger.
    text = "\n".join([*lines, ""]) if lines else ""
    return gzip.compress(text.encode(), compresslevel=4, mtime=0)
