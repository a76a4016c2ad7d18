"""Settings of the site: ``python -m sphinx -W docs site`` builds it, without a network.

Tutorials show their recorded output. ``-t run`` runs all of them again; without it, one that has
changed is run.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
# command lines are shown by this interpreter, at the width of a page
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
os.environ["PYTHONPATH"] = str(ROOT)  # of this checkout
os.environ["COLUMNS"] = "80"
os.environ["PYTHONWARNINGS"] = "ignore"

from docs.extension import repository  # noqa: E402
from pyg_ea import __version__ as release  # noqa: E402

project = "pyg_ea"
extensions = [
    "docs.extension",
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "sphinxcontrib.programoutput",
]
exclude_patterns = ["made"]
suppress_warnings = ["config.cache"]  # sphinx-gallery's settings hold functions

html_theme = "furo"
html_title = f"pyg_ea {release}"
html_static_path = ["style.css"]
html_favicon = "icon.svg"
html_css_files = ["style.css"]
html_show_sourcelink = False
html_show_copyright = False
html_math_renderer = "mathml"
html_theme_options = repository(ROOT)

copybutton_exclude = ".linenos, .gp, .go"
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
autosummary_generate = False
napoleon_custom_sections = ["Shapes", ("Warns", "returns_style")]
nitpicky = True
# annotations of other libraries, and names that the API page documents one level higher
nitpick_ignore_regex = [
    ("py:.*", r"(torch|torch_geometric|nn|collections|typing|tuple|list|dict)\b.*"),
    (
        "py:.*",
        r"(Tensor|Aggregation|EdgeIndex|Callable|Sequence|Literal|Any|T|Gradient|Scaling|Affine)",
    ),
    ("py:.*", r"pyg_ea\.\w+\.\w+.*"),
]

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "tutorials",
    "filename_pattern": "/",
    "run_stale_examples": "run" in globals()["tags"],
    "abort_on_example_error": True,
    "reset_modules": ("matplotlib", "docs.extension.use_style"),
    "capture_repr": (),
    "notebook_extensions": set(),
    "copyfile_regex": "",
    "download_all_examples": False,
    "min_reported_time": 1e9,
    "show_signature": False,
    "write_computation_times": False,
    "within_subsection_order": "FileNameSortKey",
}
