"""OGB's molecule sets by name: found on disk or downloaded whole. The only import of `ogb`.

- `import ogb` starts a thread that asks PyPI for a newer version when the package `outdated` is
  installed. A `None` entry in `sys.modules` makes that import fail, and ogb then skips the check.
- ogb 1.3.6 reads its cache with plain `torch.load`, which since torch 2.6 accepts registered
  classes only. The three classes below are what a collated PyG data set holds besides `Data`.
  (They are registered for good: the context manager `safe_globals` would, on exit, also remove
  the registrations PyG made itself.)
- A folder without RELEASE file makes OGB's class ask on the terminal, and a missing raw file makes
  it download over http and delete the folder: it is only called on a complete folder.
"""

from __future__ import annotations

import sys

# ruff: noqa: E402
sys.modules.setdefault("outdated", None)  # type: ignore[arg-type]

import gzip
import hashlib
import io
import multiprocessing
import shutil
import tempfile
import threading
import urllib.request
import warnings
import zipfile
import zlib
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import ogb.graphproppred
import pandas as pd
import torch
from ogb.graphproppred import Evaluator, PygGraphPropPredDataset
from ogb.graphproppred.mol_encoder import AtomEncoder, BondEncoder
from ogb.utils.features import (
    atom_to_feature_vector,
    bond_to_feature_vector,
)
from torch import Tensor
from torch_geometric.data.data import DataEdgeAttr, DataTensorAttr
from torch_geometric.data.storage import GlobalStorage
from tqdm import tqdm

from experiments.common import UserError
from experiments.molpcba.data.graphs import MISSING, PackedGraphs, compact, pointer
from experiments.molpcba.data.splits import PARTS

torch.serialization.add_safe_globals([DataEdgeAttr, DataTensorAttr, GlobalStorage])

__all__ = [
    "AtomEncoder",
    "BondEncoder",
    "Evaluator",
    "OgbSource",
    "atom_to_feature_vector",
    "bond_to_feature_vector",
    "molecule_sets",
]

REACH = 5.0
"""Seconds within which the server has to answer."""
LARGE = 20_000_000
"""Bytes of raw files from which on OGB's class runs in a process of its own.

It makes one Python object a molecule: several GB for ogbg-molpcba, which only the end of the
process gives back.
"""
RAW = ("num-node-list", "num-edge-list", "node-feat", "edge", "edge-feat", "graph-label")
NEEDED = (
    "RELEASE_v1.txt",
    *(f"raw/{name}.csv.gz" for name in RAW),
    *(f"split/scaffold/{part}.csv.gz" for part in PARTS),
)


def molecule_sets() -> dict[str, dict[str, str]]:
    """OGB's facts about each of its molecule sets, by name."""
    path = Path(ogb.graphproppred.__file__).with_name("master.csv")
    table = pd.read_csv(path, index_col=0, keep_default_na=False)
    names = [name for name in table if str(name).startswith("ogbg-mol")]
    return {str(name): {str(k): str(v) for k, v in table[name].items()} for name in names}


@dataclass(frozen=True)
class OgbSource:
    """A complete folder of one of OGB's molecule sets; it is read, never written.

    Args:
        name: OGB's.
        folder: where it lies.
        origin: how it came there, for the user.
    """

    name: str
    folder: Path
    origin: str

    @classmethod
    def get(cls, name: str, root: Path) -> OgbSource:
        """The set if it lies complete under `root`, otherwise downloaded to there.

        Raises:
            UserError: when the folder is incomplete, when the server does not answer within `REACH`
                seconds, or when what it sends cannot be used. Nothing is left behind.
        """
        folder = root / name.replace("-", "_")
        for found in (folder.with_name(f"{folder.name}_pyg"), folder):
            if found.exists():
                missing = [file for file in NEEDED if not (found / file).is_file()]
                if missing:
                    raise UserError(
                        f"{found} is incomplete: it lacks {missing[0]} and {len(missing) - 1} "
                        "other files; remove it to download it again"
                    )
                return cls(name, found, f"found in {found}")
        _download(name, folder)
        return cls(name, folder, "downloaded")

    @property
    def slug(self) -> str:
        """Name of the packed copy."""
        return f"{self.name.replace('-', '_')}_packed"

    @property
    def description(self) -> str:
        """Which data, for the user."""
        return f"{self.name}, {self.origin}"

    def key(self) -> str:
        """Hash of all files."""
        digest = hashlib.sha256()
        for name in NEEDED:
            digest.update((self.folder / name).read_bytes())
        return digest.hexdigest()

    def prepare(self, workers: int) -> dict[str, Any]:
        """Graphs, tasks, metric and OGB's split, read by OGB's own class.

        Raises:
            UserError: when the files are damaged or do not belong together.
        """
        facts = molecule_sets()[self.name]
        size = sum((self.folder / name).stat().st_size for name in NEEDED)
        if size < LARGE:
            tensors, splits = _read(self.folder, facts)
        else:
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, context) as pool:
                tensors, splits = pool.submit(_read, self.folder, facts).result()
        tasks = int(facts["num tasks"])
        return {
            "graphs": PackedGraphs(**tensors),
            "task_names": [f"task {i}" for i in range(tasks)],
            "metric": facts["eval metric"],
            "splits": splits,
            "split": "ogb",
        }


