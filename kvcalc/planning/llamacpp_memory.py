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
#: CUDA context and cuBLAS workspace.
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
    lines = [("weights", weights), ("context", band(best, low, high, "band", "CUDA context and workspaces"))]
    notes: list[str] = []
    if log is not None and log.compute_bytes is not None:
        lines.append(("compute buffer", exactly(log.compute_bytes, "log", "compute buffer size", "measured")))
        return Rest(lines, notes, [], [])
    heads = _heads(ask.model)
    if not (ask.model.hidden_size and ask.model.vocab_size and heads):
        raise refuse(ask, "the model says no hidden_size, vocab_size or heads")
    context = int(ask.options.get("n_ctx") or ask.load.context_tokens * max(ask.load.sessions, 1))
    ubatch = min(int(ask.options.get("n_ubatch") or _UBATCH), max(context, 1))
    flash = ask.options.get("flash_attn") not in (False, "off")
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
    levers = [("n_ubatch 512 -> 128", {"n_ubatch": 128})] if ubatch > 128 else []
    return Rest([*lines, ("compute buffer", buffer)], notes, [], levers)


def _heads(model: Model) -> int:
    return max((int(getattr(kind, "heads", 0) or 0) for kind in model.blocks.values()), default=0)
