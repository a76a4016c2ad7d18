"""Data: OGB's sets by name, the embedded set, splits, prepared files whole or absent."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import combinations
from pathlib import Path
from threading import Thread

import numpy as np
import pandas as pd
import pytest
import torch
from torch_geometric.data import Batch, Data

from experiments.common import UserError
from experiments.molpcba import data as data_module
from experiments.molpcba.__main__ import main
from experiments.molpcba.config import Config
from experiments.molpcba.data import GraphLoader, MoleculeData, embedded, ogb
from experiments.molpcba.data import graphs as packed_graphs
from experiments.molpcba.data.molecules import pack, read_molecules
from experiments.molpcba.data.splits import random_split, scaffold_split
from tests.molpcba.conftest import tiny_rows

ROOT = Path(__file__).parents[2]
PARTS = ("train", "valid", "test")


def load(data: str = "auto", split: str | None = None, **paths: Path) -> MoleculeData:
    """The data that these settings name."""
    places = {name: str(path) for name, path in paths.items()}
    return data_module.load(Config(data=data, split=split, **places))


# ---- graphs


def test_graphs_are_those_of_ogb(tiny_data):
    """Every molecule, features and bonds, as `smiles2graph` gives them; batches as PyG's."""
    from ogb.utils.mol import smiles2graph

    graphs = []
    for row in tiny_rows():
        graph = smiles2graph(row["smiles"])
        labels = [float(row[task] or "nan") for task in tiny_data.task_names]
        graphs.append(
            Data(
                x=torch.from_numpy(graph["node_feat"]),
                edge_index=torch.from_numpy(graph["edge_index"]),
                edge_attr=torch.from_numpy(graph["edge_feat"]),
                y=torch.tensor([labels]),
            )
        )
    index = torch.tensor([3, 0, 89, 3])
    packed = tiny_data.graphs.batch(index)
    expected = Batch.from_data_list([graphs[i] for i in index.tolist()])
    for name in ("x", "edge_index", "edge_attr", "y", "batch", "ptr"):
        torch.testing.assert_close(packed[name], expected[name], equal_nan=True, rtol=0, atol=0)


