"""The Python API answers what the command line answers."""

from __future__ import annotations

import json

import pytest
from calling import Call

import kvcalc


def test_cache_equals_the_command(call: Call) -> None:
    """`load(...).answer(...)` is the JSON of `kvcalc size`."""
    said = call("size", "gemma3-27b", "-c", "128k", "-n", "4", "--kv-dtype", "fp8", "--tp", "2", "--json").out
    answer = kvcalc.load("gemma3-27b").answer("128k", 4, kv_dtype="fp8", tp=2)
    assert answer == json.loads(said)


def test_published_bytes() -> None:
    """Llama-3-8B keeps 128 KiB a token in bf16 (32 layers x 2 x 8 heads x 128 x 2 B)."""
    model = kvcalc.load("llama3")
    assert model.cache(1).bytes == 131072
    assert model.cache("128k", 4).bytes == 4 * 16 * 2**30
    assert model.max_context("16GiB") == 131072
    assert model.max_sessions("16GiB", "8k") == 16
    assert kvcalc.load("mamba2").max_context("1GiB") is None


def test_planner_is_made_once() -> None:
    """A sweep over contexts prepares each engine and layout once."""
    model = kvcalc.load("llama3")
    assert model.prepare(tp=2) is model.prepare(tp=2)
    assert model.prepare(tp=2) is not model.prepare(tp=4)


@pytest.mark.parametrize(
    ("context", "sessions"), [(0, 1), (-1, 1), (True, 1), (1.5, 1), ("abc", 1), (1, 0), (1, 2**40)]
)
def test_impossible_loads_are_refused(context: int, sessions: int) -> None:
    """A load that cannot exist is an error, not a number."""
    with pytest.raises(kvcalc.KvcalcError):
        kvcalc.load("llama3").cache(context, sessions)


def test_notebook_shows_the_components() -> None:
    """The HTML form names every array and its bytes."""
    html = kvcalc.load("deepseek-v2").cache(1)._repr_html_()
    assert "latent" in html
    assert "61,440" in html  # 60 layers x 512 x 2 B


def test_unknown_attribute() -> None:
    """The lazy module says what it does not have."""
    with pytest.raises(AttributeError, match="nothing"):
        _ = kvcalc.nothing
