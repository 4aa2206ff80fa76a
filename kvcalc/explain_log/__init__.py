"""Read what an engine printed at start-up, or why it refused, and say what the numbers mean.

`explain` returns plain dicts; it opens no file and prints nothing.
"""

from __future__ import annotations

from typing import Any

from kvcalc.core.model import Model
from kvcalc.errors import KvcalcError, UsageError
from kvcalc.explain_log.advice import advise
from kvcalc.explain_log.derived import derive
from kvcalc.explain_log.facts import Found, Reader, once, split_lines
from kvcalc.explain_log.flags import Log, read_flags
from kvcalc.explain_log.meanings import REFUSALS, meaning
from kvcalc.explain_log.recompute import recompute
from kvcalc.explain_log.recompute_vllm import Match, match
from kvcalc.explain_log.wording import READERS

__all__ = ["explain", "recognise"]


def explain(text: str, *, model: Model | None = None, gpu: str | None = None) -> dict[str, Any]:
    """What a log says, what follows from it, and with a model whether it agrees.

    gpu: architecture like `sm90`, where known. Keys: engine, status, facts[], flags, derived[], comparison[],
    advice[], assumptions[], warnings[].

    Raises: UsageError when no line is recognised.
    """
    lines = split_lines(text)
    reader, found = recognise(lines)
    flags = read_flags(lines)
    log = Log(reader.engine, found, flags, gpu)
    by_blocks = _by_blocks(found)
    notes: list[str] = []
    matched, comparison, warnings = _compared(log, model, notes)
    return {
        "engine": {"name": reader.engine, "version": _text(found, "version")},
        "status": _status(found),
        "refusals": [
            {"reason": str(fact.value), "meaning": REFUSALS[str(fact.value)], "line": fact.line}
            for fact in once(found.all("refusal"))
        ],
        "facts": [
            {**fact.as_dict(), "meaning": meaning(reader.engine, fact.name, by_blocks=by_blocks)}
            for fact in once([fact for fact in found.facts if fact.name != "refusal"])
        ],
        "flags": dict(flags.values),
        "derived": derive(reader.engine, found, flags, by_blocks=by_blocks),
        "comparison": comparison,
        "advice": advise(log, matched),
        "assumptions": notes,
        "warnings": warnings,
    }


def _compared(log: Log, model: Model | None, notes: list[str]) -> tuple[Match | None, list[dict[str, Any]], list[str]]:
    """The comparison with a model; an engine that refuses the model is a warning, the log still reads."""
    if model is None:
        return None, [], ["no model given: nothing was recomputed (add --model)"]
    try:
        matched = match(log, model) if log.engine == "vllm" else None
        return matched, recompute(log, model, matched, notes), []
    except KvcalcError as error:
        return None, [], [f"not recomputed: {error.sentence}"]


def recognise(lines: list[str]) -> tuple[Reader, Found]:
    """The engine with most recognised numbers, and what it says.

    Raises: UsageError when no engine's wording occurs.
    """
    read = [(reader, reader.read(lines)) for reader in READERS]
    best = max(read, key=lambda pair: len(pair[1].facts))
    if not best[1].facts:
        engines = ", ".join(reader.engine for reader in READERS)
        raise UsageError(
            "nothing recognised: no line about a KV cache of an engine kvcalc knows",
            fix=f"paste the start-up log or the error of {engines}; INFO lines included",
            field="log",
        )
    return best


def _status(found: Found) -> str:
    """refused, started, or partial when the log shows neither."""
    if found.first("refusal") is not None:
        return "refused"
    sizes = ["kv_cache_tokens", "max_total_num_tokens", "max_concurrency", "auto_max_model_len", "num_gpu_blocks"]
    sizes += ["cache_bytes", "buffer_bytes"]
    return "started" if any(found.first(name) for name in sizes) else "partial"


def _by_blocks(found: Found) -> bool:
    """vLLM up to 0.19 prints tokens counted from blocks: known from the version, or from the two numbers."""
    version = _text(found, "version")
    if version is not None:
        major, minor = (int(part) for part in version.split(".")[:2])
        return (major, minor) < (0, 20)
    tokens, concurrency, length = (found.last(name) for name in ("kv_cache_tokens", "max_concurrency", "max_model_len"))
    if tokens is None or concurrency is None or length is None:
        return False
    least = (float(concurrency.value) - concurrency.within) * float(length.value)
    return float(tokens.value) < 0.99 * least  # whole blocks account for less than that


def _text(found: Found, name: str) -> str | None:
    fact = found.first(name)
    return None if fact is None else str(fact.value)
