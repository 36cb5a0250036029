"""Sphinx builds the site from the Markdown pages of this folder: `make docs`. Nothing is loaded from a network.

The pages stay readable where they lie. What only the site has is put in while a page is read: the side bar comes from
the sections of index.md, and a comment `<!-- generated: NAME -->` becomes what `generated.py` makes of the code.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import generated  # noqa: E402

project = "hrgrid"
author = "the authors of hrgrid"
project_copyright = "Apache-2.0"
html_title = "hrgrid"

extensions = ["myst_parser", "sphinx_copybutton"]
source_suffix = {".md": "markdown"}
root_doc = "index"
exclude_patterns = ["cluster"]
nitpicky = True
highlight_language = "text"
smartquotes = False
myst_heading_anchors = 4
myst_links_external_new_tab = False

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True, "footer_icons": []}
copybutton_exclude = ".linenos, .gp, .go"


def _read(_: object, docname: str, source: list[str]) -> None:
    """Put the generated parts into a page, and turn links that leave this folder into links within the site."""
    text = generated.filled(source[0])
    text = generated.within_site(text)
    if docname == root_doc:
        text += generated.sidebar(text)
    source[0] = text


def setup(app: Any) -> dict[str, bool]:
    """Register the hook; called by Sphinx."""
    app.connect("source-read", _read)
    return {"parallel_read_safe": True}
