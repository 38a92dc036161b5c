"""Makes the pages under results/ a part of the site.

The folder is copied to docs/published before each build (version control ignores the copy), and links from a page to
`../results/...` point into the copy, and those from the copy to `../docs/...` to the site. So the sources link to the
real files, which is right on a code host as well.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
COPY = "published"
_LEFT_OUT = ("runs", "notes.md")  # local runs; notes are part of the pages already


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("config-inited", copy_results)
    app.connect("source-read", relink)
    return {"parallel_read_safe": True}


def copy_results(app: Sphinx, config: Any) -> None:
    """Copies results/; files that have not changed keep their times, so that Sphinx does not read them again."""
    target = Path(app.srcdir) / COPY
    shutil.copytree(
        ROOT / "results", target, ignore=shutil.ignore_patterns(*_LEFT_OUT), dirs_exist_ok=True
    )


def relink(app: Sphinx, docname: str, source: list[str]) -> None:
    """Points links to `results/` into the copy, and links of the copy to `docs/` out of it."""
    source[0] = re.sub(r"\]\(((?:\.\./)*)\.\./results/", rf"](\1{COPY}/", source[0])
    if docname.startswith(f"{COPY}/"):
        source[0] = re.sub(r"\]\(((?:\.\./)+)docs/", r"](\1", source[0])
