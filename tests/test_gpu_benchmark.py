"""The GPU benchmark, rehearsed on a CPU, and what it makes of its records."""

from __future__ import annotations

import csv
import importlib.util
import json
import subprocess
import sys

import pytest

pytest.importorskip("rdkit")  # not ogb, whose import asks the network for a newer version

from benchmarks.gpu.__main__ import LIMITS, REPORT, main
from benchmarks.gpu.parts import ROOT
from benchmarks.gpu.report import report


def test_the_rehearsal_runs_every_part(tmp_path) -> None:
    out = tmp_path / "out"
    assert main(["--rehearse", "--root", str(tmp_path / "data"), "--out", str(out)]) == 0
    parts = json.loads((out / "machine.json").read_text())["parts"]
    assert list(parts) == list(LIMITS)
    assert {part["status"] for part in parts.values()} == {"done"}
    if importlib.util.find_spec("triton") is None:
        assert "Triton is not installed" in parts["host"].pop("note")
    assert not any(part.get("note") for part in parts.values())
    with open(out / "measurements.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["section"] for row in rows} >= set(LIMITS) - {"host"}
    failed = [r for r in rows if r["quantity"] in ("failed", "failure") and float(r["value"])]
    assert not failed
    assert len(list(out.iterdir())) <= 8
    text = (out / REPORT).read_text().strip()
    assert report(out) == text
    for title in ("training step of the layer", "GIN", "Where the time goes", "Training"):
        assert title in text


def test_it_takes_six_minutes_at_most() -> None:
    assert sum(LIMITS.values()) <= 6 * 60


def test_the_first_five_parts_need_no_more_than_a_gpu_machine_has() -> None:
    program = (
        "import sys; sys.modules |= dict.fromkeys(('pandas', 'ogb', 'rdkit', 'lightning', "
        "'jsonargparse', 'matplotlib')); import benchmarks.gpu.__main__, tests.test_adjoints"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--rehearse"),
        (["--rehearse", "--csv", "absent.csv"], "absent.csv is no file"),
        (["--show", "absent"], "holds no measurements.csv"),
    ],
)
def test_a_mistake_is_one_line(words, message, capsys, monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
