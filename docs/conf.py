"""Configuration of the site, which ``make docs`` builds."""

import sys
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]  # tables.py, mige_ext

import mige_ext  # noqa: E402

project = "mige_ext"
version = release = mige_ext.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "tables"]
exclude_patterns = ["examples"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings state the types
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Cost"]

html_theme = "furo"
html_title = "mige_ext"
html_copy_source = False


def unlink(app: Sphinx, doctree: nodes.document) -> None:
    """Replaces a link to a file that is not part of the site by the text of the link."""
    for link in list(doctree.findall(addnodes.pending_xref)):
        if link.get("refdomain") == "doc" and Path(link["reftarget"]).is_absolute():
            link.replace_self(link.children)


def without_class_docstring(
    app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]
) -> None:
    """Removes from a constant the docstring of its class, which has its own place on the page."""
    if what == "data" and type(value).__module__.startswith("mige_ext."):
        lines.clear()


def setup(app: Sphinx) -> None:
    """Registers the functions above."""
    app.connect("doctree-read", unlink)
    app.connect("autodoc-process-docstring", without_class_docstring)
