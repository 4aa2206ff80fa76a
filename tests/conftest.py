"""Shared by all tests: hypothesis runs always, the same examples everywhere unless KVCALC_HYPOTHESIS=explore.

Tests see nothing of the user's own settings: no models directory, no cache, no colour wishes.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

import pytest
from calling import Call, Done
from hypothesis import HealthCheck, settings

from kvcalc.__main__ import main

_QUIET = (HealthCheck.too_slow, HealthCheck.data_too_large)
settings.register_profile(
    "repeatable", derandomize=True, max_examples=50, deadline=None, suppress_health_check=_QUIET, database=None
)
settings.register_profile("explore", deadline=None, suppress_health_check=_QUIET, max_examples=2000)
settings.load_profile(os.environ.get("KVCALC_HYPOTHESIS", "repeatable"))

for _name in ("KVCALC_MODELS", "KVCALC_DEBUG", "KVCALC_NO_CACHE", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"):
    os.environ.pop(_name, None)
# Tests are collected with the registry, so this cannot wait for a fixture.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="kvcalc-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the command line in this process."""

    def run(*arguments: str) -> Done:
        capsys.readouterr()
        code = main(list(arguments))
        out, err = capsys.readouterr()
        return Done(code, out, err)

    return run
