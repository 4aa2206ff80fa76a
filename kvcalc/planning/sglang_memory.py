"""SGLang's ledger: the engine's own arithmetic, on an estimate of what is free before the weights.

The share that mem_fraction_static leaves out is not lost: activations and CUDA graphs live in it.

Source: SGLang 0.5.23 mem_cache/kv_cache_configurator.py:2990-3060 (budget; what is kept for images and recurrent states
comes out of it, so the engine takes it off). Logs: Qwen3-14B on 4 GPUs, 11.384 GiB computed, 11.38 printed.
"""

from __future__ import annotations

from kvcalc.engines.sglang.launch import default_mem_fraction_static
from kvcalc.planning.amount import Amount, band, exactly
from kvcalc.planning.ledger import LedgerAsk, Rest, refuse, user_overhead, weights_of
from kvcalc.units import GIB, MIB

#: Context and communication buffers before the weights, in hundredths of a GiB (best, low, high): of one rank, of
#: several. Logs: 0.4 to 3 GiB, more with more ranks.
_ONE_RANK, _RANKS = (60, 40, 120), (130, 60, 300)


def engine_rest(ask: LedgerAsk, total: int) -> Rest:
    """The lines beside the total.

    Raises: UsageError for memory shared with the CPU.
    """
    log, notes = ask.log, []
    if ask.gpu.unified_memory and (log is None or log.free_before_bytes is None):
        raise refuse(ask, f"{ask.gpu.product} shares its memory with the CPU")
    weights = _weights(ask)
    if ask.overhead_bytes is not None:
        return Rest([("overhead", user_overhead(ask.overhead_bytes)), ("weights", weights)], [], [], [])
    before = _before(ask, total)
    fraction = ask.options.get("mem_fraction_static") or (log.utilization if log else None)
    if fraction is None:
        latent = any(kind.kind == "mla" for kind in ask.model.blocks.values())
        fraction = default_mem_fraction_static(
            ask.gpu.total_bytes // MIB,
            tp=ask.layout.tp,
            pp=ask.layout.pp,
            latent=latent,
            attn_dp=int(ask.options.get("dp_size") or 1),
            max_running_requests=ask.options.get("max_running_requests"),
            chunked_prefill_size=ask.options.get("chunked_prefill_size"),
        )
        notes.append(f"mem_fraction_static {fraction:g}: SGLang's default on this GPU")
    free = total - before.best
    kept = exactly(free - int(free * fraction), "formula", f"1 - mem_fraction_static {fraction:g} of what is free")
    lines = [("context, communication", before), ("kept for activations, graphs", kept), ("weights", weights)]
    options = {"mem_fraction_static": min(round(fraction + 0.05, 3), 0.95)}
    change = f"mem_fraction_static {fraction:g} -> {options['mem_fraction_static']:g}"
    return Rest(lines, notes, [], [(change, options)])


def _weights(ask: LedgerAsk) -> Amount:
    log = ask.log
    if log is not None and log.free_before_bytes is not None and log.free_after_bytes is not None:
        return exactly(log.free_before_bytes - log.free_after_bytes, "log", "free before and after loading", "measured")
    if log is not None and log.weights_bytes is not None:
        return exactly(log.weights_bytes, "log", "mem usage of Load weight end", "measured")
    return weights_of(ask)


def _before(ask: LedgerAsk, total: int) -> Amount:
    """What is taken before the weights are loaded."""
    log = ask.log
    if log is not None and log.free_before_bytes is not None:
        return exactly(total - log.free_before_bytes, "log", "Load weight begin", "measured")
    if log is not None and log.free_after_bytes is not None and log.weights_bytes is not None:
        size = total - log.free_after_bytes - log.weights_bytes
        return exactly(size, "log", "Load weight end", "measured")
    best, low, high = (size * GIB // 100 for size in (_ONE_RANK if ask.layout.tp == 1 else _RANKS))
    return band(best, low, high, "band", "CUDA context, NCCL: 0.4 to 3 GiB in logs")
