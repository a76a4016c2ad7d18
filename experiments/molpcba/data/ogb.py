"""OGB's molecule sets by name: found on disk or downloaded whole.

OGB's own class makes one Python object a molecule, asks on the terminal and deletes folders; its
files are read by pandas in a few seconds. Names, metrics, evaluators and features are OGB's.
"""

from __future__ import annotations

import shutil
import tempfile
import urllib.request
import zipfile
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import numpy as np
import ogb.graphproppred
import pandas as pd
from tqdm import tqdm

from experiments.common import UserError
from experiments.molpcba.data.columns import reading
from experiments.molpcba.data.graphs import PackedGraphs, stored_labels
from experiments.molpcba.data.splits import PARTS, read_split

RAW = ("num-node-list", "num-edge-list", "node-feat", "edge", "edge-feat", "graph-label")
NEEDED = (
    "RELEASE_v1.txt",
    *(f"raw/{name}.csv.gz" for name in RAW),
    *(f"split/scaffold/{part}.csv.gz" for part in PARTS),
)


def molecule_sets() -> dict[str, dict[str, str]]:
    """OGB's facts about each of its molecule sets, by name."""
    path = Path(ogb.graphproppred.__file__).with_name("master.csv")
    table = pd.read_csv(path, index_col=0, keep_default_na=False, dtype=str)
    return table.filter(regex="^ogbg-mol").to_dict()


def find_ogb(name: str, root: Path) -> tuple[Path, str]:
    """The folder of the set, downloaded unless it lies complete under `root`, and its origin."""
    folder = root / name.replace("-", "_")
    for found in (folder.with_name(f"{folder.name}_pyg"), folder):
        if found.exists():
            _check_complete(found)
            return found, f"found in {found}"
    _download(name, folder)
    return folder, "downloaded"


def _check_complete(folder: Path) -> None:
    for file in NEEDED:
        if not (folder / file).is_file():
            raise UserError(f"{folder} is incomplete: it lacks {file}; rename it to download it")


def prepare_ogb(name: str, folder: Path) -> dict[str, Any]:
    """Graphs, tasks, metric and split."""
    facts, tables = molecule_sets()[name], {}
    for raw in RAW:
        kind = "f8" if raw == "graph-label" else "i4"
        with reading(folder / "raw" / f"{raw}.csv.gz") as file:
            tables[raw] = pd.read_csv(file, header=None).to_numpy(dtype=kind, copy=True)
    nodes, bonds = tables["num-node-list"][:, 0], tables["num-edge-list"][:, 0]
    y, edge, attr = (tables[raw] for raw in ("graph-label", "edge", "edge-feat"))
    splits = read_split(folder / "split" / "scaffold", np.arange(len(nodes)))
    if (
        not sum(map(len, splits.values())) == len(nodes) == len(bonds)
        or y.shape != (len(nodes), int(facts["num tasks"]))
        or nodes.sum() != len(tables["node-feat"])
        or not bonds.sum() == len(edge) == len(attr)
        or (edge >= nodes.repeat(bonds)[:, None]).any()
    ):
        raise UserError(
            f"the files in {folder} disagree (lengths, atom numbers or split); get them again"
        )
    y, units = stored_labels(y, facts["task type"] == "regression")
    return {
        "tensors": vars(PackedGraphs.pack(tables["node-feat"], edge, attr, y, nodes, bonds)),
        "units": units,
        "task_names": [f"task {i}" for i in range(y.shape[1])],
        "metric": facts["eval metric"],
        "splits": splits,
        "split": "ogb",
    }


def _download(name: str, folder: Path) -> None:
    """Downloads the set into a temporary folder and renames it into place."""
    facts = molecule_sets()[name]
    try:
        with urllib.request.urlopen(facts["url"], timeout=5.0) as response:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".download-", dir=folder.parent) as temporary:
                archive, total = Path(temporary) / "set.zip", response.headers["Content-Length"]
                bar = tqdm.wrapattr(response, "read", total=total and int(total), desc=name)
                with bar as stream, open(archive, "wb") as file:
                    shutil.copyfileobj(stream, file)
                shutil.unpack_archive(archive, temporary)
                found = Path(temporary) / facts["download_name"]
                _check_complete(found)
                found.rename(folder)
    except (OSError, HTTPException, zipfile.BadZipFile, UserError) as error:
        if isinstance(error, HTTPError):
            error.close()
        raise UserError(f"{name} could not be downloaded ({error})") from None
