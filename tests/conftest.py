"""Shared by all tests: hypothesis runs always, the same examples everywhere unless KVCALC_HYPOTHESIS=explore."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

_QUIET = (HealthCheck.too_slow, HealthCheck.data_too_large)
settings.register_profile(
    "repeatable", derandomize=True, max_examples=50, deadline=None, suppress_health_check=_QUIET, database=None
)
settings.register_profile("explore", deadline=None, suppress_health_check=_QUIET, max_examples=2000)
settings.load_profile(os.environ.get("KVCALC_HYPOTHESIS", "repeatable"))
