"""What follows from a log's own numbers, without a model."""

from __future__ import annotations

from kvcalc.explain_log.facts import Found
from kvcalc.explain_log.flags import Flags
from kvcalc.units import gib


def derive(engine: str, found: Found, flags: Flags, *, by_blocks: bool) -> list[dict[str, object]]:
    """Numbers the log implies: bytes per token, what is missing, what the tokens line does not say."""
    if engine == "vllm":
        return [*_shortfall(found), *_vllm(found, flags, by_blocks=by_blocks), *_ledger(found)]
    if engine == "llama.cpp":
        return _llamacpp(found)
    return _per_token(found)


def _record(name: str, value: float, unit: str, why: str) -> dict[str, object]:
    return {"name": name, "value": value, "unit": unit, "why": why}


def _shortfall(found: Found) -> list[dict[str, object]]:
    """How much KV memory is missing for one request of the asked length."""
    needed, free = found.number("needed_bytes"), found.number("available_bytes")
    if needed is not None and free is not None and needed > free:
        missing = needed - free
        return [_record("missing_bytes", missing, "bytes", f"needed less available: {gib(missing)} per GPU")]
    wanted, unused = found.number("requested_bytes"), found.number("gpu_free_bytes")
    if wanted is not None and unused is not None and wanted > unused:
        missing = wanted - unused
        return [_record("missing_bytes", missing, "bytes", f"wanted less free at start: {gib(missing)} on that GPU")]
    tokens, length = found.number("kv_cache_tokens"), found.number("max_model_len")
    if found.first("refusal") is not None and tokens is not None and length is not None and tokens < length:
        return [_record("missing_tokens", length - tokens, "tokens", "max_model_len less the tokens that fit")]
    return []


def _vllm(found: Found, flags: Flags, *, by_blocks: bool) -> list[dict[str, object]]:
    records: list[dict[str, object]] = []
    concurrency, length = found.last("max_concurrency"), found.number("max_model_len")
    tokens, pool, needed = (found.number(name) for name in ("kv_cache_tokens", "pool_bytes", "needed_bytes"))
    if concurrency is not None and length is not None:
        usable = int(float(concurrency.value) * length)
        records.append(_record("full_length_tokens", usable, "tokens", "concurrency x max_model_len"))
        if by_blocks and tokens and tokens < 0.99 * usable:
            records.append(
                _record(
                    "tokens_line_is_low_by",
                    usable / tokens,
                    "fraction",
                    "several groups of layers share the pool: the tokens line of this version divides by their number",
                )
            )
    if pool is not None and tokens:
        records.append(
            _record(
                "bytes_per_printed_token",
                pool / tokens,
                "bytes",
                "pool / tokens: no rate of the model where part of a request's cache does not grow with it",
            )
        )
    if needed is not None and length:
        records.append(_record("bytes_per_token_needed", needed / length, "bytes", "needed / max_model_len"))
    blocks, block = found.number("num_gpu_blocks"), flags.whole("block_size") or found.number("block_size")
    if blocks is not None and tokens is None:
        why = f"blocks x {block}" if block else "blocks x 16, vLLM's usual block: the log does not state it"
        records.append(_record("block_tokens", blocks * (block or 16), "tokens", why))
    return records


def _ledger(found: Found) -> list[dict[str, object]]:
    """What is left of the requested memory after weights and the profile, as far as the log names them."""
    total, fraction = found.number("gpu_total_bytes"), found.last("gpu_memory_utilization")
    requested = found.number("requested_bytes")
    if requested is None and total is not None and fraction is not None:
        requested = int(total * float(fraction.value))
    names = ("weights_bytes", "activation_bytes", "non_torch_bytes")
    parts = [found.number(name) for name in names]
    if requested is None or any(part is None for part in parts):
        return []
    left = requested - sum(part or 0 for part in parts) - (found.number("cuda_graph_bytes") or 0)
    return [_record("pool_by_ledger_bytes", left, "bytes", "utilization x total, less weights, activations, the rest")]


def _llamacpp(found: Found) -> list[dict[str, object]]:
    records = []
    caches = found.all("cache_bytes")
    states = found.all("state_bytes")
    buffers = found.all("buffer_bytes")
    total = sum(int(fact.value) for fact in (*(caches or buffers), *states))
    if total:
        parts = len(caches or buffers) + len(states)
        records.append(_record("total_bytes", total, "bytes", f"all {parts} cache buffers of the log"))
    cells = found.number("cells") or found.number("full_cells")
    if len(caches) == 1 and cells:
        records.append(_record("bytes_per_cell", int(caches[0].value) / cells, "bytes", "cache / cells"))
    context, slots = found.number("n_ctx"), found.number("n_seq_max")
    if context and slots and slots > 1:
        records.append(_record("tokens_per_slot", context // slots, "tokens", f"n_ctx / {slots} slots"))
    return records


def _per_token(found: Found) -> list[dict[str, object]]:
    tokens = found.number("kv_cache_tokens") or found.number("max_total_num_tokens")
    pool = found.number("pool_bytes")
    if pool is None:
        halves = [found.number(name) for name in ("key_bytes", "value_bytes")]
        pool = None if None in halves else sum(half or 0 for half in halves)
    if not pool or not tokens:
        return []
    return [_record("bytes_per_token", pool / tokens, "bytes", "pool / tokens, on one GPU")]
