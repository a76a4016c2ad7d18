"""A tiny study, and how the tests call the command line on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.molpcba.ablations import study
from experiments.molpcba.ablations.__main__ import main
from tests.molpcba.ablations.tiny import TINY


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder of studies with the study ``tiny``."""
    path = tmp_path / "studies"
    path.mkdir()
    (path / "tiny.yaml").write_text(TINY)
    monkeypatch.setattr(study, "FOLDER", path)
    return path


@pytest.fixture
def flags(tiny_csv, tiny_root, tiny_data, tmp_path) -> list[str]:
    places = ["--csv", tiny_csv, "--root", tiny_root, "--runs-dir", tmp_path / "runs"]
    return ["tiny", *map(str, places), "--seeds", "2", "--out", str(tmp_path / "out")]


@pytest.fixture
def call(folder, flags, monkeypatch):
    """Calls the command with the tiny study and molecules, in this process."""
    monkeypatch.setattr("experiments.molpcba.run.plot_run", lambda path: [])
    return lambda *more, study="tiny": main([study, *flags[1:], *more])
