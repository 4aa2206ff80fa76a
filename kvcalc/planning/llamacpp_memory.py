"""llama.cpp's ledger: model buffer and compute buffer; whatever else is free can hold the cache.

Source: llama.cpp 0c1e57098, compute buffers of 5 logged starts: two Mistral-7B cases to the MiB, others -4 to +5 %.
One GPU, all layers on it; encoders are not covered.
"""

from __future__ import annotations

from kvcalc.core.model import Model
from kvcalc.planning.amount import band, exactly
from kvcalc.planning.ledger import LedgerAsk, Rest, refuse, user_overhead, weights_of
from kvcalc.units import GIB

_UBATCH = 512
#: The same option in llama.cpp, LM Studio and Ollama.
_CONTEXTS, _BATCHES = ("n_ctx", "context_length"), ("n_ubatch", "eval_batch_size", "num_batch")
_FLASH = ("flash_attn", "flash_attention")
#: Context of the GPU's runtime and cuBLAS workspace.
_CONTEXT = (4 * GIB // 10, GIB // 10, GIB)


def compute_buffer(
    *, ubatch: int, embedding: int, heads: int, vocab: int, context: int, flash: bool, outputs: int
) -> int:
    """Bytes of the compute buffer; outputs: rows with logits (n_ubatch for CLI and bench, slots for the server).

    >>> compute_buffer(ubatch=512, embedding=4096, heads=32, vocab=32000, context=2048, flash=False, outputs=512) >> 20
    164
    """
    logits = 4 * outputs * vocab
    if flash:
        return 16 * ubatch * embedding + 2 * ubatch * context + logits
    return 16 * ubatch * embedding + max(4 * ubatch * context * (heads + 1), logits)


def engine_rest(ask: LedgerAsk, total: int) -> Rest:  # noqa: ARG001 - every engine is asked alike
    """The lines beside the total.

    Raises: UsageError where the model does not say its widths.
    """
    weights = weights_of(ask)
    log = ask.log
    if log is not None and log.weights_bytes is not None:
        weights = exactly(log.weights_bytes, "log", "model buffer size", "measured")
    if ask.overhead_bytes is not None:
        return Rest([("weights", weights), ("overhead", user_overhead(ask.overhead_bytes))], [], [], [])
    best, low, high = _CONTEXT
    lines = [("weights", weights), ("context", band(best, low, high, "band", "CUDA or Metal context, workspaces"))]
    notes = [] if ask.layout.ranks == 1 else ["compute buffer as on one GPU: it was measured with all layers on one"]
    if log is not None and log.compute_bytes is not None:
        lines.append(("compute buffer", exactly(log.compute_bytes, "log", "compute buffer size", "measured")))
        return Rest(lines, notes, [], [])
    heads = _heads(ask.model)
    if not (ask.model.hidden_size and ask.model.vocab_size and heads):
        raise refuse(ask, "the model says no hidden_size, vocab_size or heads")
    context = _option(ask, _CONTEXTS) or ask.load.context_tokens * max(ask.load.sessions, 1)
    ubatch = min(_option(ask, _BATCHES) or _usual_batch(ask.engine, context), max(context, 1))
    flash = not any(ask.options.get(name) in (False, "off") for name in _FLASH)
    size = compute_buffer(
        ubatch=ubatch,
        embedding=ask.model.hidden_size,
        heads=heads,
        vocab=ask.model.vocab_size,
        context=context,
        flash=flash,
        outputs=ubatch,
    )
    buffer = band(size, size * 80 // 100, size * 135 // 100, "formula", f"n_ubatch {ubatch}, n_ctx {context:,}")
    levers = [(f"n_ubatch {ubatch} -> 128", {"n_ubatch": 128})] if ubatch > 128 and ask.engine == "llama.cpp" else []
    return Rest([*lines, ("compute buffer", buffer)], notes, [], levers)


def _option(ask: LedgerAsk, names: tuple[str, ...]) -> int | None:
    return next((int(ask.options[name]) for name in names if ask.options.get(name)), None)


def _usual_batch(engine: str, context: int) -> int:
    """n_ubatch of llama.cpp and LM Studio; Ollama's grows with the context (server/sched.go:801-866)."""
    if engine != "ollama" or context <= 4096:
        return _UBATCH
    return 1024 if context <= 32768 else 2048


def _heads(model: Model) -> int:
    return max((int(getattr(kind, "heads", 0) or 0) for kind in model.blocks.values()), default=0)
