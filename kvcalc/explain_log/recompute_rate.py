"""TensorRT-LLM: the pool's bytes per token slot against the model's own rate."""

from __future__ import annotations

from typing import Any

from kvcalc.core.component import Linear
from kvcalc.core.model import Model
from kvcalc.core.plan import Layout, Load
from kvcalc.engines.base import CacheDtypes, Setup
from kvcalc.engines.ideal import ENGINE
from kvcalc.explain_log.compare import EIGHT_BITS, UNEXPLAINED, Computed, record
from kvcalc.explain_log.facts import Fact, Found
from kvcalc.explain_log.flags import Log, logged_dtype


def recompute_rate(log: Log, model: Model, notes: list[str]) -> list[dict[str, Any]]:
    """Bytes per token on one GPU, where every layer keeps K and V of every token."""
    rate = pool_rate(log.found)
    if rate is None:
        notes.append("the log has no pool and tokens to compare with the model")
        return []
    components = [component for kind in model.blocks.values() for component in kind.lower()]
    if any(not isinstance(part.law, Linear) or part.role not in ("key", "value") for part in components):
        notes.append("windows, states or an index beside plain attention: this engine's pools are not recomputed")
        return []
    tp = log.flags.whole("tp")
    notes.append(f"tensor parallel {tp}" if tp else "tensor parallel 1: the log does not state it")
    dtype = logged_dtype(log.flags, model, notes)
    rows = [record(rate, _rate(model, tp or 1, dtype))]
    if rows[0]["verdict"] == "differs":
        rows[0]["why"] = _cause(rate, model, None if tp else (2, 4, 8), dtype)
    return rows


def pool_rate(found: Found) -> Fact | None:
    """Pool / tokens with the error of its rounding."""
    tokens = found.last("kv_cache_tokens")
    pool = found.last("pool_bytes")
    if tokens is None or pool is None or isinstance(tokens.value, str) or tokens.value <= 0:
        return None
    rate = float(pool.value) / tokens.value
    # Pools keep a block more than they print: a thousandth covers it from a few thousand tokens on.
    return Fact("bytes_per_token", rate, "bytes", tokens.line, tokens.text, pool.within / tokens.value + rate / 1000)


def _rate(model: Model, tp: int, dtype: str) -> Computed:
    """Bytes one more token takes on the fullest GPU."""
    types = CacheDtypes(
        key=dtype, value=dtype, index=model.dtype, pending=model.dtype, conv=model.dtype, state="float32"
    )  # fmt: skip
    planner = ENGINE.prepare(model, Setup(ENGINE.versions[0], types, Layout(tp=tp)))
    many = 1 << 16
    size = planner.plan(Load(many)).max_rank_bytes / many
    return Computed("bytes_per_token", size, size)


def _cause(rate: Fact, model: Model, degrees: tuple[int, ...] | None, dtype: str) -> str:
    """A tensor-parallel degree or an 8-bit cache that would agree."""
    for tp in (1, *(degrees or ())):
        for name in dict.fromkeys((dtype, EIGHT_BITS)):
            row = record(rate, _rate(model, tp, name))
            if row["verdict"] == "agrees":
                said = f"tensor parallel {tp}" + (f" and a cache in {name}" if name != dtype else "")
                return f"agrees with {said}, which the log does not state"
    return UNEXPLAINED
