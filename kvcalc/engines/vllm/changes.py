"""Which settings buy most: the same model and pool, started otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from kvcalc.core.model import Model
from kvcalc.core.plan import Load, Planner
from kvcalc.engines.base import Setup
from kvcalc.engines.vllm.settings import Settings
from kvcalc.errors import KvcalcError

if TYPE_CHECKING:
    from kvcalc.engines.vllm.planner import VllmPlanner

#: How many changes a report names.
MOST_CHANGES = 3
_LEAST_BATCH = 2048


class Candidate(NamedTuple):
    """A changed option and the flag that sets it; `costs`: what it takes away."""

    options: dict[str, Any]
    flag: str
    costs: str


def candidates(settings: Settings) -> list[Candidate]:
    """Changes that are not made yet."""
    found = []
    if settings.kv_dtype in ("auto", "bfloat16", "float16"):
        found.append(
            Candidate(
                options={"kv_cache_dtype": "fp8"},
                flag="--kv-cache-dtype fp8",
                costs="keys and values in 8 bits",
            )
        )
    if settings.batch_tokens > _LEAST_BATCH:
        found.append(
            Candidate(
                options={"max_num_batched_tokens": _LEAST_BATCH},
                flag=f"--max-num-batched-tokens {_LEAST_BATCH}",
                costs="slower prefill",
            )
        )
    if settings.async_scheduling and settings.rules.in_flight_batches:
        found.append(
            Candidate(
                options={"async_scheduling": False},
                flag="--no-async-scheduling",
                costs="idle GPU between steps",
            )
        )
    if settings.align_states:
        found.append(
            Candidate(
                options={"enable_prefix_caching": False},
                flag="--no-enable-prefix-caching",
                costs="no reuse of shared prompts",
            )
        )
    if not settings.hybrid_manager:
        found.append(
            Candidate(
                options={"disable_hybrid_kv_cache_manager": False},
                flag="without --disable-hybrid-kv-cache-manager",
                costs="nothing",
            )
        )
    if settings.draft_tokens:
        found.append(
            Candidate(options={"num_speculative_tokens": 0}, flag="without speculative decoding", costs="slower decode")
        )
    return found


def best_changes(
    prepare: Callable[[Model, Setup], Planner], planner: VllmPlanner, load: Load, pool_bytes: int
) -> list[dict[str, object]]:
    """The changes that let most sessions of the asked length in, with their effect on bytes and sessions."""

    def measured(started: Setup) -> tuple[int, int]:
        other = prepare(planner.model, started)
        one, none = (
            other.plan(Load(load.context_tokens, count, load.encoder_tokens)).max_rank_bytes for count in (1, 0)
        )
        return one - none, max(pool_bytes - none, 0) // (one - none) if one > none else 0

    setup = planner.setup
    now_bytes, now_sessions = measured(setup)
    records: list[dict[str, Any]] = []
    for candidate in candidates(planner.settings):
        options = {key: value for key, value in setup.options.items() if key not in candidate.options}
        try:
            size, sessions = measured(setup._replace(options=options | candidate.options))
        except KvcalcError:
            continue  # vLLM would refuse it: no advice
        if size < now_bytes:
            record = {"flag": candidate.flag, "costs": candidate.costs, "session_bytes": size}
            record |= {"saved_bytes_per_session": now_bytes - size}
            records.append(record | {"sessions": sessions, "more_sessions": sessions - now_sessions})
    records.sort(key=lambda record: (-int(record["sessions"]), int(record["session_bytes"])))
    return [dict(record) for record in records[:MOST_CHANGES]]
