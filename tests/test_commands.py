"""Every command of the README and of the pages runs, at toy size, in a folder of its own."""

from __future__ import annotations

import gzip
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("rdkit")

from experiments.studies import Study
from tests.molpcba.conftest import tiny_csv, tiny_root  # noqa: F401 (fixtures)

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md")])
TRAIN = "--width 8 --layers 1 --steps 2 --epochs 1 --batch-size 64 --split random"
SETS = "--steps 2 --tuning-steps 1 --evaluations 1 --seeds 1 --batch-size 2 --test-sets 4"
SETS += " --methods [mean]"
TOY = {
    "experiments.molpcba": TRAIN,
    "experiments.molpcba.summary": "",
    "experiments.molpcba.predict": "",
    "experiments.studies": "--epochs 1 --batch-size 64 --split random --seeds 1 --jobs 1"
    " --accelerator cpu",
    "experiments.report": "",
    "experiments.median": SETS,
    "experiments.counting": SETS,
    "experiments.nodes": "--steps 2 --tuning-steps 1 --evaluations 1 --seeds 1 --methods [mean]",
    "benchmarks": "--quick --rounds 1 --steps 1 --threads 1 --contestants sum pyg unrolled",
    "benchmarks.loader": "--graphs 40 --batch-sizes [8] --batches 1 --rounds 1",
    "benchmarks.ogb_loop": f"{TRAIN} --seeds 1",
}
"""What makes a command small; later flags win."""
TRAINING = ("experiments.molpcba", "experiments.studies", "benchmarks.ogb_loop")
OWN_READOUT = """
from torch_geometric.nn.aggr import MeanAggregation


class Moments(MeanAggregation):
    def __init__(self, channels):
        super().__init__()
"""
"""The module that the trainer's page calls ``mypackage.module``."""
ELSEWHERE = {
    "build": "tests/wheel.sh",
    "benchmarks.gpu": "tests/test_gpu_benchmark.py",
    "benchmarks.readouts": "tests/molpcba",
    "benchmarks.scale": "tests/molpcba/test_scale_benchmark.py",
    "docs.records": "tests/test_results.py",
    "pip": ".ci/run",
    "pytest": ".ci/run",
    "sphinx": "tests/test_docs.py",
    "venv": ".ci/run",
}
"""Modules whose commands are too large for this test, and what runs them."""
SHELL = """
python() { printf '%q ' "$@"; echo; }
pip() { python -m pip "$@"; }
python3() { python "$@"; }
"""


def commands(page: Path) -> list[list[str]]:
    """Arguments of each call of Python in the shell blocks of a page, loops expanded."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(), re.S)
    script = SHELL + "\n".join(blocks).replace(".venv/bin/", "")
    run = subprocess.run(
        ["bash", "-euc", script], capture_output=True, text=True, check=True, cwd=ROOT / "docs"
    )
    calls = [shlex.split(line) for line in run.stdout.splitlines()]
    assert all(call[0] == "-m" for call in calls), calls
    return [call[1:] for call in calls]


def unique(calls: list[list[str]]) -> Iterator[list[str]]:
    """Leaves out calls that differ in the values of their flags alone."""
    seen = set()
    for call in calls:
        kind = call[0], *call[1:2], *(word for word in call if word.startswith("--"))
        if kind not in seen:
            seen.add(kind)
            yield call


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_of_a_page_run(page, tiny_csv, tiny_root, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mypackage").mkdir()
    (tmp_path / "mypackage" / "module.py").write_text(OWN_READOUT)
    for module, *flags in unique(commands(page)):
        if module in ELSEWHERE:
            assert find_spec(module) or module == "build"
            continue
        if any("NAME" in word for word in flags):
            name = min(path.parent.name for path in Path("runs").glob("*/results.json"))
            flags = [word.replace("NAME", name) for word in flags]
        flags, toy = _on_toy_data(flags, tiny_csv), shlex.split(TOY[module])
        if module in TRAINING:
            toy += ["--root", str(tiny_root)]
            if not {"--csv", "--resume"} & set(flags):
                toy += ["--csv", str(tiny_csv), "--data-name", "embedded-nci"]
        if module == "experiments.studies":
            study = Study.read(flags[0])
            toy += ["--rows", next(iter(study.rows))]
            toy += ["--tuning-epochs", "1"] if study.tuning else []
        assert not main_of(module)([*flags, *toy]), (module, flags)


def main_of(module: str) -> Callable[[list[str]], int]:
    """Returns the function behind ``python -m module``."""
    found = import_module(module)
    return (import_module(f"{module}.__main__") if hasattr(found, "__path__") else found).main


def _on_toy_data(flags: list[str], tiny: Path) -> list[str]:
    """Writes a toy table for each table of a command; embedded-nci becomes one too."""
    if "embedded" in flags:
        place = flags.index("embedded")
        flags = [*flags[: place - 1], "--csv", "embedded.csv", *flags[place + 1 :]]
    Path("new.smi").write_text("CCO\n")
    for before, word in zip(["", *flags], flags, strict=False):
        if before == "--out":
            continue
        if word.endswith(".csv"):
            Path(word).write_bytes(tiny.read_bytes())
        elif word.endswith(".csv.gz"):
            Path(word).write_bytes(gzip.compress(tiny.read_bytes()))
    return [str(ROOT / word) if word.startswith("configs/") else word for word in flags]
