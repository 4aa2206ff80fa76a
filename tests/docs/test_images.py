"""The pictures of the documentation show what the program prints now, and load nothing."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
IMAGES = sorted((ROOT / "docs" / "images").glob("*.svg"))


@pytest.fixture
def screenshot() -> ModuleType:
    """scripts/screenshot.py."""
    spec = importlib.util.spec_from_file_location("kvcalc_screenshot", ROOT / "scripts" / "screenshot.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_screenshot_is_current(screenshot: ModuleType) -> None:
    """Every word and number of the screenshot is what the command prints, and drawing it again changes nothing."""
    kept = screenshot.texts(screenshot.FILE.read_text(encoding="utf-8"))
    assert kept == screenshot.texts(screenshot.drawn()), "run python scripts/screenshot.py"
    assert "131,072" in kept
    assert screenshot.drawn() == screenshot.drawn()


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.name)
def test_images_load_nothing(path: Path) -> None:
    """No font, script or picture of another server is named in an image."""
    text = re.sub(r"<!--.*?-->|xmlns(:\w+)?=\"[^\"]*\"|<metadata>.*?</metadata>", "", path.read_text(), flags=re.DOTALL)
    text = re.sub(r"<!DOCTYPE[^>]*>", "", text)
    assert "http" not in text
    assert "<script" not in text
