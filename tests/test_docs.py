"""The site builds without a warning, the code in it runs, and examples in docstrings are true."""

import doctest
import importlib
import importlib.util
import pkgutil
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pyg_ea

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "docs/migrate.md"]
MODULES = [m.name for m in pkgutil.walk_packages(pyg_ea.__path__, "pyg_ea.")]
TUTORIALS = sorted(ROOT.glob("examples/*.py"))


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_run(page):
    torch.manual_seed(0)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)
    assert blocks
    namespace = {}
    for block in blocks:  # in order: a later block may use an earlier one's names
        exec(compile(block, page, "exec"), namespace)


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_tutorials_run(tutorial):
    plt = pytest.importorskip("matplotlib.pyplot", reason="the extra docs is not installed")
    plt.switch_backend("agg")
    runpy.run_path(str(tutorial))
    assert plt.get_fignums()
    plt.close("all")


def test_docstring_examples_are_true():
    attempted = 0
    for name in MODULES:
        if "triton" in name and importlib.util.find_spec("triton") is None:
            continue  # optional
        module = importlib.import_module(name)
        failed, tried = doctest.testmod(module, extraglobs={"torch": torch})
        assert not failed, name
        attempted += tried
    assert attempted


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site; tutorials are not run, which the test above does."""
    pytest.importorskip("furo", reason="the extra docs is not installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-D", "plot_gallery=0"]
    run = subprocess.run(
        [*command, "docs", folder], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return folder


def test_every_public_name_is_in_the_reference(site):
    reference = (site / "api.html").read_text()
    missing = [name for name in pyg_ea.__all__ if f'id="pyg_ea.{name}"' not in reference]
    assert not missing


def test_pages_need_no_network(site):
    pages = [*site.glob("*.html"), *site.glob("tutorials/*.html")]
    assert len(pages) > 15
    for path in [*pages, *site.glob("_static/*.css")]:
        loaded = re.findall(
            r'(?:src="|url\(["\']?|<link [^>]*href=")(?:https?:)?//[^"\')]*', path.read_text()
        )
        assert not loaded, path.name


def test_readme_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#\s]+)\)", (ROOT / "README.md").read_text()):
        assert "://" in target or (ROOT / target).exists(), target
