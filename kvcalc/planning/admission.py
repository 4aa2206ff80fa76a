"""How each engine admits sessions, and so what a session holds of the pool: blocks as it grows, or a whole slot."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, cast

from kvcalc.core.capacity import Beside, nothing
from kvcalc.core.plan import Load, Planner
from kvcalc.errors import EngineRefusal
from kvcalc.planning.holdings import ByteHoldings, Holdings, SlotHoldings, VllmHoldings
from kvcalc.planning.workload import Workload
from kvcalc.units import ceil_div

if TYPE_CHECKING:
    from kvcalc.engines.vllm.planner import VllmPlanner

#: Engines that keep memory for the longest session from its start to its end.
_WHOLE = "every slot keeps its whole context: real lengths do not make room for more sessions"
_SLOTS = dict.fromkeys(("llama.cpp", "ollama", "lmstudio"), _WHOLE)
#: Engines that keep memory for a prompt and the longest output from the start.
_RESERVES = {"tensorrt-llm": "GUARANTEED_NO_EVICT reserves the longest output from the start"}
_OTHERS = {
    "ideal": "admission as in vLLM: a prompt enters when all of it fits, nothing is reserved for its output",
    "sglang": "SGLang reserves part of each output and retracts when it was wrong: vLLM's admission is taken instead",
}
_UNKNOWN = "this engine's admission is not modelled: vLLM's is taken"


class Admission(NamedTuple):
    """holdings: what a session holds; notes: what has to be said; reserves: a session takes its longest output, too."""

    holdings: Holdings
    notes: tuple[str, ...]
    reserves: bool = False

    def seen(self, workload: Workload) -> Workload:
        """The lengths as the engine's scheduler counts them."""
        return reserved(workload) if self.reserves else workload


def reserved(workload: Workload) -> Workload:
    """Every session as long from its first step as it could get: its prompt and the longest output."""
    output = workload.longest_output - 1  # the last sampled token is never written
    whole = {prompt + output: share for prompt, share in workload.starts.items()}
    return replace(workload, starts=whole, ends=whole, longest=max(whole))


def _slots(planner: Planner, load: Load, beside: Beside) -> SlotHoldings:
    """One slot, and what is there whatever the number of slots; where slots share one pool, all of it."""

    def need(sessions: int) -> int:
        asked = load._replace(sessions=sessions)
        return planner.plan(asked).max_rank_bytes + beside(asked)

    one, slot = need(1), 0
    with suppress(EngineRefusal):
        slot = ceil_div(need(9) - one, 8)
    return SlotHoldings(slot, max(one - slot, 0)) if slot > 0 else SlotHoldings(one)


def admission(
    engine: str, planner: Planner, *, longest: int, encoder_tokens: int = 0, beside: Beside = nothing
) -> Admission:
    """What a session of `engine` holds. longest: token slots of the longest session; beside: see `max_sessions`."""
    if engine == "vllm":
        note = "a session holds what it uses while it decodes, not the most it may"
        return Admission(VllmHoldings(cast("VllmPlanner", planner)), (note,))
    if engine in _SLOTS:
        return Admission(_slots(planner, Load(longest, 1, encoder_tokens), beside), (_SLOTS[engine],))
    holdings = ByteHoldings(planner, longest=longest, encoder_tokens=encoder_tokens)
    if engine in _RESERVES:
        return Admission(holdings, (_RESERVES[engine],), reserves=True)
    return Admission(holdings, (_OTHERS.get(engine, _UNKNOWN),))
