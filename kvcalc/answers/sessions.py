"""`sessions`: how many sessions of real lengths a pool holds, what binds, and what happens at a given number."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from kvcalc.answers.common import Ask, Prepared, engine_info, header, model_info, prepare
from kvcalc.answers.fit import gpu_info, grown, layout_info, pool_of, tensor_parallel
from kvcalc.core.capacity import Beside, last_that_fits, max_sessions
from kvcalc.core.plan import Load, beyond
from kvcalc.errors import EngineRefusal, UsageError
from kvcalc.planning.admission import Admission, admission
from kvcalc.planning.ledger import Ledger, pool_only
from kvcalc.planning.sessions import Demand, Limits, Targets, demand_of, limits_of, rates_at
from kvcalc.units import MAX_BYTES, ceil_div

if TYPE_CHECKING:
    from kvcalc.core.gpu import Gpu
    from kvcalc.core.result import SessionLimits, SessionLoad, SessionsRecord, WorkloadInfo
    from kvcalc.planning.workload import Workload
    from kvcalc.targets import Target


#: What other engines call the most sessions at once.
_SLOT_OPTIONS = ("max_running_requests", "n_parallel", "num_parallel", "max_parallel_predictions", "max_batch_size")


class Question(NamedTuple):
    """What is asked beside the common options. at: report the rates at this many sessions."""

    workload: Workload
    targets: Targets
    at: int | None = None


class Case(NamedTuple):
    """One model on one pool with one workload: everything that limits are made of."""

    ready: Prepared
    rule: Admission
    ledger: Ledger
    demand: Demand
    caps: Caps
    notes: list[str]
    beside: Beside


def case_of(target: Target, ask: Ask, gpu: Gpu | None, workload: Workload) -> Case:
    """Raises: UsageError, EngineRefusal."""
    tp, notes = tensor_parallel(target, ask, gpu)
    ready = prepare(target, ask, tp=tp, gpu=gpu)
    beside = grown(target, ask, gpu, ready.setup.layout).best
    rule = admission(
        ready.engine.name,
        ready.planner,
        longest=workload.longest + workload.shared_prompt,
        encoder_tokens=ready.load.encoder_tokens,
        beside=beside,
    )
    ledger = _pool(ready, ask, gpu, rule)
    demand = demand_of(rule.seen(workload), rule.holdings)
    return Case(ready, rule, ledger, demand, scheduler_caps(ready, gpu, ask), notes, beside)


def sessions(target: Target, ask: Ask, gpu: Gpu | None, question: Question) -> dict[str, Any]:
    """The answer of `kvcalc sessions`.

    Raises: UsageError, EngineRefusal.
    """
    workload = question.workload
    case = case_of(target, ask, gpu, workload)
    ready, ledger = case.ready, case.ledger
    return {
        **header("sessions", {**ready.inputs, "wait": question.targets.wait, "preempt": question.targets.preempt}),
        "model": model_info(target),
        "engine": engine_info(ready.engine, ready.setup.version),
        "exactness": "estimate",
        "assumptions": [*case.notes, *ready.assumptions, *ledger.assumptions, *workload.notes, *case.rule.notes],
        "warnings": [*ready.warnings, *ledger.warnings, *_warnings(ready, workload)],
        "gpu": None if gpu is None else gpu_info(gpu, ready.setup.layout),
        "layout": layout_info(ready.setup.layout, ep=ask.ep),
        "ledger": list(ledger.lines),
        **held_record(case, question),
    }


def held_record(case: Case, question: Question) -> SessionsRecord:
    """What the pool holds, what binds, and the load that is."""
    ready, ledger, workload = case.ready, case.ledger, question.workload
    limits = _limits(case.demand, case.rule, question, ledger.pool_bytes, case.caps)
    low = _limits(case.demand, case.rule, question, ledger.low_pool_bytes, case.caps)
    replicas = ready.setup.layout.dp
    held, binding = limits.binding()
    longest, worst, full = _bounds(ready, workload, ledger.pool_bytes, case.beside)
    return {
        "pool_bytes": ledger.pool_bytes,
        "pool_low_bytes": ledger.low_pool_bytes,
        "pool_high_bytes": ledger.high_pool_bytes,
        "workload": _described(workload),
        "max_sessions": _times(held, replicas),
        "low_sessions": _times(low.binding()[0], replicas),
        "binding_limit": binding,
        "limits": _listed(limits, replicas),
        **_load(case.demand, case.rule, question, ledger.pool_bytes, (held or 0, replicas)),
        "longest_session_tokens": longest,
        "worst_case_sessions": worst,
        "full_context_sessions": full,
    }


def missing_bytes(case: Case, question: Question, number: int) -> int:
    """How much larger each GPU's pool must be for `number` sessions; 0 where the scheduler, not memory, is short."""
    each = ceil_div(number, case.ready.setup.layout.dp)
    pool, unit = case.ledger.pool_bytes, case.rule.holdings.unit_bytes
    found = _limits(case.demand, case.rule, question, pool, case.caps)
    if any(cap is not None and cap < each for cap in (found.max_num_seqs, found.prefill)):
        return 0

    def held(units: int) -> int:
        limits = _limits(case.demand, case.rule, question, units * unit, Caps(None, None))
        most = limits.binding()[0]
        return each if most is None else most

    short = last_that_fits(held, each - 1, MAX_BYTES // unit, start=max(pool // unit, 2))
    return 0 if short is None else max((short + 1) * unit - pool, 0)


def _pool(ready: Prepared, ask: Ask, gpu: Gpu | None, rule: Admission) -> Ledger:
    """The ledger's pool, or the blocks of the engine's own override."""
    blocks = ready.setup.options.get("num_gpu_blocks_override")
    if blocks and ask.pool_bytes is None and gpu is None:
        return pool_only(blocks * rule.holdings.unit_bytes, "user", "-o num_gpu_blocks_override")
    return pool_of(ready.target, ask, gpu, ready.setup.layout)


class Caps(NamedTuple):
    """The scheduler's own limits, where they are known."""

    max_num_seqs: int | None
    batch_tokens: int | None


def scheduler_caps(ready: Prepared, gpu: Gpu | None, ask: Ask) -> Caps:
    """vLLM's max_num_seqs and max_num_batched_tokens: asked for, else its default on the GPU."""
    if ready.engine.name != "vllm":
        slots = [option for option in ready.engine.options if option.name in _SLOT_OPTIONS]
        most = next((ready.setup.options.get(option.name) or option.default for option in slots), None)
        return Caps(int(most) if most else None, None)
    from kvcalc.engines.vllm.defaults import default_sequences, is_a100, read_version

    asked = ready.setup.options.get("max_num_seqs") or (ask.log.max_num_seqs if ask.log is not None else None)
    if not asked and ready.setup.gpu_bytes is not None and gpu is not None:
        version, a100 = read_version(ready.setup.version), is_a100(gpu.architecture)
        asked = default_sequences(version, ready.setup.gpu_bytes, a100=a100)
    batch = getattr(getattr(ready.planner, "settings", None), "batch_tokens", None)
    return Caps(asked or None, batch)


def _limits(demand: Demand, rule: Admission, question: Question, pool: int, caps: Caps) -> Limits:
    capacity = rule.holdings.capacity(max(pool, 0))
    return limits_of(
        demand,
        question.workload,
        capacity,
        question.targets,
        max_num_seqs=caps.max_num_seqs,
        batch_tokens=caps.batch_tokens,
    )


def _listed(limits: Limits, replicas: int) -> SessionLimits:
    return {
        "wait": _times(limits.wait, replicas),
        "preempt": _times(limits.preempt, replicas),
        "max_num_seqs": _times(limits.max_num_seqs, replicas),
        "prefill": _times(limits.prefill, replicas),
        "longest_request": _times(limits.longest_request, replicas),
    }


def _times(value: int | None, replicas: int) -> int | None:
    return None if value is None else value * replicas


def _load(demand: Demand, rule: Admission, question: Question, pool: int, most: tuple[int, int]) -> SessionLoad:
    """Used blocks and rates at the asked number of sessions, else at the most (per replica, replicas)."""
    held, replicas = most
    at = question.at if question.at is not None else held * replicas
    each = ceil_div(at, replicas)
    unit = rule.holdings.unit_bytes
    capacity = rule.holdings.capacity(max(pool, 0))
    rates = rates_at(demand, question.workload, capacity, each)
    high = capacity if rates.p99_units is None else rates.p99_units
    return {
        "at_sessions": at,
        "wait_rate": rates.wait,
        "preempt_rate": rates.preempt,
        "unit_bytes": unit,
        "pool_blocks": capacity if rule.holdings.paged else None,
        "mean_used_blocks": round(rates.mean_units) if rule.holdings.paged else None,
        "p99_used_blocks": high if rule.holdings.paged else None,
        "mean_used_bytes": round(rates.mean_units * unit),
        "p99_used_bytes": high * unit,
        "mean_session_bytes": round(demand.moments.mean * unit),
        "shared_bytes": demand.shared * unit,
    }


def _bounds(ready: Prepared, workload: Workload, pool: int, beside: Beside) -> tuple[int, int | None, int | None]:
    """Tokens of the longest session; sessions when every one is as long, or as long as the model allows."""
    longest = workload.longest + workload.shared_prompt
    limit = ready.target.model.max_context
    encoder = ready.load.encoder_tokens

    def held(tokens: int) -> int | None:
        return max_sessions(ready.planner, pool, context_tokens=tokens, encoder_tokens=encoder, beside=beside)

    return longest, held(longest), None if limit is None else held(limit)


def _described(workload: Workload) -> WorkloadInfo:
    return {
        "mean_prompt_tokens": round(workload.mean_prompt, 1),
        "mean_output_tokens": round(workload.mean_output, 1),
        "longest_tokens": workload.longest,
        "shared_prompt_tokens": workload.shared_prompt,
        "arrivals": "poisson" if workload.poisson else "closed",
    }


def _warnings(ready: Prepared, workload: Workload) -> list[str]:
    longest, limit = workload.longest + workload.shared_prompt, ready.target.model.max_context
    found = []
    if limit is not None and longest > limit:
        found.append(f"the longest session, {longest:,} tokens, is beyond the model's own {limit:,}")
    with suppress(EngineRefusal):
        if said := beyond(ready.planner, Load(longest, 1, ready.load.encoder_tokens)):
            found.append(f"the longest session does not fit: {said}")
    return found


def need_workload() -> UsageError:
    """The error when no lengths are given."""
    return UsageError(
        "no request lengths are given",
        fix="add --workload FILE, or --input p50=900,p95=3000 --output p50=150,p95=800",
        field="workload",
    )
