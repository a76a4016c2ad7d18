"""The site builds without a warning, the code in it runs, and examples in docstrings are true."""

import doctest
import importlib
import importlib.util
import pkgutil
import re
import runpy
import subprocess
import sys
from hashlib import md5
from pathlib import Path

import pytest
import torch

import pyg_ea

ROOT = Path(__file__).parent.parent
PAGES = [
    path
    for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))
    if "```python" in path.read_text()
]
MODULES = [m.name for m in pkgutil.walk_packages(pyg_ea.__path__, "pyg_ea.")]
TUTORIALS = sorted(ROOT.glob("examples/*.py"))
NEEDS_SPHINX = "the extra docs is not installed"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    pytest.importorskip("rdkit") if "rdkit" in page.read_text() else None
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    namespace = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.S):
        exec(compile(block, page.name, "exec"), namespace)  # a later block may use earlier names


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_tutorials_run(tutorial):
    plt = pytest.importorskip("matplotlib.pyplot", reason=NEEDS_SPHINX)
    plt.switch_backend("agg")
    runpy.run_path(str(tutorial))
    assert plt.get_fignums()
    plt.close("all")


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_recorded_output_is_that_of_the_tutorial(tutorial):
    recorded = ROOT / "docs" / "tutorials" / f"{tutorial.name}.md5"
    own = md5(tutorial.read_bytes()).hexdigest()
    assert recorded.read_text() == own, "record it with python -m sphinx docs site, and commit"


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


# ---- the site


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site, tutorials with their recorded output."""
    pytest.importorskip("furo", reason=NEEDS_SPHINX)
    folder = tmp_path_factory.mktemp("site")
    run = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "docs", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
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


def test_the_home_page_shows_formula_picture_version_and_copy_buttons(site):
    home = (site / "index.html").read_text()
    assert "<math" in home
    assert "idea.svg" in home
    assert f"pyg_ea {pyg_ea.__version__}" in home
    assert "copybutton.js" in home


def test_tutorials_show_their_output(site):
    assert "closed form" in (site / "tutorials" / "own_energy.html").read_text()
    assert list((site / "_images").glob("sphx_glr_*_001.png"))


@pytest.mark.parametrize(
    ("remote", "page"),
    [
        ("https://github.com/owner/name.git", "https://github.com/owner/name"),
        ("https://token@github.com/owner/name", "https://github.com/owner/name"),
        ("git@github.com:owner/name.git", "https://github.com/owner/name"),
        ("ssh://git@gitlab.com/group/part/name", "https://gitlab.com/group/part/name"),
        ("/srv/git/name.git", None),
        ("", None),
    ],
)
def test_the_repository_link_comes_from_the_remote(remote, page):
    pytest.importorskip("sphinx", reason=NEEDS_SPHINX)
    from docs.extension import web_address

    assert web_address(remote) == page


def test_formulas_become_mathml():
    pytest.importorskip("sphinx", reason=NEEDS_SPHINX)
    from docs.extension import LatexError, mathml

    assert mathml("y^2", is_block=False).startswith("<math")
    assert "mtable" in mathml(r"a &= b \\ c &= d", is_block=True)
    with pytest.raises(LatexError):
        mathml(r"\nonsense{", is_block=False)


# ---- links and names


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        assert "://" in target or (ROOT / target).exists(), target


def test_the_version_stands_in_one_place():
    files = subprocess.run(
        ["git", "grep", "-l", "-E", rf"version.*{re.escape(pyg_ea.__version__)}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    code = [file for file in files if file.endswith((".py", ".toml", ".cff"))]
    code = [file for file in code if not file.startswith("tests/")]
    assert code == ["pyg_ea/__init__.py"]