def test_batches_cut_from_a_chunk_equal_those_made_alone(tiny_data, monkeypatch):
    monkeypatch.setattr(packed_graphs, "CHUNK", 20)
    loader = GraphLoader(tiny_data.graphs, tiny_data.splits["train"], 7, shuffle=True)
    for batch, index in zip(loader, loader.batches(), strict=True):
        alone = tiny_data.graphs.batch(index)
        for name in ("x", "edge_index", "edge_attr", "y", "batch", "ptr"):
            torch.testing.assert_close(batch[name], alone[name], equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_two_processes_share_the_batches_of_one(tiny_data, size):
    indices = tiny_data.splits["train"]
    make = partial(GraphLoader, tiny_data.graphs, indices, seed=3)
    for shuffle in (True, False):
        one = make(2 * size, shuffle=shuffle)
        two = [make(size, shuffle=shuffle, rank=r, world_size=2) for r in (0, 1)]
        for loader in (one, *two):
            loader.epoch = 5
            assert len(loader) == len(loader.batches()) == len(list(loader))
        shared = [loader.batches() for loader in two]
        if shuffle:
            for whole, *parts in zip(one.batches(), *shared, strict=True):
                assert torch.equal(torch.cat(parts), whole)
            assert not torch.equal(one.batches()[0], indices[: 2 * size]) or size == 1
        else:
            assert torch.equal(torch.cat([*shared[0], *shared[1]]), indices)


# ---- splits


def test_splits_keep_groups_together_and_have_their_sizes():
    groups = np.arange(1000) // 2
    for split in (random_split(groups, 0), scaffold_split(groups)):
        assert [len(split[part]) for part in PARTS] == pytest.approx([800, 100, 100], abs=2)
        parts = [set(groups[split[part].numpy()]) for part in PARTS]
        assert all(not a & b for a, b in combinations(parts, 2))
    first, second = random_split(groups, 1), random_split(groups, 1)
    assert all(torch.equal(first[part], second[part]) for part in PARTS)
    assert not torch.equal(first["test"], random_split(groups, 2)["test"])


def test_scaffold_split_puts_rare_scaffolds_last():
    sizes = [50, 30, 5, 5, 5, 5]
    split = scaffold_split(np.repeat(np.arange(6), sizes))
    assert [len(split[part]) for part in PARTS] == [80, 10, 10]
    assert split["train"][:50].tolist() == list(range(50))


@pytest.mark.parametrize(
    ("valid", "message"),
    [
        ("6\n5\n", None),
        ("2\n", "has a row more than once"),
        ("-1\n", "valid.csv has row -1; rows have numbers from 0 to 9"),
        ("10\n", "valid.csv has row 10; rows have numbers from 0 to 9"),
        ("row\n5\n", "valid.csv cannot be read"),
        ("5.5\n", "valid.csv cannot be read"),
        ("0,5\n", "valid.csv cannot be read"),
        ("", "valid.csv cannot be read"),
    ],
)
def test_a_split_of_ones_own(tmp_path, valid, message):
    """Rows have numbers from 0; one without a molecule is in no part."""
    smiles = ["C", "XX", "CC", "CCC", "N", "NN", "O", "OO", "S", "F"]
    lines = [f"{one},{i % 2}\n" for i, one in enumerate(smiles)]
    (tmp_path / "a.csv").write_text("".join(["smiles,a\n", *lines]))
    for part, text in {"train": "0\n1\n2\n3\n", "valid": valid, "test": "9\n"}.items():
        (tmp_path / f"{part}.csv").write_text(text)
    made = partial(load, csv=tmp_path / "a.csv", root=tmp_path)
    if message is not None:
        with pytest.raises(UserError, match=message):
            made(split=str(tmp_path))
        return
    parts = made(split=str(tmp_path)).splits
    assert [own.tolist() for own in parts.values()] == [[0, 1, 2], [5, 4], [8]]
    (tmp_path / "below").mkdir()
    assert made(split=str(tmp_path / "below" / "..")).split == tmp_path.name
    with pytest.raises(UserError, match=r"has no split radom: leave out .* or a folder that ex"):
        made(split="radom")


def test_equal_molecules_are_in_one_part(tmp_path):
    smiles = [row["smiles"] for row in tiny_rows()]
    text = "smiles,a\n" + "".join(f"{s},{i % 2}\n" for i, s in enumerate(smiles * 2))
    (tmp_path / "a.csv").write_text(text)
    data = load(csv=tmp_path / "a.csv", root=tmp_path)
    parts = [{smiles[i % 90] for i in data.splits[part].tolist()} for part in PARTS]
    assert all(not a & b for a, b in combinations(parts, 2))


def test_metal_complexes_are_kept_as_in_ogbs_sets():
    molecules, rejected = read_molecules(["C[Hg](C)(C)C", "CN(C)(C)C", "CC"])
    assert list(molecules) == [0, 2]
    assert "valence" in rejected[1]


# ---- the embedded set


def test_the_embedded_set():
    smiles = embedded.read_nci()[:300]
    first, again = (embedded.prepare_embedded(smiles, num_tasks=8) for _ in range(2))
    y, tasks = first["tensors"]["y"], first["task_names"]
    assert y.shape == (len(y), len(tasks)) == (len(y), 8)
    assert 0.08 < float((y == -1).float().mean()) < 0.12
    assert all(": " in name for name in tasks)
    assert all(torch.equal(first["tensors"][k], v) for k, v in again["tensors"].items())


# ---- OGB's sets

RAW = ("num-node-list", "num-edge-list", "node-feat", "edge", "edge-feat", "graph-label")


def lay_out(folder: Path, name: str) -> Path:
    """The tiny molecules as a set of that name, in OGB's layout: each bond once."""
    facts = ogb.molecule_sets()[name]
    rows = tiny_rows()
    molecules, _ = read_molecules([row["smiles"] for row in rows])
    graphs = pack(list(molecules.values()), np.zeros((len(rows), 0), dtype=np.int8))
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, (len(rows), int(facts["num tasks"]))).astype(object)
    if facts["task type"] == "regression":
        labels = generator.normal(size=labels.shape).astype(object)
    labels[generator.random(labels.shape) < 0.1] = ""
    labels[:5] = labels[:5] if facts["num tasks"] != "1" else 1
    tables = {
        "num-node-list": graphs.node_ptr.diff(),
        "num-edge-list": graphs.edge_ptr.diff() // 2,
        "node-feat": graphs.x,
        "edge": graphs.edge_index[:, ::2].T,
        "edge-feat": graphs.edge_attr[::2],
        "graph-label": labels,
        "mol": np.array([row["smiles"] for row in rows]),
    }
    for key, table in tables.items():
        path = folder / ("mapping" if key == "mol" else "raw") / f"{key}.csv.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(np.asarray(table)).to_csv(path, header=False, index=False)
    for part, index in random_split(np.arange(len(rows)), 0).items():
        path = folder / "split" / "scaffold" / f"{part}.csv.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(index.numpy()).to_csv(path, header=False, index=False)
    (folder / "RELEASE_v1.txt").touch()
    return folder


@pytest.fixture
def no_network(monkeypatch):
    """Nobody answers, and nobody may be asked on the terminal."""

    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))


