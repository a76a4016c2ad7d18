"""The documentation: ``python -m sphinx -W docs site`` builds it, without a network."""

import os
import sys
from pathlib import Path

from docutils.nodes import Element, SkipNode
from math_core import LatexError, LatexToMathML
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
# command lines are shown by this interpreter, at the width of a page
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
os.environ["COLUMNS"] = "80"
os.environ["PYTHONWARNINGS"] = "ignore"

project = "pyg_ea"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
    "sphinxcontrib.programoutput",
]
exclude_patterns = ["made"]
suppress_warnings = ["config.cache"]  # sphinx-gallery's settings hold functions

html_theme = "furo"
html_title = "pyg_ea"
html_static_path = ["style.css"]
html_favicon = "icon.svg"
html_css_files = ["style.css"]
html_show_sourcelink = False
html_show_copyright = False
html_math_renderer = "mathml"

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
napoleon_custom_sections = ["Shapes", ("Warns", "returns_style")]
nitpicky = True
# annotations of other libraries, and names that the API page documents one level higher
nitpick_ignore_regex = [
    ("py:.*", r"(torch|torch_geometric|nn|collections|typing|tuple|list|dict)\b.*"),
    ("py:.*", r"(Tensor|Aggregation|EdgeIndex|Callable|Sequence|Literal|Any|T|Gradient|Scaling)"),
    ("py:.*", r"pyg_ea\.\w+\.\w+.*"),
]

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "tutorials",
    "filename_pattern": "/",
    "abort_on_example_error": True,
    "capture_repr": (),
    "copyfile_regex": "",
    "download_all_examples": False,
    "min_reported_time": 1e9,
    "show_signature": False,
    "write_computation_times": False,
    "within_subsection_order": "FileNameSortKey",
}

MATHML = LatexToMathML(fancy_error=False)
LOGGER = logging.getLogger(__name__)


def setup(app: Sphinx) -> None:
    """Formulas become MathML while the site is built: a reader needs neither script nor network."""

    def show(translator: HTML5Translator, node: Element, is_block: bool) -> None:
        latex = node.astext()
        if r"\\" in latex:
            latex = rf"\begin{{aligned}}{latex}\end{{aligned}}"
        try:
            formula = MATHML.convert_with_local_state(latex, displaystyle=is_block)
        except LatexError as error:
            LOGGER.warning("formula %r: %s", latex, error, location=node)
        else:
            translator.body.append(f'<div class="formula">{formula}</div>' if is_block else formula)
        raise SkipNode

    app.add_html_math_renderer(
        "mathml",
        inline_renderers=(lambda translator, node: show(translator, node, False), None),
        block_renderers=(lambda translator, node: show(translator, node, True), None),
    )
