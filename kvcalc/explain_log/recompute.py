"""With a model: the log's numbers once more, from the engine's rules."""

from __future__ import annotations

from typing import Any

from kvcalc.core.model import Model
from kvcalc.explain_log.flags import Log
from kvcalc.explain_log.recompute_llamacpp import recompute_llamacpp
from kvcalc.explain_log.recompute_rate import recompute_rate
from kvcalc.explain_log.recompute_sglang import recompute_sglang
from kvcalc.explain_log.recompute_vllm import Match, recompute_vllm


def recompute(log: Log, model: Model, matched: Match | None, notes: list[str]) -> list[dict[str, Any]]:
    """Rows of logged and computed numbers with verdict `agrees` or `differs`; what was assumed goes to `notes`.

    matched: of vLLM, see `recompute_vllm.match`.

    Raises: KvcalcError where the engine's rules do not take the model.
    """
    if log.engine == "vllm":
        return recompute_vllm(log, model, matched, notes)
    if log.engine == "llama.cpp":
        return recompute_llamacpp(log.found, model, notes)
    if log.engine == "sglang":
        return recompute_sglang(log, model, notes)
    return recompute_rate(log, model, notes)