SETS = ["ogbg-molpcba", "ogbg-molhiv", "ogbg-moltox21", "ogbg-molesol", "ogbg-mollipo"]


@pytest.mark.parametrize("name", SETS)
def test_an_ogb_set_trains_with_its_own_metric_and_split(no_network, tmp_path, monkeypatch, name):
    folder = lay_out(tmp_path / "data" / name.replace("-", "_"), name)
    before = sorted(folder.rglob("*"))
    monkeypatch.setattr("experiments.molpcba.__main__.plot_run", lambda folder: None)
    flags = "--preset small --width 8 --layers 1 --steps 1 --epochs 1 --readout mean --name run"
    places = ["--root", str(tmp_path / "data"), "--runs-dir", str(tmp_path / "runs")]
    assert main([*flags.split(), *places, "--data", name]) == 0
    results = json.loads((tmp_path / "runs" / "run" / "results.json").read_text())
    facts = ogb.molecule_sets()[name]
    assert results["metric"] == facts["eval metric"]
    assert results["data"]["tasks"] == int(facts["num tasks"])
    assert (results["data"]["name"], results["data"]["split"]) == (name, "ogb")
    assert results["data"]["molecules"] == {"train": 72, "valid": 9, "test": 9}
    assert sorted(folder.rglob("*")) == before  # OGB's folder is read only


def test_ogbs_graphs_and_split_are_read_as_they_are(no_network, tmp_path, tiny_data):
    lay_out(tmp_path / "ogbg_molhiv", "ogbg-molhiv")
    data = load("ogbg-molhiv", root=tmp_path)
    for name in ("x", "edge_index", "edge_attr", "node_ptr", "edge_ptr"):
        assert torch.equal(getattr(data.graphs, name), getattr(tiny_data.graphs, name)), name
    expected = random_split(np.arange(90), 0)
    assert all(torch.equal(data.splits[part], expected[part]) for part in PARTS)
    with pytest.raises(UserError, match="has no split random"):
        load("ogbg-molhiv", root=tmp_path, split="random")


def test_without_a_network(no_network, tmp_path, monkeypatch, capsys):
    """One line, no folder half made; auto takes the embedded set and says why."""
    smiles = embedded.read_nci()[:300]
    monkeypatch.setattr(embedded, "read_nci", lambda: smiles)
    root = tmp_path / "data"
    assert main(["--data", "ogbg-molhiv", "--root", str(root)]) == 2
    assert "ogbg-molhiv could not be downloaded (no network)" in capsys.readouterr().err
    assert not root.exists()
    data = load("auto", root=root)
    assert "NOT ogbg-molpcba (because ogbg-molpcba could not be downloaded" in data.source
    assert main(["--data", "ogbg-mol"]) == 2
    assert "--data must be one of auto, ogb, embedded, ogbg-molbace" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["RELEASE_v1.txt", "raw/edge.csv.gz"])
def test_an_incomplete_folder_is_left_alone(no_network, tmp_path, missing):
    folder = lay_out(tmp_path / "ogbg_molhiv", "ogbg-molhiv")
    (folder / missing).unlink()
    before = sorted(folder.rglob("*"))
    with pytest.raises(UserError, match=f"incomplete: it lacks {missing}"):
        load("ogbg-molhiv", root=tmp_path)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("damage", ["cut", "text", "other rows", "split"])
def test_damaged_files_of_ogb(no_network, tmp_path, damage):
    folder = lay_out(tmp_path / "ogbg_molhiv", "ogbg-molhiv")
    path = folder / ("split/scaffold/test" if damage == "split" else "raw/edge")
    path = path.with_name(f"{path.name}.csv.gz")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-30])
    elif damage == "text":
        path.write_bytes(b"hello")
    else:
        pd.DataFrame([[0, 1]] * 50).to_csv(path, header=False, index=False)
    with pytest.raises(UserError, match=r"get .*again") as error:
        load("ogbg-molhiv", root=tmp_path)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("*.pt"))


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A web server that OGB's sets are downloaded from; the folder it serves."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as http:
        thread = Thread(target=http.serve_forever)
        thread.start()
        facts = ogb.molecule_sets()["ogbg-molhiv"]
        facts["url"] = f"http://127.0.0.1:{http.server_port}/hiv.zip"
        monkeypatch.setattr(ogb, "molecule_sets", lambda: {"ogbg-molhiv": facts})
        yield folder
        http.shutdown()
        thread.join()


def test_a_download_is_whole(server, tmp_path):
    lay_out(tmp_path / "made" / "hiv", "ogbg-molhiv")
    shutil.make_archive(str(server / "hiv"), "zip", tmp_path / "made")
    assert ogb.find_ogb("ogbg-molhiv", tmp_path / "root")[1] == "downloaded"
    assert [p.name for p in (tmp_path / "root").iterdir()] == ["ogbg_molhiv"]
    assert "found in" in ogb.find_ogb("ogbg-molhiv", tmp_path / "root")[1]


