"""A tiny set of molecules in a CSV file, and how the tests call the command line."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.molpcba.__main__ import main
from experiments.molpcba.config import Config
from experiments.molpcba.data import MoleculeData, load

PARTS = ("C", "CC", "O", "N", "c1ccccc1", "CO", "CN", "C(=O)O", "CCl", "C1CC1", "CCC", "F", "CS")


def tiny_rows() -> list[dict[str, str]]:
    """Some 90 molecules, three tasks that their atoms decide, some labels left empty."""
    names = sorted({a + b + c for a in ("C", "CC", "CCC") for b in PARTS[:6] for c in PARTS})
    names = ["[Na+]", *[n for n in names if not n.startswith("CCCCCCC")]][:90]
    rows = []
    for i, smiles in enumerate(names):
        labels = {"nitrogen": "N" in smiles, "oxygen": "O" in smiles, "ring": "1" in smiles}
        row = {task: str(int(value)) for task, value in labels.items()}
        if i % 7 == 3:
            row["ring"] = ""
        rows.append({**row, "smiles": smiles})
    return rows


@pytest.fixture(scope="session")
def tiny_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "tiny.csv"
    rows = tiny_rows()
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dataset")


@pytest.fixture(scope="session")
def tiny_data(tiny_csv: Path, tiny_root: Path) -> MoleculeData:
    return load(Config(csv=str(tiny_csv), root=str(tiny_root)))


@pytest.fixture
def tiny_flags(tiny_csv: Path, tiny_root: Path, tmp_path: Path) -> list[str]:
    """Flags of a run of a second."""
    words = "--width 16 --layers 2 --steps 3 --epochs 4 --batch-size 16 --lr 0.01 --name run"
    places = ["--csv", tiny_csv, "--root", tiny_root, "--runs-dir", tmp_path / "runs"]
    return [*words.split(), *map(str, places)]


@pytest.fixture
def command(
    tiny_flags: list[str], tiny_data: MoleculeData, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., int]:
    """Calls the command line in this process with the tiny flags and the ones given.

    Pictures, half the time of such a run, are left out; one test of them draws them.
    """
    monkeypatch.setattr("experiments.molpcba.__main__.plot_run", lambda folder: None)
    return lambda *flags: main([*tiny_flags, *flags])
