"""Architectures whose caches were counted in the real code and found equal (tests/conformance/transformers)."""

from __future__ import annotations

VERIFIED: frozenset[str] = frozenset()
