"""Skips without torch and transformers; with KVCALC_REQUIRE_CONFORMANCE=1 (CI) that is a failure instead."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
MISSING = [name for name in ("torch", "transformers") if find_spec(name) is None]
if MISSING:
    collect_ignore_glob = ["*.py"]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What judges the whole run comes last, whatever order a plugin chose."""
    items.sort(key=lambda item: item.name in ("test_enough_is_measured", "test_published_table_is_this_run"))


def pytest_sessionstart(session: pytest.Session) -> None:
    if not MISSING:
        import torch
        import transformers

        torch.set_num_threads(1)
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        return
    need = (
        f"the transformers conformance suite needs {' and '.join(MISSING)}: pip install -r requirements.txt beside it"
    )
    if os.environ.get("KVCALC_REQUIRE_CONFORMANCE") == "1":
        pytest.exit(need, returncode=1)
    session.config.get_terminal_writer().line(f"SKIPPED: {need}", red=True)
