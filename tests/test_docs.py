"""The code in README and docs runs, and the examples in docstrings are true."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest
import torch

import pyg_ea

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "docs/guide.md"]
MODULES = [m.name for m in pkgutil.walk_packages(pyg_ea.__path__, "pyg_ea.")]


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_run(page):
    torch.manual_seed(0)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)
    assert blocks
    namespace = {}
    for block in blocks:  # in order: a later block may use an earlier one's names
        exec(compile(block, page, "exec"), namespace)


def test_docstring_examples_are_true():
    attempted = 0
    for name in MODULES:
        module = importlib.import_module(name)
        failed, tried = doctest.testmod(module, extraglobs={"torch": torch})
        assert not failed, name
        attempted += tried
    assert attempted


@pytest.mark.parametrize("page", sorted(p.relative_to(ROOT) for p in ROOT.glob("docs/*.md")))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text()):
        if "://" not in target:
            assert (ROOT / page.parent / target).exists(), target


def test_readme_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text()):
        if "://" not in target:
            assert (ROOT / target).exists(), target
