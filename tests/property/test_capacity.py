"""The inverse answers what the forward function says: bytes(n) <= pool < bytes(n + 1)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from strategies import cache_dtypes, layouts, models
from test_ideal import planner

from kvcalc.core.capacity import last_that_fits, max_context, max_sessions
from kvcalc.core.model import Model
from kvcalc.core.plan import Layout, Load
from kvcalc.engines.base import CacheDtypes
from kvcalc.units import MAX_SESSIONS, MAX_TOKENS

POOLS = st.one_of(st.integers(0, 10**6), st.integers(0, 2**44))
LAYOUTS = layouts(max_tp=6)


@given(
    model=models(),
    dtypes=cache_dtypes(),
    pool=POOLS,
    sessions=st.integers(1, 50),
    layout=LAYOUTS,
    encoder_tokens=st.integers(0, 300),
)
def test_max_context_is_the_last_that_fits(
    *, model: Model, dtypes: CacheDtypes, pool: int, sessions: int, layout: Layout, encoder_tokens: int
) -> None:
    """The longest context fits, one token more does not; None only where the longest of all fits."""
    prepared = planner(model, layout, dtypes)

    def need(tokens: int) -> int:
        return prepared.plan(Load(tokens, sessions, encoder_tokens)).max_rank_bytes

    found = max_context(prepared, pool, sessions=sessions, encoder_tokens=encoder_tokens)
    _holds(need, found, pool, MAX_TOKENS)


@given(
    model=models(),
    dtypes=cache_dtypes(),
    pool=POOLS,
    tokens=st.integers(1, 5000),
    layout=LAYOUTS,
    encoder_tokens=st.integers(0, 300),
)
def test_max_sessions_is_the_last_that_fits(
    *, model: Model, dtypes: CacheDtypes, pool: int, tokens: int, layout: Layout, encoder_tokens: int
) -> None:
    """The largest number of sessions fits, one more does not; None only where the most of all fit."""
    prepared = planner(model, layout, dtypes)

    def need(sessions: int) -> int:
        return prepared.plan(Load(tokens, sessions, encoder_tokens)).max_rank_bytes

    found = max_sessions(prepared, pool, context_tokens=tokens, encoder_tokens=encoder_tokens)
    _holds(need, found, pool, MAX_SESSIONS)


def _holds(need: object, found: int | None, pool: int, most: int) -> None:
    assert callable(need)
    if found is None:
        assert need(most) <= pool
        return
    assert type(found) is int
    assert 0 <= found < most
    assert need(found + 1) > pool
    assert found == 0 or need(found) <= pool


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=60),
    st.integers(0, 3000),
    st.integers(1, 100),
)
def test_search_on_any_staircase(steps: list[int], budget: int, start: int) -> None:
    """On any rising staircase the search agrees with trying every n, wherever it starts."""
    stairs = [sum(steps[: index + 1]) for index in range(len(steps))]
    calls: list[int] = []

    def need(n: int) -> int:
        assert 1 <= n <= len(stairs)
        calls.append(n)
        return stairs[n - 1]

    found = last_that_fits(need, budget, len(stairs), start=start)
    fitting = [n for n in range(1, len(stairs) + 1) if stairs[n - 1] <= budget]
    expected = None if len(fitting) == len(stairs) and len(stairs) > 1 else max(fitting, default=0)
    if len(stairs) > 1:
        assert found == expected


@given(st.integers(1, 10**6), st.integers(0, 10**9), st.integers(0, 2**50), st.integers(1, 10**5))
def test_search_is_logarithmic(rate: int, fixed: int, budget: int, window: int) -> None:
    """A piecewise linear cost is inverted in at most 2 x 40 + a few evaluations (40 = log2 of the range)."""
    calls = 0

    def need(n: int) -> int:
        nonlocal calls
        calls += 1
        return fixed + rate * n + 3 * rate * min(n, window)

    last_that_fits(need, budget, MAX_TOKENS)
    assert calls <= 3 * 40
