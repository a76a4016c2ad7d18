"""Sphinx extension of the site: formulas in MathML, repository links, recorded tutorials."""

from __future__ import annotations

import re
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import matplotlib as mpl
from docutils.nodes import Element, SkipNode
from math_core import LatexError, LatexToMathML
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

from docs.common import STYLE

MATHML = LatexToMathML(fancy_error=False)
LOGGER = logging.getLogger(__name__)


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the renderer of formulas and the archives of the tutorials."""
    app.add_html_math_renderer(
        "mathml",
        inline_renderers=(lambda translator, node: _show(translator, node, False), None),
        block_renderers=(lambda translator, node: _show(translator, node, True), None),
    )
    app.connect("config-inited", lambda app, config: archive_tutorials(Path(app.srcdir)))
    return {"parallel_read_safe": True}


def _show(translator: HTML5Translator, node: Element, is_block: bool) -> None:
    """Writes a formula as MathML: a reader needs neither a script nor a network."""
    try:
        formula = mathml(node.astext(), is_block)
    except LatexError as error:
        LOGGER.warning("formula %r: %s", node.astext(), error, location=node)
    else:
        translator.body.append(f'<div class="formula">{formula}</div>' if is_block else formula)
    raise SkipNode


def mathml(latex: str, is_block: bool) -> str:
    """Returns a formula as MathML; one of several lines is aligned at its ``&``."""
    if r"\\" in latex:
        latex = rf"\begin{{aligned}}{latex}\end{{aligned}}"
    return MATHML.convert_with_local_state(latex, displaystyle=is_block)


def repository(root: Path) -> dict[str, Any]:
    """Returns the theme's settings that link to the repository this checkout was cloned from.

    Without a remote on the web there is no link.
    """
    command = ["git", "-C", str(root), "remote", "get-url", "origin"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if (url := web_address(run.stdout.strip())) is None:
        return {}
    return {
        "source_repository": url,
        "source_branch": "main",
        "source_directory": "docs/",
        "footer_icons": [{"name": "Repository", "url": url, "html": "Repository", "class": ""}],
    }


def web_address(remote: str) -> str | None:
    """Returns the web page of a Git remote, ``https://host/owner/name``; None for a local path."""
    match = re.fullmatch(
        r"(?:https://(?:\S+@)?|(?:ssh://)?git@)([\w.-]+)[:/](\S+?)(?:\.git)?/?", remote
    )
    return f"https://{match[1]}/{match[2]}" if match else None


def archive_tutorials(docs: Path) -> None:
    """Makes the archive that each recorded tutorial offers for download."""
    for script in sorted(docs.parent.glob("examples/*.py")):
        archive = docs / "tutorials" / f"{script.stem}.zip"
        archive.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(archive, "w") as file:
            file.write(script, script.name)


def use_style(settings: dict[str, Any], name: str) -> None:
    """Gives the pictures of a tutorial the style of the project; called before each."""
    mpl.rcParams.update(mpl.rc_params_from_file(str(STYLE), use_default_template=False))
