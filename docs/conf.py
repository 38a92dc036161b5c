"""Settings of the documentation: sphinx-build -W docs docs/_build/html"""

import importlib.metadata
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))
sys.path.insert(0, str(Path(__file__).parents[1]))

import envs  # isort: skip  # noqa: F401  sets XLA's flags before JAX starts

project = "stride"
author = "the stride authors"
copyright = "the stride authors, Apache-2.0"
release = version = importlib.metadata.version("stride-rl")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "plain_docstrings",
    "generated",
    "published_pages",
]
exclude_patterns = ["_build", "_static/mathjax"]
html_theme = "furo"
html_title = "stride"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_show_sphinx = False

# One bundle beside the pages: no page loads anything from a network.
mathjax_path = "mathjax/tex-svg.js"

myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "colon_fence", "attrs_inline"]
myst_heading_anchors = 3
suppress_warnings = ["mystnb.unknown_mime_type"]

nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_timeout = 600  # seconds a cell, on a machine that is busy with other things
nb_merge_streams = True

# Headings alone: with each function in it, the table of contents took a sixth of the time of a build.
toc_object_entries = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False
python_use_unqualified_type_names = True
default_role = "py:obj"
