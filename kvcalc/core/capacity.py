"""The inverse: how long a context, how many sessions a pool holds. Found from the forward function, never
from a formula of its own.

Bytes never shrink with context or sessions, so the answer is the last n that fits. The search interpolates
between two evaluated points (bytes are piecewise linear, so it usually lands at once) and falls back to
halving, which bounds it by O(log n) evaluations.
"""

from __future__ import annotations

from collections.abc import Callable

from kvcalc.core.light import NamedTuple
from kvcalc.core.plan import Load, Planner, beyond
from kvcalc.errors import EngineRefusal
from kvcalc.units import MAX_BYTES, MAX_SESSIONS, MAX_TOKENS


def last_that_fits(need: Callable[[int], int], budget: int, most: int, *, start: int = 4096) -> int | None:
    """Largest n in [1, most] with need(n) <= budget; 0 when not even 1 fits, None when `most` still fits.

    need: bytes for n, monotone.

    >>> last_that_fits(lambda n: 10 * n + 3, 100, 1000)
    9
    """
    low, low_bytes = 1, need(1)
    if low_bytes > budget:
        return 0
    high = min(max(start, 2), most)
    while (high_bytes := need(high)) <= budget:
        if high >= most:
            return None
        low, low_bytes = high, high_bytes
        grown = high_bytes // high or 1
        # Aim just past where today's mean rate would end; at least double, so that flat stretches end too.
        high = min(max(2 * high, budget // grown + 1), most)
    halve = False
    while high - low > 1:
        if halve:
            middle = (low + high) // 2
        else:  # low_bytes <= budget < high_bytes: never below low, never as far as high
            middle = max(low + (budget - low_bytes) * (high - low) // (high_bytes - low_bytes), low + 1)
        size, before = need(middle), high - low
        if size <= budget:
            low, low_bytes = middle, size
            # The guess is usually the answer itself: look at its neighbour before narrowing further.
            if high - low > 1:
                beside = need(low + 1)
                if beside > budget:
                    return low
                low, low_bytes = low + 1, beside
        else:
            high, high_bytes = middle, size
        halve = (high - low) * 2 > before
    return low


#: What a load takes of the pool beside the cache: buffers that grow with it.
Beside = Callable[[Load], int]


def nothing(_: Load) -> int:
    """No such buffer."""
    return 0


def max_context(
    planner: Planner, pool_bytes: int, *, sessions: int = 1, encoder_tokens: int = 0, beside: Beside = nothing
) -> int | None:
    """Longest context `sessions` equal sessions can have in `pool_bytes` per GPU; None when unlimited."""

    def need(tokens: int) -> int:
        load = Load(tokens, sessions, encoder_tokens)
        try:
            if beyond(planner, load) is not None:
                return MAX_BYTES
            return planner.plan(load).max_rank_bytes + beside(load)
        except EngineRefusal:
            return 0  # engines refuse contexts that are too short, never too long ones

    return last_that_fits(need, pool_bytes, MAX_TOKENS)


def max_sessions(
    planner: Planner, pool_bytes: int, *, context_tokens: int, encoder_tokens: int = 0, beside: Beside = nothing
) -> int | None:
    """Most sessions of `context_tokens` tokens that `pool_bytes` per GPU holds; None when unlimited."""

    def need(sessions: int) -> int:
        load = Load(context_tokens, sessions, encoder_tokens)
        try:
            if beyond(planner, load) is not None:
                return MAX_BYTES
            return planner.plan(load).max_rank_bytes + beside(load)
        except EngineRefusal:
            return MAX_BYTES  # more sessions than the engine serves fit no pool

    return last_that_fits(need, pool_bytes, MAX_SESSIONS, start=64)


class Growth(NamedTuple):
    """Bytes of one session far from its beginning: `fixed_bytes` + `marginal_bytes` x tokens.

    The line is exact at multiples of `period_tokens` from `saturation_tokens` on.
    `marginal_bytes` is the rate rounded up to a whole byte (a stride may not divide it).
    """

    fixed_bytes: int
    marginal_bytes: int
    period_tokens: int
    saturation_tokens: int


def growth(planner: Planner, *, encoder_tokens: int = 0) -> Growth:
    """Fixed and marginal cost of one session over all ranks, in the limit of long contexts."""
    period = planner.period_tokens
    periods = planner.saturation_tokens // period + 1
    first = planner.plan(Load(periods * period, 1, encoder_tokens)).total_bytes
    added = planner.plan(Load((periods + 1) * period, 1, encoder_tokens)).total_bytes - first
    return Growth(first - periods * added, -(-added // period), period, planner.saturation_tokens)
