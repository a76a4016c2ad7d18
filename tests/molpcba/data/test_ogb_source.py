"""OGB's set: on disk, downloaded whole, or not at all; never a question on the terminal."""

from __future__ import annotations

import gzip
import shutil
import socket
import threading
import time
import zipfile
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from experiments.molpcba.data import DataError, load, loading, ogb_source
from experiments.molpcba.data.embedded import EmbeddedSource
from experiments.molpcba.data.stock import read_split

NOWHERE = "http://127.0.0.1:9/pcba.zip"


@pytest.fixture
def facts(small_embedded, monkeypatch):
    """The facts of a small stand-in for OGB's set; nobody answers at its URL."""
    sizes = tuple(len(part) for part in read_split(small_embedded.path, "random").values())
    small = replace(ogb_source.MOLPCBA, num_tasks=16, sizes=sizes, url=NOWHERE)
    monkeypatch.setattr(loading, "MOLPCBA", small)
    monkeypatch.setattr(loading, "EmbeddedSource", partial(EmbeddedSource, limit=60, num_tasks=4))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))
    return small


def lay_out(small_embedded, folder):
    """The stand-in as OGB lays it out."""
    for name in ("raw", "mapping"):
        shutil.copytree(small_embedded.path / name, folder / name)
    shutil.copytree(small_embedded.path / "split" / "random", folder / "split" / "scaffold")
    (folder / "RELEASE_v1.txt").touch()
    return folder


@pytest.fixture
def server(tmp_path):
    """A web server for a folder; `(folder, address)`."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{http.server_port}/pcba.zip"
        http.shutdown()
        thread.join()


def listing(root):
    return sorted(p.name for p in root.glob("*") if not p.name.endswith(".lock"))


def test_found_on_disk(facts, small_embedded, tmp_path):
    folder = lay_out(small_embedded, tmp_path / "ogbg_molpcba")
    before = sorted(folder.rglob("*"))
    for data in (load("auto", root=tmp_path), load("ogb", root=tmp_path)):
        assert (data.name, data.split, data.metric) == ("ogbg-molpcba", "ogb", "ap")
        assert f"found in {folder}" in data.source
    assert data.graphs_sha256 == small_embedded.graphs_sha256
    expected = read_split(small_embedded.path, "random")
    assert all(torch.equal(data.splits[part], expected[part]) for part in expected)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    "missing", ["RELEASE_v1.txt", "raw/edge.csv.gz", "split/scaffold/test.csv.gz"]
)
def test_incomplete_folder_is_left_alone(facts, small_embedded, tmp_path, missing):
    folder = lay_out(small_embedded, tmp_path / "ogbg_molpcba")
    (folder / missing).unlink()
    before = sorted(folder.rglob("*"))
    with pytest.raises(DataError, match=f"incomplete: it lacks {missing}"):
        load("ogb", root=tmp_path)
    assert f"it lacks {missing}" in load("auto", root=tmp_path).source
    assert sorted(folder.rglob("*")) == before


def test_wrong_number_of_molecules(facts, small_embedded, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "MOLPCBA", replace(facts, sizes=(7, 1, 1)))
    lay_out(small_embedded, tmp_path / "ogbg_molpcba")
    with pytest.raises(DataError, match="molecules read back where 9 were"):
        load("ogb", root=tmp_path)


def test_no_network(facts, tmp_path):
    start = time.monotonic()
    with pytest.raises(DataError, match="could not be downloaded"):
        load("ogb", root=tmp_path)
    assert listing(tmp_path) == []
    data = load("auto", root=tmp_path)
    assert time.monotonic() - start < 10
    assert data.name == "embedded-nci"
    assert "NOT ogbg-molpcba (because ogbg-molpcba could not be downloaded" in data.source


def test_a_server_that_never_answers(facts, tmp_path, monkeypatch):
    monkeypatch.setattr(ogb_source, "REACH", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/pcba.zip"
        start = time.monotonic()
        with pytest.raises(DataError, match="could not be downloaded"):
            ogb_source.download(replace(facts, url=url), tmp_path)
        assert time.monotonic() - start < 5
    assert listing(tmp_path) == []


def test_download(facts, small_embedded, server, tmp_path):
    served, url = server
    lay_out(small_embedded, tmp_path / "made" / "pcba")
    shutil.make_archive(str(served / "pcba"), "zip", tmp_path / "made")
    root = tmp_path / "root"
    served_facts = replace(facts, url=url)
    source = ogb_source.download(served_facts, root)
    assert source == ogb_source.find(served_facts, root)
    assert listing(root) == ["ogbg_molpcba"]


@pytest.mark.parametrize("kind", ["no zip", "cut zip", "other zip", "not there"])
def test_bad_download(facts, small_embedded, server, tmp_path, kind):
    served, url = server
    archive = served / "pcba.zip"
    if kind == "no zip":
        archive.write_bytes(b"<html>sign in</html>")
    elif kind != "not there":
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("pcba/RELEASE_v1.txt", "x" * 5_000)
        if kind == "cut zip":
            archive.write_bytes(archive.read_bytes()[:3_000])
    with pytest.raises(DataError, match=r"pcba|ogbg-molpcba") as error:
        ogb_source.download(replace(facts, url=url), tmp_path / "root")
    assert "\n" not in str(error.value)
    assert listing(tmp_path / "root") == []


@pytest.mark.parametrize("damage", ["cut", "text", "other rows"])
def test_damaged_raw_files(facts, small_embedded, tmp_path, damage):
    folder = lay_out(small_embedded, tmp_path / "ogbg_molpcba")
    path = folder / "raw" / "edge.csv.gz"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-30])
    elif damage == "text":
        path.write_bytes(b"hello")
    else:
        path.write_bytes(gzip.compress(b"0,1\n" * 50))
    with pytest.raises(DataError, match="get the data set afresh") as error:
        load("ogb", root=tmp_path)
    assert "\n" not in str(error.value)
    assert listing(tmp_path) == ["ogbg_molpcba"]
