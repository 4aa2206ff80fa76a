"""`transfer`: prefill and decode on different GPUs: bytes of a hand-off, bandwidth for a rate of requests, time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from kvcalc.answers.common import Ask, engine_info, header, model_info, prepare
from kvcalc.core.exactness import weakest
from kvcalc.core.gpu import Gpu
from kvcalc.core.plan import Load
from kvcalc.planning.links import nanoseconds
from kvcalc.units import ceil_div

if TYPE_CHECKING:
    from kvcalc.targets import Target


class Transfer(NamedTuple):
    """rate: requests per second, in thousandths; link: bytes per second."""

    milli_rate: int | None = None
    link: int | None = None


def transfer(target: Target, ask: Ask, question: Transfer, gpu: Gpu | None = None) -> dict[str, Any]:
    """The answer of `kvcalc transfer`: one prompt of -c tokens is handed to the decode side.

    Raises: UsageError, EngineRefusal.
    """
    ready = prepare(target, ask, gpu=gpu)
    load = Load(ready.load.context_tokens, 1, ready.load.encoder_tokens)
    copy = ready.single.plan(load).total_bytes
    received = ready.planner.plan(load)
    # Replicas of data parallelism do not get a copy each: the request goes to one of them.
    all_ranks = received.total_bytes
    per_second = None if question.milli_rate is None else ceil_div(all_ranks * question.milli_rate, 1000)
    time_ns = None if question.link is None else nanoseconds(all_ranks, question.link)
    notes = list(ready.assumptions)
    if all_ranks != copy:
        notes.append("every decode rank gets what it stores: replicated heads and latents are sent to each")
    warnings = list(ready.warnings)
    share = None
    if per_second is not None and question.link is not None:
        share = per_second / question.link
        if share > 1:
            warnings.append(f"the link carries {1 / share:.0%} of it: lower the rate, or add links")
    return {
        **header("transfer", {**ready.inputs, "milli_rate": question.milli_rate, "link": question.link}),
        "model": model_info(target),
        "engine": engine_info(ready.engine, ready.setup.version),
        "exactness": weakest(target.exactness, ready.planner.exactness),
        "assumptions": notes,
        "warnings": warnings,
        "copy_bytes": copy,
        "handoff_bytes": all_ranks,
        "rank_bytes": received.max_rank_bytes,
        "bytes_per_second": per_second,
        "handoff_ns": time_ns,
        "link_share": share,
        "milli_requests_per_second": None if question.link is None else question.link * 1000 // max(all_ranks, 1),
        "milli_in_flight": _in_flight(question, time_ns),
    }


def _in_flight(question: Transfer, time_ns: int | None) -> int | None:
    """Hand-offs under way at a time, in thousandths: what the decode side must have room for (Little's law)."""
    if time_ns is None or question.milli_rate is None:
        return None
    return ceil_div(time_ns * question.milli_rate, 10**9)
