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

sys.modules.setdefault("outdated", None)  # type: ignore[arg-type]

import gzip  # noqa: E402
import hashlib  # noqa: E402
import io  # noqa: E402
import multiprocessing  # noqa: E402
import queue  # noqa: E402
import shutil  # noqa: E402
import tempfile  # noqa: E402
import threading  # noqa: E402
import urllib.request  # noqa: E402
import warnings  # noqa: E402
import zipfile  # noqa: E402
import zlib  # noqa: E402
from concurrent.futures import ProcessPoolExecutor  # noqa: E402
from contextlib import redirect_stderr, redirect_stdout  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from http.client import HTTPException, HTTPResponse  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402
from urllib.error import HTTPError  # noqa: E402

import ogb.graphproppred  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from ogb.graphproppred import Evaluator, PygGraphPropPredDataset  # noqa: E402
from ogb.graphproppred.mol_encoder import AtomEncoder, BondEncoder  # noqa: E402
from ogb.utils.features import (  # noqa: E402
    atom_to_feature_vector,
    bond_to_feature_vector,
    get_atom_feature_dims,
    get_bond_feature_dims,
)
from torch import Tensor  # noqa: E402
from torch_geometric.data.data import DataEdgeAttr, DataTensorAttr  # noqa: E402
from torch_geometric.data.storage import GlobalStorage  # noqa: E402
from tqdm import tqdm  # noqa: E402

from experiments.common import UserError  # noqa: E402
from experiments.molpcba.data.graphs import MISSING, PackedGraphs, compact, pointer  # noqa: E402
from experiments.molpcba.data.splits import PARTS  # noqa: E402

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
        name_of_folder = name.replace("-", "_")
        for folder in (root / f"{name_of_folder}_pyg", root / name_of_folder):
            if folder.exists():
                missing = [file for file in NEEDED if not (folder / file).is_file()]
                if missing:
                    raise UserError(
                        f"{folder} is incomplete: it lacks {missing[0]} and {len(missing) - 1} "
                        "other files; remove it to download it again"
                    )
                return cls(name, folder, f"found in {folder}")
        folder = root / name_of_folder
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
        """Hash of all files.

        Raises:
            UserError: when one cannot be read.
        """
        digest = hashlib.sha256()
        try:
            for name in NEEDED:
                with open(self.folder / name, "rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise UserError(f"cannot read {error.filename}: {error.strerror}") from None
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
    everything = torch.cat([splits[part] for part in PARTS]).sort().values
    if not _fit_together(graphs, int(facts["num tasks"])) or not torch.equal(
        everything, torch.arange(len(graphs))
    ):
        raise UserError(
            f"the files in {folder} do not belong together (lengths, atom numbers, features or "
            "the split disagree); get the data set again"
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


def _fit_together(graphs: PackedGraphs, num_tasks: int) -> bool:
    """Whether the tables belong together, and OGB's encoders accept them."""
    sizes = graphs.node_ptr.diff().repeat_interleave(graphs.edge_ptr.diff())
    y = graphs.y
    return (
        int(graphs.node_ptr[-1]) == len(graphs.x)
        and int(graphs.edge_ptr[-1]) == graphs.edge_index.size(1) == len(graphs.edge_attr)
        and graphs.y.shape == (len(graphs), num_tasks)
        and bool(((graphs.edge_index >= 0) & (graphs.edge_index < sizes)).all())
        and (y.is_floating_point() or bool(((y >= MISSING) & (y <= 1)).all()))
        and all(
            values.size(1) == len(dims) and bool((values < torch.tensor(dims)).all())
            for values, dims in (
                (graphs.x, get_atom_feature_dims()),
                (graphs.edge_attr, get_bond_feature_dims()),
            )
        )
    )


def _download(name: str, folder: Path) -> None:
    """Downloads the set into a temporary folder, checks it, and renames it into place."""
    facts = molecule_sets()[name]
    response = _reach(name, facts["url"])
    folder.parent.mkdir(parents=True, exist_ok=True)
    with response, tempfile.TemporaryDirectory(prefix=".download-", dir=folder.parent) as temporary:
        archive = Path(temporary) / "set.zip"
        total = int(response.headers.get("Content-Length") or 0)
        bar = tqdm(total=total or None, desc=f"download {name}", unit="B", unit_scale=True)
        with bar, open(archive, "wb") as file:
            try:
                while block := response.read(1 << 20):
                    file.write(block)
                    bar.update(len(block))
                if total and file.tell() != total:
                    raise HTTPException(f"{file.tell():,} of {total:,} bytes")
            except (OSError, HTTPException) as error:
                raise UserError(f"the download of {name} broke off ({error})") from None
        try:
            shutil.unpack_archive(archive, temporary, "zip")
        except (zipfile.BadZipFile, shutil.ReadError) as error:
            raise UserError(f"{facts['url']} sent no valid zip file ({error})") from None
        found = [release.parent for release in Path(temporary).glob("*/RELEASE_v1.txt")]
        complete = [f for f in found if all((f / needed).is_file() for needed in NEEDED)]
        if not complete:
            raise UserError(f"{facts['url']} sent a zip file that does not hold {name}")
        complete[0].rename(folder)


def _reach(name: str, url: str) -> HTTPResponse:
    """Opens the URL. In a thread: looking up a host name has no time limit of its own."""
    answer: queue.Queue[HTTPResponse | Exception] = queue.Queue()

    def ask() -> None:
        try:
            answer.put(urllib.request.urlopen(url, timeout=REACH))
        except (OSError, HTTPException) as error:
            if isinstance(error, HTTPError):
                error.close()
            answer.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        got = answer.get(timeout=REACH + 1)
    except queue.Empty:
        got = TimeoutError(f"no answer within {REACH:g} s")
    if isinstance(got, Exception):
        raise UserError(f"{name} could not be downloaded ({got})")
    return got
