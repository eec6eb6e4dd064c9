"""Configuration of the site: ``sphinx-build -W --keep-going docs docs/_build``."""

import os
import re
import sys
from typing import Any

from dask_slides import __version__

project = "dask_slides"
author = "The dask_slides developers"
copyright = author
release = version = __version__

extensions = [
    "myst_nb",  # Markdown; pages with the header of a notebook are executed
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_click",
    "sphinx_copybutton",
]
exclude_patterns = ["_*"]
templates_path = ["_templates"]

# what notebooks use: the commands of this environment, the folder with the benchmarks, and a kernel
# that does not warn that its ports, which are on this machine only, are not encrypted
os.environ["DASK_SLIDES_TOP"] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
os.environ["JUPYTER_PATH"] = os.path.join(os.path.dirname(__file__), "_jupyter")
# notebooks: each runs in a folder of its own, and again only if its code has changed
nb_execution_mode = "cache"
nb_execution_in_temp = True
nb_execution_show_tb = True
nb_execution_timeout = 1200
nb_output_stderr = "warn"
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

# reference: a name in backticks is a link if it is public
default_role = "py:obj"
nitpicky = True
nitpick_ignore_regex = [("py:obj", ".*")]  # names of parameters are in backticks too
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # "Parameters" says the types in words
smartquotes = False  # "--to" is an option, not a dash
numpydoc_show_class_members = False

html_theme = "pydata_sphinx_theme"
html_title = f"dask_slides {version}"
html_copy_source = html_show_sourcelink = False
html_sidebars = {"installation": [], "troubleshooting": []}  # they have no pages below them
html_theme_options = {
    "collapse_navigation": True,
    "footer_start": ["copyright"],
    "footer_end": [],
    "header_links_before_dropdown": 8,
    "navigation_with_keys": False,  # arrow keys belong to the reader
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": True,
}

OUTSIDE = {
    "../../CONTRIBUTING.md": "/contributing.md",
    "../../benchmarks/README.md": "/explanation/benchmarks.md",
    "../../benchmarks/results/results.md": "/explanation/figures.md",
    "../README.md": "/explanation/benchmarks.md",
    "results/results.md": "/explanation/figures.md",
    "docs/": "/",
}
"""Where links go that leave the folder of the site, or come from a page that is included."""
LINKS = re.compile(r"\]\((" + "|".join(map(re.escape, OUTSIDE)) + ")")


def keep_links_inside(app: Any, *args: Any) -> None:
    """Turn links to files that are pages here into links to the pages."""
    text = args[-1]
    text[0] = LINKS.sub(lambda found: f"]({OUTSIDE[found[1]]}", text[0])


def keep_stars(app: Any, context: Any, lines: list[str]) -> None:
    """Escape the stars of patterns in the help of a command, which is plain text."""
    lines[:] = [line.replace("*", r"\*") for line in lines]


def setup(app: Any) -> None:
    """Connect to Sphinx."""
    app.connect("source-read", keep_links_inside)
    app.connect("include-read", keep_links_inside)
    app.connect("sphinx-click-process-description", keep_stars)
