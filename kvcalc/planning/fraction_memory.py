"""Engines that give the cache a fraction of what is free after the weights: LMDeploy, TensorRT-LLM.

What profiling takes is not foretold: the overhead is the usual one of other engines' logs. Where the option for the
fraction is given, the engine itself applies it to the pool, so the ledger ends with the free memory.

Source: LMDeploy 0.18 pytorch/engine/executor/base.py:196-256 (0.8); TensorRT-LLM pyexecutor/_util.py
_cal_max_memory (0.9): gpt-oss-120b, 5.949 GiB computed from its log, 5.95 printed.
"""

from __future__ import annotations

from kvcalc.engines.lmdeploy import DEFAULT_BATCHES, DEFAULT_PREFILL, DEFAULT_RATIO
from kvcalc.planning.amount import exactly
from kvcalc.planning.ledger import LedgerAsk, Rest, user_overhead, usual_overhead, weights_of

#: engine -> (its option, its default).
_FRACTIONS = {
    "lmdeploy": ("cache_max_entry_count", DEFAULT_RATIO),
    "tensorrt-llm": ("free_gpu_memory_fraction", 0.9),
}


def engine_rest(ask: LedgerAsk, total: int) -> Rest:
    """The lines beside the total."""
    option, usual = _FRACTIONS[ask.engine]
    overhead = usual_overhead(ask.gpu) if ask.overhead_bytes is None else user_overhead(ask.overhead_bytes)
    lines = [("weights", weights_of(ask)), ("overhead", overhead)]
    if ask.options.get(option) is not None:
        return Rest(lines, [f"{option}: applied by the engine to the free memory shown"], [], [])
    if ask.engine == "lmdeploy" and ask.model.vocab_size is not None:
        tokens = DEFAULT_PREFILL + 2 * DEFAULT_BATCHES
        size = tokens * ask.model.vocab_size * 2
        lines.append(
            ("logits", exactly(size, "formula", f"{tokens:,} tokens of one step x vocabulary x 2 B", "estimate"))
        )
    free = max(total - sum(amount.best for _, amount in lines), 0)
    kept = free - int(free * usual)
    lines.append(("kept free", exactly(kept, "formula", f"1 - {option} {usual:g} of what is left", "estimate")))
    return Rest(lines, [f"{option} {usual:g}: the engine's default"], [], [])