@pytest.mark.parametrize("kind", ["no zip", "cut zip", "other zip", "not there"])
def test_a_bad_download_leaves_nothing(server, tmp_path, kind):
    archive = server / "hiv.zip"
    if kind == "no zip":
        archive.write_bytes(b"<html>sign in</html>")
    elif kind != "not there":
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("hiv/RELEASE_v1.txt", "x" * 5_000)
        if kind == "cut zip":
            archive.write_bytes(archive.read_bytes()[:3_000])
    with pytest.raises(UserError, match="hiv") as error:
        ogb.find_ogb("ogbg-molhiv", tmp_path / "root")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("root/*"))


# ---- prepared files


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "garbage"])
def test_damage_to_a_prepared_file_is_noticed_and_repaired(
    tiny_csv, tiny_data, tmp_path, capsys, damage
):
    load(csv=tiny_csv, root=tmp_path)
    (path,) = tmp_path.glob("*.pt")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle] ^= 0x01
    bad = {"flip": content, "cut": content[:middle], "empty": b"", "garbage": b"x" * middle}
    path.write_bytes(bad[damage])
    assert load(csv=tiny_csv, root=tmp_path).fingerprint == tiny_data.fingerprint
    assert "preparing it again" in capsys.readouterr().err
    assert load(csv=tiny_csv, root=tmp_path).fingerprint == tiny_data.fingerprint
    assert "preparing it again" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        lambda content: {"hello": 1},
        lambda content: {**content, "tensors": {"x": content["tensors"]["x"]}},
        lambda content: {**content, "task_names": content["task_names"][:1]},
        lambda content: {**content, "key": "of another version"},
        lambda content: {k: v for k, v in content.items() if k != "canonical"},
        lambda content: {
            **content,
            "tensors": {**content["tensors"], "y": content["tensors"]["y"] + 1},
        },
        lambda content: [content],
    ],
)
def test_a_whole_file_with_other_content_is_prepared_again(
    tiny_csv, tiny_data, tmp_path, capsys, change
):
    load(csv=tiny_csv, root=tmp_path)
    (path,) = tmp_path.glob("*.pt")
    content = torch.load(path, weights_only=True)
    torch.save(change(content), path)
    assert load(csv=tiny_csv, root=tmp_path).fingerprint == tiny_data.fingerprint
    error = capsys.readouterr().err
    assert error.count("preparing it again") == 1
    assert "Traceback" not in error
    assert load(csv=tiny_csv, root=tmp_path).fingerprint == tiny_data.fingerprint
    assert "preparing it again" not in capsys.readouterr().err


def test_what_a_killed_process_left_is_removed(tiny_csv, tmp_path):
    load(csv=tiny_csv, root=tmp_path)
    (path,) = tmp_path.glob("*.pt")
    left = path.rename(path.with_name(f".{path.name}.0123456789ab.tmp"))
    load(csv=tiny_csv, root=tmp_path)
    assert path.exists()
    assert not left.exists()


def test_a_full_disk_and_a_root_that_is_a_file(tiny_csv, tmp_path):
    """A limit on file size makes writing fail as a full disk does."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, limit[1]))
    try:
        with pytest.raises(UserError, match=r"cannot write under .*--root"):
            load(csv=tiny_csv, root=tmp_path / "data")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert all(p.name.endswith(".lock") for p in (tmp_path / "data").iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write under"):
        load(csv=tiny_csv, root=tmp_path / "file" / "below")


PREPARE = """
import os, signal, sys
from experiments.molpcba.config import Config
from experiments.molpcba.data import load
csv, root, moment = sys.argv[1], sys.argv[2], int(sys.argv[3])
count = 0
def watch(event, arguments):
    global count
    if event.startswith(("open", "os.")) and arguments and str(arguments[0]).startswith(root):
        count += 1
        if count == moment:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
print(load(Config(csv=csv, root=root)).fingerprint, count)
"""


def prepare(csv, root, moment=0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PREPARE, str(csv), str(root), str(moment)],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_killed_at_a_file_operation_it_is_prepared_again(tiny_csv, tiny_data, tmp_path):
    fingerprint, count = prepare(tiny_csv, tmp_path / "whole").stdout.split()
    assert fingerprint == tiny_data.fingerprint
    for moment in np.linspace(1, int(count), 4, dtype=int):
        assert prepare(tiny_csv, tmp_path / str(moment), moment).returncode == -9
        assert load(csv=tiny_csv, root=tmp_path / str(moment)).fingerprint == fingerprint
