"""What to change, with the effect in bytes. Exact with a model, bounds without one."""

from __future__ import annotations

from math import ceil, floor
from typing import Any

from kvcalc.core.plan import Load
from kvcalc.engines.vllm.report import stage_pools
from kvcalc.errors import KvcalcError
from kvcalc.explain_log.facts import Found
from kvcalc.explain_log.flags import Flags, Log
from kvcalc.explain_log.recompute_vllm import Match
from kvcalc.units import gib

#: Beyond this fraction of the GPU vLLM fails by its driver's and its own untracked memory.
_HIGHEST_UTILIZATION = 0.98
#: Below this fraction of free memory a lower claim is no way out.
_LEAST_FREE = 0.05


def advise(log: Log, matched: Match | None) -> list[dict[str, Any]]:
    """Changes in the order to try them: `change`, `effect`, `bytes` (saved or won per GPU, None: unknown)."""
    if log.engine == "vllm":
        return _vllm(log, matched)
    refusals = _refusals(log)
    if not refusals:
        return []
    if log.engine == "llama.cpp":
        return _llamacpp(log.found, cache="not_enough_kv_memory" in refusals)
    sglang = log.engine == "sglang"
    fraction = "--mem-fraction-static" if sglang else "kv_cache_config.free_gpu_memory_fraction"
    narrow = "--kv-cache-dtype fp8_e4m3" if sglang else "kv_cache_config.dtype fp8"
    return [
        _change(f"raise {fraction}", "each 0.01 gives the pool 1% of the memory it is a fraction of"),
        _change(narrow, "keys and values take half the bytes of 16 bits"),
        _change("more GPUs (tensor parallel)", "weights and KV heads are divided over them"),
    ]


def _refusals(log: Log) -> set[str]:
    return {str(fact.value) for fact in log.found.all("refusal")}


def _change(change: str, effect: str, size: int | None = None) -> dict[str, Any]:
    return {"change": change, "effect": effect, "bytes": size}


def _vllm(log: Log, matched: Match | None) -> list[dict[str, Any]]:
    refusals, found = _refusals(log), log.found
    if "gpu_not_free" in refusals:
        return _not_free(found)
    if "no_kv_memory" in refusals:
        return [
            *_utilization(found, None),
            _change("--max-num-batched-tokens lower", "the activation peak shrinks with it"),
            _change("--tensor-parallel-size higher, or smaller weights", "weights are divided over the GPUs"),
        ]
    refused = "not_enough_kv_memory" in refusals
    changes = [] if matched is None else _by_model(log, matched, refused=refused)
    if not refused:
        return changes
    return [*_shorter(found, matched), *_utilization(found, _missing(found)), *(changes or _by_kind(log.flags))]


def _missing(found: Found) -> int | None:
    """Bytes of one GPU that one request of the longest length lacks."""
    needed, free = found.number("needed_bytes"), found.number("available_bytes")
    if needed is not None and free is not None:
        return needed - free if needed > free else None  # a log that says so contradicts itself
    tokens, length, pool = (found.number(name) for name in ("kv_cache_tokens", "max_model_len", "pool_bytes"))
    # The old wording counts whole blocks of all layers: bytes per token are pool / tokens.
    return ceil((length - tokens) * pool / tokens) if tokens and pool and length and length > tokens else None


def _not_free(found: Found) -> list[dict[str, Any]]:
    free, total, wanted = (found.number(name) for name in ("gpu_free_bytes", "gpu_total_bytes", "requested_bytes"))
    if free is None or not total or wanted is None:
        return [_change("free the GPU, or lower --gpu-memory-utilization", "vLLM claims its share before it loads")]
    changes = [_change("free the GPU", f"other processes hold {gib(total - free)} of it", wanted - free)]
    if free / total >= _LEAST_FREE:
        claim = floor(free / total * 100) / 100
        less = wanted - int(total * claim)
        effect = f"claims less than is free; weights must still fit, and the KV cache gets {gib(less)} less"
        changes.append(_change(f"--gpu-memory-utilization {claim:.2f}", effect, -less))
    return changes


