"""vLLM's log against the vllm engine: flags of the log first, then what the log leaves open.

Where a number differs, single and then paired changes of what the log does not state are tried; those that
agree with every number are named as the likely causes.
"""

from __future__ import annotations

from math import ceil, floor
from typing import Any, NamedTuple

from kvcalc.core.model import Model
from kvcalc.engines.vllm.planner import VllmPlanner
from kvcalc.engines.vllm.report import capacity, stage_pools
from kvcalc.engines.vllm.spec import NULL_BLOCKS
from kvcalc.errors import KvcalcError
from kvcalc.explain_log.compare import Computed, record
from kvcalc.explain_log.facts import Fact
from kvcalc.explain_log.flags import Log
from kvcalc.explain_log.vllm_start import Start, logged_start, other_starts, prepare, versions

_COMPARED = (
    "num_gpu_blocks", "kv_cache_tokens", "max_concurrency", "needed_bytes", "estimated_max_model_len",
    "auto_max_model_len", "block_size",
)  # fmt: skip
#: How many causes are named.
_MOST_CAUSES = 3
_UNEXPLAINED = (
    "no setting that the log leaves open explains it: another model or weights, a draft model, or a rank with less "
    "memory than the one printed"
)


class Match(NamedTuple):
    """The start that was compared: one that agrees with every number, where some does."""

    rows: list[dict[str, Any]]
    start: Start
    planner: VllmPlanner


def match(log: Log, model: Model) -> Match | None:
    """The newest rules that agree with every number, else the logged version's with the likely cause.

    Raises: KvcalcError where no rules take the model.
    """
    facts = [fact for name in _COMPARED if (fact := log.found.last(name)) is not None]
    base = logged_start(log)
    refused: KvcalcError | None = None
    first: Match | None = None
    for version in versions(log.found):
        try:
            found = _try(facts, model, base._replace(version=version), log)
        except KvcalcError as error:
            refused = refused or error
            continue
        first = first or found
        if _all_agree(found.rows):
            return found
    if first is None and refused is not None:
        raise refused
    if first is None or not first.rows:
        return first
    return _explained(facts, model, first, log)


def recompute_vllm(log: Log, model: Model, matched: Match | None, notes: list[str]) -> list[dict[str, Any]]:
    """The rows of the comparison."""
    if matched is None or not matched.rows:
        notes.append("the log has no number that follows from the model")
        return []
    if log.found.first("version") is None:
        notes.append(f"version not in the log: rules of vLLM {matched.start.version}")
    if log.found.first("max_model_len") is None:
        notes.append(f"max_model_len not in the log: {_length(log, model):,}")
    notes.extend(matched.planner.assumptions[:-1])
    return matched.rows


def _try(facts: list[Fact], model: Model, start: Start, log: Log) -> Match:
    planner = prepare(model, start)
    values = computed(planner, log)
    return Match([record(fact, values[fact.name]) for fact in facts if fact.name in values], start, planner)


def _all_agree(rows: list[dict[str, Any]]) -> bool:
    return bool(rows) and all(row["verdict"] == "agrees" for row in rows)


def _explained(facts: list[Fact], model: Model, first: Match, log: Log) -> Match:
    """What the log leaves open and would make every number agree."""
    for starts in other_starts(first.start, log):
        agreeing: list[tuple[str, Match]] = []
        for flag, start in starts:
            try:
                found = _try(facts, model, start, log)
            except KvcalcError:
                continue  # vLLM would not have started like this
            if _all_agree(found.rows):
                agreeing.append((flag, found))
            if len(agreeing) == _MOST_CAUSES:
                break
        if agreeing:
            flags = ", or with ".join(flag for flag, _ in agreeing)
            why = f"every number agrees with {flags}: the log does not state it"
            return agreeing[0][1]._replace(rows=_with_why(first.rows, why))
    return first._replace(rows=_with_why(first.rows, _UNEXPLAINED))


def _with_why(rows: list[dict[str, Any]], why: str) -> list[dict[str, Any]]:
    return [row | {"why": why} if row["verdict"] == "differs" else row for row in rows]


def _length(log: Log, model: Model) -> int | None:
    """max_model_len: printed, given as a flag, or vLLM's default, the model's own."""
    printed = log.found.number("max_model_len") or log.flags.whole("max_model_len")
    return printed or log.found.number("asked_max_model_len") or model.max_context


def computed(planner: VllmPlanner, log: Log) -> dict[str, Computed]:
    """Every number that follows from the log's inputs under these rules."""
    found = log.found
    values = [Computed("block_size", planner.built.block_tokens, planner.built.block_tokens)]
    length = _length(log, planner.model)
    pools = stage_pools(planner, 0)
    if length is not None and pools:
        values += _pool_numbers(planner, log, length)
        if found.first("needed_bytes") is not None:
            need = max(stage.need(length) for stage in pools)
            values.append(Computed("needed_bytes", need, need))
        asked = found.number("asked_max_model_len")
        name = "estimated_max_model_len" if asked is None else "auto_max_model_len"
        values += _longest(planner, log, asked or length, name)
    return {value.name: value for value in values}


def _pool_numbers(planner: VllmPlanner, log: Log, length: int) -> list[Computed]:
    """Blocks, tokens and concurrency from the printed pool or blocks; tokens from the concurrency alone."""
    # Ranks print their own memory; the least of it decides.
    pool = min(log.found.all("pool_bytes"), key=lambda fact: fact.value, default=None)
    printed, concurrency = log.found.last("num_gpu_blocks"), log.found.last("max_concurrency")
    values = []
    ends: list[int] = []
    if pool is not None:
        block = max(stage.pool_bytes for stage in planner.built.stages)
        size, slack = int(pool.value), int(pool.within)
        ends = [(size - slack) // block, (size + slack) // block]
        values.append(Computed("num_gpu_blocks", ends[0], ends[1]))
    if printed is not None:
        ends = [int(printed.value)] * 2
    elif pool is None and concurrency is not None:
        request, times, within = planner.request_blocks(length), float(concurrency.value), concurrency.within
        ends = [ceil((times - within) * request), floor((times + within) * request)]
    if ends and NULL_BLOCKS <= ends[0] <= ends[1]:
        (tokens, least), (most_tokens, most) = (capacity(planner, blocks, length) for blocks in ends)
        values += [Computed("kv_cache_tokens", tokens, most_tokens), Computed("max_concurrency", least, most)]
    return values


def _longest(planner: VllmPlanner, log: Log, most: int, name: str) -> list[Computed]:
    """The longest length that the printed free memory holds."""
    free = log.found.last("available_bytes")
    if free is None:
        return []
    low, high = (
        min(stage._replace(usable_bytes=size).longest(most) for stage in stage_pools(planner, 0))
        for size in (int(free.value) - int(free.within), int(free.value) + int(free.within))
    )
    return [Computed(name, low, high)]
