"""A prepared set is whole or is not there, and damage to it is noticed."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from experiments.molpcba.data import DataError, load, store
from experiments.molpcba.data.csv_source import CsvSource

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def prepared(tiny, tiny_csv, tmp_path):
    """A copy of the prepared tiny set, and a function that loads it again."""
    original = tiny.smiles.path.parents[1]
    shutil.copytree(original, tmp_path / original.name)
    return tmp_path / original.name, lambda: load(csv=tiny_csv, root=tmp_path)


def test_is_made_once(prepared, tiny, monkeypatch):
    _, again = prepared
    monkeypatch.setattr(store, "_build", lambda *_: pytest.fail("prepared although it was there"))
    assert again().fingerprint == tiny.fingerprint


@pytest.mark.parametrize(
    "name", ["packed.pt", "mapping/mol.csv.gz", "rejects.csv", "complete.json"]
)
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "remove"])
def test_damage_is_noticed_and_mended(prepared, tiny, capsys, name, damage):
    folder, again = prepared
    path = folder / name
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle] ^= 0x01 if name != "complete.json" else 0xFF
    bad = {"flip": content, "cut": content[:middle], "empty": b""}
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(bytes(bad[damage]))
    assert again().fingerprint == tiny.fingerprint
    assert "preparing it afresh" in capsys.readouterr().err
    assert not list(folder.parent.glob(".*.tmp-*"))


@pytest.mark.parametrize("damage", [b"", b"xx"])
def test_damaged_groups_are_worked_out_again(prepared, tiny, damage):
    folder, again = prepared
    (groups,) = folder.glob("groups-canonical-*.npy")
    groups.write_bytes(damage)
    assert again().fingerprint == tiny.fingerprint


def test_another_version_is_not_read(tiny_csv, monkeypatch):
    source = CsvSource.of(tiny_csv)
    before = source.key
    monkeypatch.setattr("experiments.molpcba.data.csv_source.VERSION", store.VERSION + 1)
    assert source.key != before


def test_sigkill_at_every_file_operation(tiny_csv, tmp_path):
    script = Path(__file__).with_name("kill_preparation.py")
    result = subprocess.run(
        [sys.executable, str(script), str(tiny_csv), str(tmp_path / "kills")],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(result.stdout)
    assert told["wrong"] == []
    assert told["moments"] > 30


def test_full_disk(tiny_csv, tmp_path):
    """A limit on file size makes writing fail as a full disk does."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, limit[1]))
    try:
        with pytest.raises(DataError, match=r"cannot write the data under .*--root"):
            load(csv=tiny_csv, root=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert [p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")] == []


@pytest.mark.parametrize("under", ["", "/below"])
def test_root_is_a_file(tiny_csv, tmp_path, under):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write the data under"):
        load(csv=tiny_csv, root=f"{tmp_path}/file{under}")


def test_two_at_once_prepare_once(tiny_csv, tiny, tmp_path, monkeypatch):
    builds = []
    build = store._build
    monkeypatch.setattr(store, "_build", lambda *a: (builds.append(1), build(*a)))
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(load(csv=tiny_csv, root=tmp_path)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {data.fingerprint for data in found} == {tiny.fingerprint}
    assert len(found) == 2
    assert len(builds) == 1
