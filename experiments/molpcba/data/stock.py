"""Read a folder in OGB's raw layout with the stock class and pack what it gives."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import shutil
import sys
import warnings
import zlib
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import Data

from .errors import DataError
from .ogb_api import PygGraphPropPredDataset, get_atom_feature_dims, get_bond_feature_dims
from .packed import MISSING, PackedGraphs, compact_index, pointer
from .parallel import ordered_map

PACKED = "packed.pt"
"""Name of the file that holds the packed graphs."""

LARGE = 20_000
"""Molecules from which on the stock class runs in a process of its own.

It makes one Python object a molecule: several GB for ogbg-molpcba, which only the end of the
process gives back.
"""

_UNREADABLE = (RuntimeError, ValueError, LookupError, EOFError, zlib.error, gzip.BadGzipFile)
"""What the stock class raises on damaged raw files."""


class Packing(NamedTuple):
    """What `pack_layout` reports: number of molecules and hash of their graphs and labels."""

    num_graphs: int
    sha256: str


def pack_layout(folder: Path, num_tasks: int, num_graphs: int) -> Packing:
    """Read `folder` with `PygGraphPropPredDataset`, write `folder/packed.pt`.

    The stock class's own cache, `folder/processed`, is removed first and last: it would be
    trusted without a look at `raw`, and takes ten times the room.

    Args:
        folder: a data set in OGB's raw layout.
        num_tasks: label columns.
        num_graphs: molecules to expect; decides whether a process of its own does the work.

    Raises:
        DataError: when the folder does not hold what the layout promises.
        OSError: when writing fails.
    """
    large = num_graphs >= LARGE
    (packing,) = ordered_map(_pack_layout, [(folder, num_tasks, large)], workers=int(large))
    return packing


def read_split(folder: Path, split: str) -> dict[str, Tensor]:
    """The split `folder/split/<split>`, as the stock class reads it."""
    stock = PygGraphPropPredDataset.__new__(PygGraphPropPredDataset)
    stock.root = str(folder)
    return stock.get_idx_split(split)


def _pack_layout(job: tuple[Path, int, bool]) -> Packing:
    folder, num_tasks, large = job
    shutil.rmtree(folder / "processed", ignore_errors=True)
    graphs = pack(_read_stock(folder, num_tasks, large))
    _check(graphs, num_tasks)
    try:
        graphs.save(folder / PACKED)
    except RuntimeError as error:
        raise OSError(errno.EIO, "the disk is full or failing") from error
    shutil.rmtree(folder / "processed")
    return Packing(len(graphs), content_hash(graphs))


def _read_stock(folder: Path, num_tasks: int, large: bool) -> PygGraphPropPredDataset:
    meta = {
        "dir_path": str(folder),
        "version": "1",
        "download_name": folder.name,
        "url": "",
        "num tasks": str(num_tasks),
        "eval metric": "",
        "task type": "binary classification",
        "num classes": "2",
        "split": "",
        "binary": "False",
        "add_inverse_edge": "True",
        "has_node_attr": "True",
        "has_edge_attr": "True",
        "additional node files": "None",
        "additional edge files": "None",
    }
    # It reports on both streams: worth seeing when it takes minutes, noise when it takes none.
    told = sys.stderr if large else io.StringIO()
    with redirect_stdout(told), redirect_stderr(told), warnings.catch_warnings():
        # pandas 3 hands out read-only arrays; the tensors over them are only read.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        try:
            return PygGraphPropPredDataset(folder.name, meta_dict=meta)
        except _UNREADABLE as error:
            if _is_write_failure(error):
                raise OSError(errno.EIO, "the disk is full or failing") from error
            message = f"ogb cannot read the raw files ({_first_line(error)})"
            raise DataError(f"{message}; get the data set afresh") from error


def _is_write_failure(error: Exception) -> bool:
    """Whether `torch.save` failed: it says so with a `RuntimeError` of its zip writer."""
    told = str(error)
    return isinstance(error, RuntimeError) and ("iostream" in told or "inline_container" in told)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def pack(dataset: PygGraphPropPredDataset) -> PackedGraphs:
    """The collated tensors of a stock data set, in the smallest types that hold them."""
    data, slices = dataset._data, dataset.slices
    if slices is None:  # PyG does not collate a single graph
        slices = {"x": pointer([data.x.size(0)]), "edge_index": pointer([data.edge_index.size(1)])}
    return PackedGraphs(
        x=_bytes(data.x, "atom feature"),
        edge_index=compact_index(data.edge_index),
        edge_attr=_bytes(data.edge_attr, "bond feature"),
        y=_labels(data),
        node_ptr=slices["x"].long(),
        edge_ptr=slices["edge_index"].long(),
    )


def _bytes(values: Tensor, what: str) -> Tensor:
    if values.is_floating_point() or (values.numel() and not 0 <= int(values.min()) <= 255):
        raise DataError(f"the raw files hold a {what} that is no category number from 0 to 255")
    return values.to(torch.uint8)


def _labels(data: Data) -> Tensor:
    # int64 when no label is missing, float32 with NaN otherwise.
    y = data.y.to(torch.float32)
    known = ~y.isnan()
    if not bool(((y == 0) | (y == 1) | ~known).all()):
        raise DataError("the raw label table holds a value other than 0, 1 and empty")
    return torch.where(known, y, MISSING).to(torch.int8)


def _check(graphs: PackedGraphs, num_tasks: int) -> None:
    """Refuse tables that do not belong together or that OGB's encoders cannot take."""
    sizes = graphs.node_ptr.diff().repeat_interleave(graphs.edge_ptr.diff())
    whole = (
        graphs.node_ptr[-1] == len(graphs.x)
        and graphs.edge_ptr[-1] == graphs.edge_index.size(1) == len(graphs.edge_attr)
        and graphs.y.shape == (len(graphs), num_tasks)
        and bool(((graphs.edge_index >= 0) & (graphs.edge_index < sizes)).all())
    )
    if not whole:
        raise DataError(
            "the raw files do not belong together (their lengths or atom numbers disagree); "
            "get the data set afresh"
        )
    for values, dims in (
        (graphs.x, get_atom_feature_dims()),
        (graphs.edge_attr, get_bond_feature_dims()),
    ):
        if values.size(1) != len(dims) or bool((values >= torch.tensor(dims)).any()):
            raise DataError("the raw files hold a feature that OGB's encoders do not know")


def content_hash(graphs: PackedGraphs) -> str:
    """SHA-256 over names, types, shapes and bytes of all tensors."""
    digest = hashlib.sha256()
    for field in fields(graphs):
        tensor = getattr(graphs, field.name).contiguous()
        digest.update(f"{field.name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()
