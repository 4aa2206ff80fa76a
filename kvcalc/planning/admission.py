"""How each engine admits sessions, and so what a session holds of the pool: blocks as it grows, or a whole slot."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

from kvcalc.core.plan import Load, Planner
from kvcalc.planning.holdings import ByteHoldings, Holdings, SlotHoldings, VllmHoldings

if TYPE_CHECKING:
    from kvcalc.engines.vllm.planner import VllmPlanner

#: Engines that keep memory for the longest session from its start to its end.
_SLOTS = {
    "llamacpp": "llama.cpp gives every slot its whole context: real lengths do not make room for more sessions",
    "exllamav3": "a slot is reserved for the longest session",
    "tensorrt-llm": "GUARANTEED_NO_EVICT reserves the longest output from the start",
}
_OTHERS = {
    "ideal": "admission as in vLLM: a prompt enters when all of it fits, nothing is reserved for its output",
    "sglang": "SGLang reserves part of each output and retracts when it was wrong: vLLM's admission is taken instead",
}
_UNKNOWN = "this engine's admission is not modelled: vLLM's is taken"


class Admission(NamedTuple):
    """holdings: what a session holds; notes: what has to be said; measured: whether the rule was measured here."""

    holdings: Holdings
    notes: tuple[str, ...]
    measured: bool


def admission(engine: str, planner: Planner, *, longest: int, encoder_tokens: int = 0) -> Admission:
    """What a session of `engine` holds. longest: token slots of the longest session."""
    if engine == "vllm":
        note = "a session holds what it uses while it decodes, not the most it may"
        return Admission(VllmHoldings(cast("VllmPlanner", planner)), (note,), measured=True)
    if engine in _SLOTS:
        load = Load(longest, 1, encoder_tokens)
        one = planner.plan(load).max_rank_bytes
        slot = planner.plan(load._replace(sessions=2)).max_rank_bytes - one
        return Admission(SlotHoldings(max(slot, 1), max(one - slot, 0)), (_SLOTS[engine],), measured=False)
    holdings = ByteHoldings(planner, longest=longest, encoder_tokens=encoder_tokens)
    return Admission(holdings, (_OTHERS.get(engine, _UNKNOWN),), measured=False)
