"""Until full: the largest context and the most sessions that really allocate under a limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypedDict

from kvcalc.core.capacity import last_that_fits, max_context, max_sessions
from kvcalc.core.plan import CachePlan, Load, Planner, RankPlan
from kvcalc.errors import CannotMeasure
from kvcalc.measure.report import Need, need_of
from kvcalc.measure.torch_backend import Device, OutOfRoom, stored_as
from kvcalc.units import MAX_SESSIONS, MAX_TOKENS, MIB, gib

if TYPE_CHECKING:
    from kvcalc.core.result import FullRecord

#: Without --limit: left free on a card for kernels and other processes.
HEADROOM_BYTES = 256 * MIB

#: Called before every try: what is searched, the load of this try, how many tries there were.
Progress = Callable[[str, int, int], None]


def until_full(
    planner: Planner, load: Load, device: Device, *, limit_bytes: int | None = None, progress: Progress | None = None
) -> FullRecord:
    """Allocate more and more until it fails; compare the boundary with the prediction.

    limit_bytes: memory that the cache may take; None: what the device has free, less a headroom.

    Raises: CannotMeasure when the limit is above what is free.
    """
    limit, limit_is = _limit(device, limit_bytes)
    search = _Search(device, limit, progress)

    def with_tokens(tokens: int) -> CachePlan:
        return planner.plan(load._replace(context_tokens=tokens))

    def with_sessions(sessions: int) -> CachePlan:
        return planner.plan(load._replace(sessions=sessions))

    context = search.largest("context", with_tokens, MAX_TOKENS)
    sessions = search.largest("sessions", with_sessions, MAX_SESSIONS)
    return compare(
        planner,
        load,
        device.need_bytes,
        {"limit_bytes": limit, "limit_is": limit_is, "tries": search.tries},
        found=(context, sessions),
    )


class _Run(TypedDict):
    limit_bytes: int
    limit_is: str
    tries: int


def compare(
    planner: Planner, load: Load, need_bytes: Need, run: _Run, *, found: tuple[int | None, int | None]
) -> FullRecord:
    """The boundaries (context, sessions) that were found, beside what the plan and the allocator's rules predict."""
    limit = run["limit_bytes"]

    def need(asked: Load) -> int:
        return need_of(planner, asked, need_bytes)

    tokens = last_that_fits(lambda n: need(load._replace(context_tokens=n)), limit, MAX_TOKENS)
    sessions = last_that_fits(lambda n: need(load._replace(sessions=n)), limit, MAX_SESSIONS)
    return {
        **run,
        "max_context_tokens": found[0],
        "predicted_max_context_tokens": tokens,
        "formula_max_context_tokens": max_context(
            planner, limit, sessions=load.sessions, encoder_tokens=load.encoder_tokens
        ),
        "max_sessions": found[1],
        "predicted_max_sessions": sessions,
        "formula_max_sessions": max_sessions(
            planner, limit, context_tokens=load.context_tokens, encoder_tokens=load.encoder_tokens
        ),
        "equal": found == (tokens, sessions),
    }


def _limit(device: Device, asked: int | None) -> tuple[int, str]:
    """The byte limit and what it is. Raises: CannotMeasure."""
    free = device.free_bytes()
    if asked is not None:
        if free is not None and asked > free:
            raise CannotMeasure(
                f"the limit of {gib(asked)} is above what {device.name} has free: {gib(asked - free)} are missing",
                fix=f"--limit {free} is the most",
                field="limit",
            )
        return asked, "--limit"
    if free is None or not device.name.startswith("cuda"):
        # A process that fills a machine's memory takes it from every other one.
        raise CannotMeasure(
            f"on {device.name} the limit must be said", fix="add --limit SIZE, like 2GiB", field="limit"
        )
    return max(free - HEADROOM_BYTES, 0) // MIB * MIB, f"free memory less {gib(HEADROOM_BYTES)}"


class _Search:
    """Really allocates plans of growing loads. tries: how many."""

    def __init__(self, device: Device, limit: int, progress: Progress | None) -> None:
        self._device, self._limit, self._progress = device, limit, progress
        self.tries = 0

    def largest(self, what: str, plan_of: Callable[[int], CachePlan], most: int) -> int | None:
        """Largest n that allocates: doubling until one fails, then halving between. None: `most` still allocates."""

        def works(n: int, *, touch: bool = False) -> bool:
            self.tries += 1
            if self._progress is not None:
                self._progress(what, n, self.tries)
            return all(self._allocates(plan, touch=touch) for plan in plan_of(n).ranks)

        low, high = 0, 1
        while works(high):
            low = high
            if high == most:
                return None
            high = min(2 * high, most)
        while high - low > 1:
            middle = (low + high) // 2
            if works(middle):
                low = middle
            else:
                high = middle
        # The answer itself once more, every page written: memory that is there, not only promised.
        if low and not works(low, touch=True):
            raise CannotMeasure(
                f"{what} {low:,} allocates, but its memory cannot be filled",
                fix="something else took the memory: retry",
            )
        return low

    def _allocates(self, plan: RankPlan, *, touch: bool) -> bool:
        if any(stored_as(tensor).bytes > self._limit for tensor in plan.tensors):
            return False  # shapes beyond what torch can express need no try
        try:
            with self._device.hold(self._limit) as held:
                for tensor in plan.tensors:
                    stored = stored_as(tensor)
                    for _ in range(tensor.count):
                        held.add(stored, touch=touch)
        except OutOfRoom:
            return False
        return True
