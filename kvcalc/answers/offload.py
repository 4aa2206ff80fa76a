"""`offload`: what idle sessions take in host memory or on disk, how many fit there, how long they take to come back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from kvcalc.answers.common import Ask, engine_info, header, model_info, prepare
from kvcalc.core.capacity import last_that_fits
from kvcalc.core.exactness import weakest
from kvcalc.core.gpu import Gpu
from kvcalc.core.plan import Load, RankPlan
from kvcalc.planning.links import nanoseconds
from kvcalc.units import MAX_SESSIONS, ceil_div

if TYPE_CHECKING:
    from kvcalc.core.result import TierRow
    from kvcalc.targets import Target

#: LMCache 0.5.6: tokens per chunk (config.py), bytes a chunk is rounded up to (memory_management.py:1338).
CHUNK_TOKENS, CHUNK_ALIGN = 256, 4096


class Tier(NamedTuple):
    """Host memory or disk of all ranks together; rate: bytes per second back to the GPUs, where given."""

    name: str
    capacity_bytes: int
    rate: int | None


class Offload(NamedTuple):
    """chunk_tokens: of the store, 0: exact tokens; tier_dtype: stored in another type."""

    tiers: tuple[Tier, ...] = ()
    chunk_tokens: int = CHUNK_TOKENS
    tier_dtype: str | None = None
    link: int | None = None


def offload(target: Target, ask: Ask, question: Offload, gpu: Gpu | None = None) -> dict[str, Any]:
    """The answer of `kvcalc offload`: -n idle sessions of -c tokens.

    Raises: UsageError, EngineRefusal.
    """
    stored = ask if question.tier_dtype is None else ask._replace(kv_dtype=question.tier_dtype)
    ready = prepare(target, stored, gpu=gpu)
    load = ready.load
    one = _session_bytes(ready.planner.plan(load._replace(sessions=1)).ranks, load, question.chunk_tokens)
    exact = ready.single.plan(Load(load.context_tokens, 1, load.encoder_tokens)).total_bytes
    notes = [*ready.assumptions]
    if question.chunk_tokens:
        notes.append(f"chunks of {question.chunk_tokens:,} tokens, each rounded up to {CHUNK_ALIGN:,} B per rank")
    if len(ready.planner.plan(load).by_rank()) > 1:
        notes.append("every rank stores its own part; replicated latents are stored by each")
    return {
        **header("offload", {**ready.inputs, "tier_dtype": question.tier_dtype, "chunk_tokens": question.chunk_tokens}),
        "model": model_info(target),
        "engine": engine_info(ready.engine, ready.setup.version),
        "exactness": weakest(target.exactness, ready.planner.exactness),
        "assumptions": notes,
        "warnings": ready.warnings,
        "session_bytes": one,
        "copy_bytes": exact,
        "total_bytes": one * load.sessions,
        "reload_ns": None if question.link is None else nanoseconds(one, question.link),
        "results": [_row(tier, one, load.sessions) for tier in question.tiers],
    }


def _session_bytes(ranks: list[RankPlan], load: Load, chunk: int) -> int:
    """One session over all ranks that hold it, in whole aligned chunks where the store has any."""
    held = [(plan.bytes, len(plan.ranks)) for plan in ranks if plan.bytes]
    if not chunk:
        return sum(size * number for size, number in held)
    full = load.context_tokens // chunk
    total = 0
    for size, number in held:
        piece = size * chunk // load.context_tokens
        total += number * (full * _aligned(piece) + _aligned(size - full * piece))
    return total


def _aligned(size: int) -> int:
    return ceil_div(size, CHUNK_ALIGN) * CHUNK_ALIGN


def _row(tier: Tier, session: int, asked: int) -> TierRow:
    held = last_that_fits(lambda number: number * session, tier.capacity_bytes, MAX_SESSIONS)
    return {
        "tier": tier.name,
        "capacity_bytes": tier.capacity_bytes,
        "sessions": held,
        "holds_asked": held is None or held >= asked,
        "reload_ns": None if tier.rate is None else nanoseconds(session, tier.rate),
    }
