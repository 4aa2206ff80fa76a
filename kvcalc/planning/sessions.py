"""How many sessions of real lengths a pool holds before new requests wait, or running ones are thrown out.

The rule: a running session counts once per step, so its holdings are averaged over its steps (long outputs weigh more
than their number); new requests wait when the sum over sessions exceeds the pool. Preemptions follow from waiting.

Source: 83 experiments with vLLM 0.33's own scheduler, block pool and cache manager (docs/sessions.md); the constant
0.8 was fitted on 47 of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

from kvcalc.planning.holdings import Holdings
from kvcalc.planning.tails import Moments, moments, most_sessions, sums_of
from kvcalc.planning.workload import Lengths, Workload

#: Preemptions per finished request = this x (blocks grown in decode / blocks taken at admission) x chance of waiting.
_PREEMPTED = 0.8
#: A trace's tokens are grouped so that no law has more points than this.
_POINTS = 4096


class Demand(NamedTuple):
    """The law of one running session. law: units -> share of time; admitted, grown: mean units taken at once and
    added while decoding; shared: units that all sessions hold together; longest: of the longest session.
    """

    law: dict[int, float]
    admitted: float
    grown: float
    shared: int
    longest: int
    moments: Moments


class Profile(NamedTuple):
    """A workload on a grid, ready for any holdings: (tokens, share) of prompts, of decode steps, of last slots."""

    starts: list[tuple[int, float]]
    decoding: list[tuple[int, float]]
    ends: list[tuple[int, float]]


def profile_of(workload: Workload, *, points: int = _POINTS) -> Profile:
    """The histograms of a workload with at most about `points` points each."""
    return Profile(
        _thinned(workload.starts, points),
        _decoding(_thinned(workload.starts, points), _thinned(workload.ends, points), points),
        _thinned(workload.ends, points),
    )


def demand_of(workload: Workload, holdings: Holdings, profile: Profile | None = None) -> Demand:
    """The time-weighted law: a request of P and O holds `admit(P)` for one step, then P+1 .. P+O-1 slots.

    profile: of the workload, where many holdings are asked about it.
    """
    profile = profile or profile_of(workload)
    prefix = workload.shared_prompt
    law: dict[int, float] = {}
    admitted = 0.0
    for tokens, share in profile.starts:
        units = holdings.admit(prefix + tokens) - holdings.shared(prefix, prefix)
        law[units] = law.get(units, 0.0) + share
        admitted += share * units
    for tokens, share in profile.decoding:
        units = _own(holdings, prefix, tokens)
        law[units] = law.get(units, 0.0) + share
    first = sum(share * _own(holdings, prefix, tokens) for tokens, share in profile.starts)
    last = sum(share * _own(holdings, prefix, tokens) for tokens, share in profile.ends)
    total = sum(law.values())
    law = {units: share / total for units, share in law.items()}
    longest = max(_own(holdings, prefix, workload.longest), holdings.admit(prefix + max(workload.starts)))
    return Demand(law, admitted, max(last - first, 0.0), holdings.shared_once(prefix), longest, moments(law))


def _own(holdings: Holdings, prefix: int, tokens: int) -> int:
    return holdings.decode(prefix + tokens) - holdings.shared(prefix, prefix + tokens)


def _thinned(lengths: Lengths, points: int) -> list[tuple[int, float]]:
    """At most about `points` lengths: neighbours are joined at their mean."""
    if len(lengths) <= points:
        return sorted(lengths.items())
    return _merged(lengths.items(), max((max(lengths) - min(lengths)) // points, 1))


def _decoding(starts: list[tuple[int, float]], ends: list[tuple[int, float]], points: int) -> list[tuple[int, float]]:
    """(token slots, mean requests per finished request that are there at a step after the first).

    A request is at n slots in decode when its prompt is below n and its last slot is not: begun minus ended.
    """
    events: dict[int, float] = {}
    for tokens, share in starts:
        events[tokens + 1] = events.get(tokens + 1, 0.0) + share
    for tokens, share in ends:
        events[tokens + 1] = events.get(tokens + 1, 0.0) - share
    order = sorted(events)
    step = max((order[-1] - order[0]) // points, 1)
    # An odd step meets block boundaries evenly: a multiple of the block would always round the same way.
    step += step > 1 and step % 2 == 0
    found: list[tuple[int, float]] = []
    running = 0.0
    for here, after in pairwise(order):
        running += events[here]
        if running > 1e-12:
            for start in range(here, after, step):
                width = min(step, after - start)
                found.append((start + width // 2, running * width))
    return found if len(found) <= 2 * points else _merged(found, step)


def _merged(points: Iterable[tuple[int, float]], step: int) -> list[tuple[int, float]]:
    """Points of the same step joined at their mean."""
    joined: dict[int, tuple[float, float]] = {}
    for tokens, share in points:
        weight, moment = joined.get(tokens // step, (0.0, 0.0))
        joined[tokens // step] = (weight + share, moment + share * tokens)
    return sorted((round(moment / weight), weight) for weight, moment in joined.values())


class Targets(NamedTuple):
    """Accepted chances: a new request waits, a finished one was preempted (None: not asked)."""

    wait: float = 0.01
    preempt: float | None = None


class Limits(NamedTuple):
    """Sessions each limit allows; None: it never binds."""

    wait: int | None
    preempt: int | None
    max_num_seqs: int | None
    prefill: int | None
    longest_request: int | None

    def binding(self) -> tuple[int | None, str]:
        """The smallest limit and its name."""
        named = [(value, name) for name, value in self._asdict().items() if value is not None]
        return min(named, default=(None, "none"))


def preempt_chance(demand: Demand, target: float) -> float:
    """The chance of waiting at which preemptions per finished request reach `target`; 1 or more: never."""
    if demand.grown <= 0:
        return math.inf
    return target * demand.admitted / (_PREEMPTED * demand.grown)


def limits_of(
    demand: Demand,
    workload: Workload,
    capacity: int,
    targets: Targets,
    *,
    max_num_seqs: int | None = None,
    batch_tokens: int | None = None,
    exact: bool = True,
) -> Limits:
    """Sessions that `capacity` units (and the scheduler) allow.

    capacity: usable units, shared ones included. exact: by the law itself, else by three moments.
    """
    left = capacity - demand.shared
    chances = [targets.wait]
    if targets.preempt is not None and (chance := preempt_chance(demand, targets.preempt)) < 1:
        chances.append(chance)
    wait, *preempt = most_sessions(demand.law, demand.moments, left, chances, poisson=workload.poisson, exact=exact)
    prefill = None
    if batch_tokens is not None:
        prefill = int(batch_tokens * workload.mean_output / (workload.mean_prompt + workload.mean_output))
    # A request larger than the pool waits for ever, and all behind it.
    longest = None if demand.longest <= left else 0
    return Limits(wait, preempt[0] if preempt else None, max_num_seqs, prefill, longest)


class Rates(NamedTuple):
    """At a number of sessions: chance of waiting, preemptions per finished request, units used."""

    wait: float
    preempt: float
    mean_units: float
    p99_units: int | None


def rates_at(demand: Demand, workload: Workload, capacity: int, sessions: int) -> Rates:
    """What happens with `sessions` sessions running; p99 None: beyond the pool."""
    left = max(capacity - demand.shared, 1)
    sums = sums_of(demand.law, demand.moments, left, poisson=workload.poisson)
    wait = sums.overflow(sessions)
    ratio = demand.grown / demand.admitted if demand.admitted else 0.0
    high = sums.quantile(sessions, 0.99)
    return Rates(
        wait,
        _PREEMPTED * ratio * wait,
        sessions * demand.moments.mean + demand.shared,
        None if high is None else high + demand.shared,
    )