def _read(folder: Path, facts: dict[str, str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Reads the folder with OGB's class, which makes its cache in a temporary folder."""
    quiet = io.StringIO()
    with tempfile.TemporaryDirectory(prefix="ogb-") as temporary:
        for name in ("raw", "split"):
            (Path(temporary) / name).symlink_to((folder / name).resolve())
        (Path(temporary) / "RELEASE_v1.txt").touch()
        with redirect_stdout(quiet), redirect_stderr(quiet), warnings.catch_warnings():
            # pandas 3 hands out read-only arrays; the tensors over them are only read.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            try:
                meta = {**facts, "dir_path": temporary, "version": "1"}
                dataset = PygGraphPropPredDataset("set", meta_dict=meta)
                splits = dataset.get_idx_split("scaffold")
            except (
                RuntimeError, ValueError, LookupError, EOFError, zlib.error, gzip.BadGzipFile,
            ) as error:  # fmt: skip
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                raise UserError(
                    f"ogb cannot read the files in {folder} ({reason}); get the data set again"
                ) from None
        graphs = _pack(dataset, facts["task type"] == "regression")
    numbers = torch.cat([splits[part] for part in PARTS]).sort().values
    sizes = graphs.node_ptr.diff().repeat_interleave(graphs.edge_ptr.diff())
    if (
        not torch.equal(numbers, torch.arange(len(graphs)))
        or graphs.y.shape != (len(graphs), int(facts["num tasks"]))
        or not len(sizes) == graphs.edge_index.size(1) == len(graphs.edge_attr)
        or bool((graphs.edge_index >= sizes).any())
    ):
        raise UserError(
            f"the files in {folder} do not belong together (lengths, atom numbers or the split "
            "disagree); get the data set again"
        )
    return graphs.tensors(), splits


def _pack(dataset: PygGraphPropPredDataset, regression: bool) -> PackedGraphs:
    """The collated tensors of OGB's data set, in the smallest types that hold them."""
    data, slices = dataset._data, dataset.slices
    if slices is None:  # PyG does not collate a single graph
        slices = {"x": pointer([data.x.size(0)]), "edge_index": pointer([data.edge_index.size(1)])}
    y = data.y.to(torch.float32)
    if not regression:
        # int64 when no label is missing, float32 with NaN otherwise.
        y = torch.where(y.isnan(), MISSING, y).to(torch.int8)
    return PackedGraphs(
        x=data.x.to(torch.uint8),
        edge_index=compact(data.edge_index),
        edge_attr=data.edge_attr.to(torch.uint8),
        y=y,
        node_ptr=slices["x"].long(),
        edge_ptr=slices["edge_index"].long(),
    )


def _download(name: str, folder: Path) -> None:
    """Downloads the set into a temporary folder, checks it, and renames it into place."""
    url = molecule_sets()[name]["url"]
    response = _reach(name, url)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with response, tempfile.TemporaryDirectory(prefix=".download-", dir=folder.parent) as temporary:
        archive = Path(temporary) / "set.zip"
        total = int(response.headers.get("Content-Length") or 0)
        bar = tqdm.wrapattr(response, "read", total=total or None, desc=f"download {name}")
        try:
            with bar as stream, open(archive, "wb") as file:
                shutil.copyfileobj(stream, file)
            if total and archive.stat().st_size != total:
                raise HTTPException(f"{archive.stat().st_size:,} of {total:,} bytes")
            shutil.unpack_archive(archive, temporary, "zip")
        except (HTTPException, ConnectionError, TimeoutError) as error:
            raise UserError(f"the download of {name} broke off ({error})") from None
        except (zipfile.BadZipFile, shutil.ReadError) as error:
            raise UserError(f"{url} sent no valid zip file ({error})") from None
        for release in Path(temporary).glob("*/RELEASE_v1.txt"):
            if all((release.parent / needed).is_file() for needed in NEEDED):
                release.parent.rename(folder)
                return
        raise UserError(f"{url} sent a zip file that does not have {name}")


def _reach(name: str, url: str) -> HTTPResponse:
    """Opens the URL. In a thread: looking up a host name has no time limit of its own."""
    answers: list[HTTPResponse | Exception] = []

    def ask() -> None:
        try:
            answers.append(urllib.request.urlopen(url, timeout=REACH))
        except (OSError, HTTPException) as error:
            answers.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(REACH + 1)
    got = answers[0] if answers else TimeoutError(f"no answer within {REACH:g} s")
    if isinstance(got, Exception):
        if isinstance(got, HTTPError):
            got.close()
        raise UserError(f"{name} could not be downloaded ({got})")
    return got
