"""Imports run one way, and the library knows torch and torch_geometric only."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import pyg_ea

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pyg_ea"
THIRD_PARTY = {"torch", "torch_geometric"}
OPTIONAL = {"fused": {"triton"}}  # imported where a solve runs in it

# From below to above; a module imports from lower levels, or from its own package's own files.
LEVELS = [
    {"tensors"},
    {"transforms"},
    {"segments", "solver"},
    {"checks", "diagnostics", "solutions", "losses"},
    {"potentials"},
    {"energy"},
    {"fused"},
    {"adjoints"},
    {"aggregation"},
    {"pool", "conv", "multi", "optim", "testing"},
    {"__init__"},
]
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}


def unit(path: Path) -> str:
    """The part of the library that a file belongs to: its module or its subpackage."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(source: str) -> set[str]:
    """All modules that a source imports, at any depth of it, as dotted names."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            assert node.module is not None
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def violations(part: str, source: str) -> list[str]:
    """What a file of ``part`` imports against the rule."""
    found, allowed = [], THIRD_PARTY | OPTIONAL.get(part, set())
    for name in sorted(imports(source)):
        top, *rest = name.split(".")
        if top in ("experiments", "benchmarks", "tests"):
            found.append(f"{part} imports {name}: the library does not know who uses it")
        elif top == "pyg_ea" and rest and rest[0] != part:
            target = rest[0]
            if target in LEVEL and LEVEL[target] >= LEVEL[part]:
                found.append(f"{part} imports {target}: imports run upwards only")
        elif top == "pyg_ea" and not rest and part != "__init__":
            found.append(f"{part} imports the whole package")
        elif top != "pyg_ea" and top not in allowed | set(sys.stdlib_module_names):
            found.append(f"{part} imports {top}: only {sorted(allowed)} are allowed")
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path: Path) -> None:
    assert unit(path) in LEVEL, f"{path.name} has no level: add it to LEVELS"
    assert violations(unit(path), path.read_text()) == []


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("solver", "from pyg_ea.energy import Energy"),
        ("potentials", "import pyg_ea.aggregation"),
        ("pool", "from pyg_ea.conv import EAConv"),
        ("energy", "from pyg_ea import Unrolled"),
        ("losses", "def f():\n    import pandas"),
        ("potentials", "from pyg_ea.fused import solve"),
        ("aggregation", "from experiments.molpcba import models"),
    ],
)
def test_the_rule_sees_a_violation(part: str, source: str) -> None:
    assert violations(part, source)


EXPERIMENTS = [
    {"environment"},
    {"common", "metrics"},
    {"flags", "records"},
    {"report"},
    {"engine"},
    {"sets", "molpcba"},
    {"median", "counting", "nodes", "studies"},
]
"""Parts of the experiments, from below to above; a part imports from lower ones."""


def test_parts_of_the_experiments_import_one_way() -> None:
    folder = ROOT / "experiments"
    level = {name: i for i, names in enumerate(EXPERIMENTS) for name in names}
    for path in folder.rglob("*.py"):
        part = path.relative_to(folder).parts[0].removesuffix(".py")
        for name in imports(path.read_text()):
            top, *rest = name.split(".")
            if top == "experiments" and rest and rest[0] != part and part != "__init__":
                assert level[rest[0]] < level[part], f"{path} imports {name}"


def test_no_modules_of_the_experiments_import_each_other() -> None:
    sources = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (ROOT / "experiments").rglob("*.py")
    }
    graph = {  # without the packages that a module lies in
        name: {own for own in imports(path.read_text()) & sources.keys() if own not in name}
        for name, path in sources.items()
    }
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError


def test_studies_of_sets_do_not_import_the_molecule_packages() -> None:
    pytest.importorskip("jsonargparse")
    sets = "experiments.median, experiments.nodes, experiments.sets"
    assert loaded(sets, ("ogb", "rdkit", "lightning")) == []


def test_the_solver_never_meets_autograd_or_a_graph() -> None:
    source = (PACKAGE / "solver.py").read_text()
    assert not {n for n in imports(source) if n.startswith("torch_geometric")}
    assert "autograd" not in {
        node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)
    }


def test_importing_the_library_does_not_import_the_experiments_packages() -> None:
    heavy = ("ogb", "lightning", "matplotlib", "jsonargparse", "rdkit")
    assert loaded("pyg_ea", heavy) == []


def loaded(modules: str, packages: tuple[str, ...]) -> list[str]:
    """Which of these packages come with an import of these modules."""
    program = (
        f"import sys, warnings; warnings.simplefilter('ignore'); import {modules}; "
        f"print(*(m for m in {packages} if m in sys.modules))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return run.stdout.split()


LONGEST_FILE, LONGEST_FUNCTION = 400, 60


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_are_short_and_documented(path: Path) -> None:
    source = path.read_text()
    assert len(source.splitlines()) <= LONGEST_FILE
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            docstring = ast.get_docstring(node, clean=False) or ""
            length = node.end_lineno - node.lineno + 1 - len(docstring.splitlines())
            assert length <= LONGEST_FUNCTION, f"{node.name} has {length} lines"


def test_public_names_are_exported() -> None:
    assert sorted(set(pyg_ea.__all__)) == sorted(pyg_ea.__all__)
    for name in pyg_ea.__all__:
        assert getattr(pyg_ea, name).__doc__, f"{name} has no docstring"
