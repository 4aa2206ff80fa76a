"""SGLang: every `KV Cache is allocated` line against the pools of the sglang engine."""

from __future__ import annotations

from typing import Any

from kvcalc.core.model import Model
from kvcalc.core.plan import Layout
from kvcalc.engines.base import CacheDtypes, Setup
from kvcalc.engines.sglang import ENGINE
from kvcalc.engines.sglang.planner import SglangPlanner
from kvcalc.engines.sglang.pools import Pool
from kvcalc.errors import KvcalcError
from kvcalc.explain_log.compare import EIGHT_BITS, UNEXPLAINED, Computed, agrees, record
from kvcalc.explain_log.facts import Fact
from kvcalc.explain_log.flags import Log, logged_dtype

_DEGREES = (1, 2, 4, 8)
#: Every pool has one page more than its tokens; the attention backend chooses the page, and the log does not say it.
_LARGEST_PAGE = 128


def recompute_sglang(log: Log, model: Model, notes: list[str]) -> list[dict[str, Any]]:
    """K and V of each allocated pool, from its printed tokens.

    Raises: KvcalcError where the rules do not take the model.
    """
    pools = _allocated(log)
    if not pools:
        notes.append("the log has no allocated pool to compare with the model")
        return []
    tp, dtype = log.flags.whole("tp") or 1, logged_dtype(log.flags, model, notes)
    planner = _prepare(log, model, tp, dtype)
    notes.extend(planner.assumptions)
    if log.flags.text("tp") is None:
        notes.append("tensor parallel 1: the log does not state it")
    rows = [record(fact, found) for facts in pools for fact, found in _computed(planner, facts)]
    if any(row["verdict"] == "differs" for row in rows):
        why = _cause(log, model, pools, dtype)
        rows = [row | {"why": why} if row["verdict"] == "differs" else row for row in rows]
    return rows


def _allocated(log: Log) -> list[list[Fact]]:
    """Facts of each line that prints a pool: its tokens first, then its sizes."""
    lines: dict[int, list[Fact]] = {}
    for fact in log.found.facts:
        if fact.name in ("kv_cache_tokens", "key_bytes", "value_bytes", "pool_bytes"):
            lines.setdefault(fact.line, []).append(fact)
    return [facts for facts in lines.values() if len(facts) > 1]


def _prepare(log: Log, model: Model, tp: int, dtype: str) -> SglangPlanner:
    types = CacheDtypes(key=dtype, value=dtype, index=dtype, pending=model.dtype, conv=model.dtype, state="float32")
    options = {"dp_size": dp} if (dp := log.flags.whole("dp")) else {}
    setup = Setup(ENGINE.versions[0], types, Layout(tp=tp), options, log.gpu)
    return ENGINE.prepare(model, setup)


def _computed(planner: SglangPlanner, facts: list[Fact]) -> list[tuple[Fact, Computed]]:
    """The sizes of the pool that fits the line best: a model of two kinds of layers has two pools."""
    tokens = next(int(fact.value) for fact in facts if fact.name == "kv_cache_tokens")
    page = planner.settings.page
    largest = _LARGEST_PAGE if page == 1 else page  # other pages are what the pool itself demands
    candidates = []
    for stage in planner.stages:
        for pool, _ in stage.pools:
            low, high = (_sizes(pool, tokens, size) for size in (page, largest))
            candidates.append(
                [(fact, Computed(fact.name, low[fact.name], high[fact.name])) for fact in facts if fact.name in low]
            )
    return max(candidates, key=lambda rows: sum(agrees(fact, found) for fact, found in rows), default=[])


def _sizes(pool: Pool, tokens: int, page: int) -> dict[str, int]:
    """What the line prints: K and V, or both in one."""
    key, value = pool.logged_bytes(tokens, page)
    return {"key_bytes": key, "value_bytes": value, "pool_bytes": key + value}


def _cause(log: Log, model: Model, pools: list[list[Fact]], own: str) -> str:
    """A tensor-parallel degree or an 8-bit cache that would agree."""
    degrees = _DEGREES if log.flags.text("tp") is None else (log.flags.whole("tp") or 1,)
    types = (own, EIGHT_BITS) if log.flags.text("kv_cache_dtype") is None else (own,)
    for dtype in types:
        for tp in degrees:
            try:
                planner = _prepare(log, model, tp, dtype)
            except KvcalcError:
                continue  # SGLang would not have started like this
            rows = [pair for facts in pools for pair in _computed(planner, facts)]
            if rows and all(agrees(fact, found) for fact, found in rows):
                return f"agrees with tensor parallel {tp} and a cache in {dtype}: the log does not state them"
    return UNEXPLAINED
