"""Builds the documentation site: every warning is an error, and nothing in it needs a network.

    python scripts/build_site.py [FOLDER]     (default: site/)

Needs docs/requirements.txt. Exit 1 where Sphinx warns (a link that leads nowhere, a page in no table of contents) or
where a built page loads anything from another host.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: What a browser would fetch by itself; links that a reader may follow are not meant.
_LOADED = re.compile(
    r"<(?:script|img|iframe|source|video)\b[^>]*?\bsrc=[\"']?(?:https?:)?//|<link\b[^>]*?\bhref=[\"']?(?:https?:)?//"
)
_STYLE = re.compile(r"@import\s+[\"']?(?:url\()?[\"']?(?:https?:)?//|url\([\"']?(?:https?:)?//")


def build(folder: Path) -> int:
    """Sphinx' exit status; its output goes to the terminal."""
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-n", "--keep-going", "-b", "html", "docs", str(folder)]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def fetched(folder: Path) -> list[str]:
    """Built files that load something from another host."""
    pages = [path for path in folder.rglob("*.html") if _LOADED.search(path.read_text())]
    styles = [path for path in folder.rglob("*.css") if _STYLE.search(path.read_text())]
    return [str(path.relative_to(folder)) for path in (*pages, *styles)]


def main(arguments: list[str]) -> int:
    folder = Path(arguments[0] if arguments else ROOT / "site").resolve()
    status = build(folder)
    outside = fetched(folder)
    for name in outside:
        print(f"{name} loads from another host", file=sys.stderr)
    return 1 if status or outside else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
