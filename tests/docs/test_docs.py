"""The documentation is true: commands print what it shows, tables are current, links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"\[[^\]]+\]\((?!https?://|#)([^)#]+)\)")


def _docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kvcalc_docs", ROOT / "scripts" / "docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


DOCS = _docs()


@pytest.mark.parametrize("path", DOCS.files(), ids=lambda path: path.name)
def test_document_is_what_it_would_be_now(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every `$ kvcalc ...` block prints what it shows and every generated table is current."""
    monkeypatch.chdir(ROOT)
    text = path.read_text()
    assert DOCS.refreshed(text) == text, "run python scripts/docs.py"


def test_schemas_are_current() -> None:
    """docs/schema holds the JSON Schema of model files and of each command's answer."""
    for path, text in DOCS.schema_files().items():
        assert path.read_text() == text, "run python scripts/docs.py"


@pytest.mark.parametrize("path", DOCS.files(), ids=lambda path: path.name)
def test_relative_links_lead_somewhere(path: Path) -> None:
    """A relative link names a file of the repository."""
    for target in LINK.findall(path.read_text()):
        assert (path.parent / target).exists(), target


def test_readme_commands_are_those_ci_runs() -> None:
    """The two commands of the README install and test the way CI does."""
    readme, ci = (ROOT / "README.md").read_text(), (ROOT / ".ci" / "run").read_text()
    first, second = re.findall(r"^\.venv/bin.*|^python3 -m venv.*", readme, re.MULTILINE)[:2]
    assert "kvcalc compare llama3 deepseek-v2" in first
    assert "torch==2.13.0" in second
    assert "-e . -r requirements-dev.txt" in second
    assert "pip install -q torch==2.13.0".replace("pip ", 'pip" ') in ci
    assert "-e . -r requirements-dev.txt" in ci
    assert second.rpartition("&& ")[2].removeprefix(".venv/bin/python ") in ci


def test_readme_stays_readable() -> None:
    """The README is at most 200 lines."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200
