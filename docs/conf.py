"""How the site is built: `python scripts/build_site.py`, or `sphinx-build -W -n docs site`.

The pages are plain Markdown that a repository viewer shows as well; everything here works without a network.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import ClassVar

from pygments.lexer import RegexLexer, bygroups
from pygments.token import Generic
from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from kvcalc.version import __version__  # noqa: E402 (the package lies beside docs/)

project = "kvcalc"
author = "the kvcalc authors"
project_copyright = "the kvcalc authors"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = ["requirements.txt", "Thumbs.db", ".DS_Store"]
root_doc = "index"
smartquotes = False  # --json stays --json
default_role = "code"  # docstrings write names as Markdown does

myst_heading_anchors = 4
myst_enable_extensions = ["deflist"]

nitpicky = True
#: Types in signatures, which have no page: keywords (a table lists them) and records of the answers (schemas do).
nitpick_ignore_regex = [
    ("py:class", r"[A-Z]\w*"),
    ("py:class", r"kvcalc\.\w+\..*"),
    ("py:class", r"schemas\.\w+|options_of\.\w+|os\.PathLike"),
    ("py:.*", r"typing.*|collections.*"),
]
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = f"kvcalc {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_last_updated_fmt = None
html_theme_options = {"navigation_with_keys": True}
copybutton_prompt_text = r"\$ |> |>>> |\.\.\. "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True


class Console(RegexLexer):
    """Commands behind `$ ` and `> `, everything else is what they print."""

    name = "console"
    tokens: ClassVar = {
        "root": [
            (r"^(\$ |> )(.*\n)", bygroups(Generic.Prompt, Generic.Strong)),
            (r".*\n", Generic.Output),
        ]
    }


def setup(app: Sphinx) -> None:
    """Sphinx's own lexer for `console` stumbles over quotes that span lines."""
    app.add_lexer("console", Console)
