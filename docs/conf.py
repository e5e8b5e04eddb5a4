"""How Sphinx makes the site: `make docs`, then open docs/site/index.html."""

from __future__ import annotations

from typing import Any

from polymask.version import __version__

project, author, copyright = "polymask", "The polymask authors", "The polymask authors"
version = release = __version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}
exclude_patterns = ["site"]
html_theme = "furo"
html_title = f"polymask {__version__}"
html_theme_options = {"navigation_with_keys": True}
# No page asks another host for a font, a script or a picture.
html_copy_source = False
myst_heading_anchors = 3
myst_links_external_new_tab = True
copybutton_exclude = ".linenos, .gp"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
napoleon_numpy_docstring = False
autodoc_typehints = "description"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}

OUTSIDE = {
    "README.zh-CN.md": "zh-CN.md",
    "README.md": "index.md",
    "docs/wiring.md": "wiring.md",
    "docs/mutants.md": "mutants.md",
    "../README.md": "index.md",
    "../../README.md": "../index.md",
    "CONTRIBUTING.md": "contributing.md",
}
"""Links to files beside this folder, as a reader of the repository follows them -> the site's page."""


def setup(app: Any) -> None:
    """Let links that lead out of this folder lead to the site's pages."""
    app.connect("source-read", lambda _, __, content: content.__setitem__(0, _inside(content[0])))
    app.connect("include-read", lambda _, __, ___, content: content.__setitem__(0, _inside(content[0])))


def _inside(text: str) -> str:
    for link, page in OUTSIDE.items():
        text = text.replace(f"]({link})", f"]({page})")
    return text