def _shorter(found: Found, matched: Match | None) -> list[dict[str, Any]]:
    """The longest length that starts: vLLM's own estimate, the computed one, or a bound."""
    needed, free, length = (found.number(name) for name in ("needed_bytes", "available_bytes", "max_model_len"))
    missing = _missing(found)
    estimate = found.number("estimated_max_model_len") or found.number("kv_cache_tokens")
    if estimate is not None:
        return [_change(f"--max-model-len {estimate}", "the longest that fits, says vLLM", missing)]
    if matched is not None and free is not None and length is not None:
        pools = stage_pools(matched.planner, free)
        exact = min((stage._replace(usable_bytes=free).longest(length) for stage in pools), default=0)
        if exact:
            return [_change(f"--max-model-len {exact}", "the longest that fits in what is available", missing)]
    if needed and length and free is not None and free > 0:
        bound = length * free // needed
        return [_change(f"--max-model-len below {bound}", "an upper bound: parts of the cache may not shrink", missing)]
    return [_change("--max-model-len lower", "one request of that length must fit")]


def _utilization(found: Found, missing: int | None) -> list[dict[str, Any]]:
    """A higher --gpu-memory-utilization, where it can still be raised."""
    now, total = found.last("gpu_memory_utilization"), found.number("gpu_total_bytes")
    if now is None or not total:
        return [_change("--gpu-memory-utilization higher", "each 0.01 adds 1% of the GPU's memory to the KV cache")]
    if missing is None:
        step = int(total * 0.01)
        return [_change("--gpu-memory-utilization higher", f"each 0.01 adds {gib(step)} to the KV cache", step)]
    wanted = ceil((float(now.value) + missing / total) * 100) / 100
    if wanted > _HIGHEST_UTILIZATION:
        return []
    return [_change(f"--gpu-memory-utilization {wanted:.2f}", "makes room for the missing bytes", missing)]


def _by_model(log: Log, matched: Match, *, refused: bool) -> list[dict[str, Any]]:
    """The engine's own list of settings that save most per request."""
    found = log.found
    length = found.number("max_model_len") or log.flags.whole("max_model_len")
    pool = found.number("pool_bytes") or found.number("available_bytes")
    if length is None or pool is None:
        return []
    try:
        records = matched.planner.changes(Load(length), max(pool, 0))
    except KvcalcError:
        return []
    changes = []
    for record in records:
        size, saved, sessions, more = (
            int(str(record[name])) for name in ("session_bytes", "saved_bytes_per_session", "sessions", "more_sessions")
        )
        effect = f"{sessions} requests of {length:,} tokens instead of {sessions - more}"
        if refused:
            effect = f"one request needs {gib(size)} instead of {gib(size + saved)}"
        changes.append(_change(str(record["flag"]), f"{effect}; costs: {record['costs']}", saved))
    return changes


def _by_kind(flags: Flags) -> list[dict[str, Any]]:
    """Without a model: what usually helps most."""
    changes = []
    if flags.text("kv_cache_dtype") in (None, "auto", "bfloat16", "float16"):
        changes.append(_change("--kv-cache-dtype fp8", "keys and values take half the bytes of 16 bits"))
    changes.append(_change("--tensor-parallel-size higher", "weights and KV heads are divided over the GPUs"))
    return changes


def _llamacpp(found: Found, *, cache: bool) -> list[dict[str, Any]]:
    """cache: the cache itself was too large; otherwise weights or scratch buffers beside it."""
    size = found.number("needed_bytes") if cache else None
    context = found.number("n_ctx")
    shorter = _change(
        "-c lower" if context is None else f"-c {context // 2}",
        "half the cells take half the bytes (states excepted)",
        None if size is None else size // 2,
    )
    types = _change(
        "-ctk q8_0 -ctv q8_0 (Ollama: OLLAMA_KV_CACHE_TYPE=q8_0)",
        "34 bytes instead of 64 per 32 elements of f16",
        None if size is None else size * 30 // 64,
    )
    slots = _change("-np 1 (Ollama: OLLAMA_NUM_PARALLEL=1)", "cells for one slot instead of several")
    if cache:
        return [shorter, types, slots, _change("-nkvo", "the cache stays in the host's memory")]
    scratch = _change("-ub lower", "scratch buffers shrink with the physical batch")
    return [scratch, shorter, _change("-ngl lower", "fewer layers, and less of the cache, on the GPU"), types]
