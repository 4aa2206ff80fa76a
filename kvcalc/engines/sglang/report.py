"""What SGLang would print and hold with a given KV budget, under its own names.

Source: sglang 0.5.23, srt/mem_cache/kv_cache_configurator.py `configure`; the log lines:
srt/mem_cache/memory_pool.py `_finalize_allocation_log`, `MambaPool`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvcalc.engines.sglang.settings import TORCH
from kvcalc.engines.sglang.sizing import (
    PADDING_SLOT,
    OnePool,
    Sizes,
    States,
    budget_gib,
    max_requests,
    slot_bytes,
    solve_states,
)
from kvcalc.engines.sglang.v4 import V4Pools
from kvcalc.errors import EngineRefusal
from kvcalc.units import GIB

if TYPE_CHECKING:
    from kvcalc.engines.sglang.geometry import State
    from kvcalc.engines.sglang.planner import SglangPlanner, StagePools

#: req_to_token rows are 4 tokens longer than the context: `get_req_to_token_extra_context_len`.
EXTRA_CONTEXT = 4


def build_report(planner: SglangPlanner, pool_bytes: int | None) -> dict[str, object]:
    """The report; without a pool only the prices.

    Raises: EngineRefusal where SGLang would stop at start-up with this budget.
    """
    first = planner.stages[0]
    cells = [stage.rule.cell_size for stage in planner.stages]
    report: dict[str, object] = {"cell_size": _cell(max(cells)), "page_size": planner.settings.page}
    if len(cells) > 1:
        report["cell_sizes"] = [_cell(cell) for cell in cells]
    if isinstance(first.rule, V4Pools):
        report["bytes_per_full_token"] = first.rule.bytes_per_full_token
        report["bytes_per_swa_token"] = first.rule.bytes_per_swa_token
    if planner.geometry.state is not None:
        report["mamba_cache_per_req"] = slot_bytes(planner.geometry, planner.settings)
    if pool_bytes is None:
        return report
    return report | _with_pool(planner, pool_bytes)


def _cell(cell: float) -> int | float:
    return int(cell) if cell == int(cell) else cell


def _with_pool(planner: SglangPlanner, pool_bytes: int) -> dict[str, object]:
    settings = planner.settings
    rest = budget_gib(settings, pool_bytes)
    head = []
    if settings.reserve_mib:
        head.append(
            f"Reserving {settings.reserve_mib / 1024:.2f} GB of the KV budget for post-sizing multimodal allocations "
            "(feature-transport pools + embedding cache)."
        )
    states, rest = solve_states(planner.geometry, settings, rest)
    if rest <= 0:
        raise EngineRefusal("Loaded weights leave no GPU memory for the KV cache", fix="give more memory", field="pool")
    budget = int(rest * GIB)
    profiled = [stage.rule.from_budget(budget) for stage in planner.stages]
    limits = [sizes.tokens for sizes in profiled] + ([settings.max_total] if settings.max_total else [])
    tokens = min(limits)
    sizes = [_constrained(stage, found, tokens) for stage, found in zip(planner.stages, profiled, strict=True)]
    if min(size.tokens for size in sizes) <= 0:
        raise EngineRefusal(
            "Not enough memory. Please try to increase --mem-fraction-static.", fix="give more memory", field="pool"
        )
    requests = max_requests(sizes[0].tokens, settings, states)
    rows = [
        _stage_report(planner, stage, size, requests=requests, states=states, head=head)
        for stage, size in zip(planner.stages, sizes, strict=True)
    ]
    return _totals(planner, rows, sizes[0], requests=requests, states=states, budget=budget)


def _totals(
    planner: SglangPlanner,
    rows: list[dict[str, Any]],
    size: Sizes,
    *,
    requests: int,
    states: States | None,
    budget: int,
) -> dict[str, object]:
    fullest = max(rows, key=lambda row: int(row["allocated_bytes"]))
    found: dict[str, object] = {
        "budget_bytes": budget,
        "max_total_num_tokens": size.tokens,
        "full_max_total_num_tokens": size.full,
        "swa_max_total_num_tokens": size.swa,
        "max_mamba_cache_size": None if states is None else states.slots,
        "max_running_requests": requests,
        "context_len": planner.settings.context_len,
        "allocated_bytes": fullest["allocated_bytes"],
        "req_to_token_bytes": fullest["req_to_token_bytes"],
        "storage": fullest["storage"],
        "log": fullest["log"],
    }
    if isinstance(planner.stages[0].rule, V4Pools):
        found["c4_max_total_num_tokens"] = size.tokens // 4
        found["c128_max_total_num_tokens"] = size.tokens // 128
    if len(rows) > 1:
        found["stages"] = rows
    return found


def _constrained(stage: StagePools, found: Sizes, tokens: int) -> Sizes:
    """The sizes after the user's limit and the other stages; SGLang sizes once more then, and logs twice."""
    if tokens == found.tokens:
        return found
    again = stage.rule.from_tokens(tokens)
    again.log = [*found.log, *again.log]
    return again


def _stage_report(
    planner: SglangPlanner, stage: StagePools, size: Sizes, *, requests: int, states: States | None, head: list[str]
) -> dict[str, Any]:
    """One rank of one stage: storage by SGLang's attribute, and its log."""
    settings, page = planner.settings, planner.settings.page
    storage: dict[str, int] = {}
    log = [*head, *size.log]
    if states is not None and planner.geometry.state is not None:
        _add_states(planner, stage, planner.geometry.state, states, requests, storage=storage, log=log)
    for pool, which in stage.pools:
        count = size.tokens if which == "tokens" else size.swa or 0
        count = size.full if which == "tokens" and size.full is not None else count
        storage |= pool.storage(count, page)
        log.append(pool.log(count, page))
    if isinstance(stage.rule, V4Pools):
        for group, _, ratio, shape, _, item in stage.rule.arrays(size.tokens, size.swa or 0, requests):
            layers = stage.rule.count(ratio)
            storage[f"kv.{group}"] = storage.get(f"kv.{group}", 0) + layers * shape[0] * shape[1] * item
    if not isinstance(stage.rule, OnePool):
        storage["kv.full_to_swa_index_mapping"] = ((size.full or 0) + page + 1) * 8
    rows = requests + 1  # row 0 takes padded requests
    storage["req.req_generation"] = rows * 8
    storage["req.req_to_token"] = rows * (settings.context_len + EXTRA_CONTEXT) * 4
    return {
        "layers": [stage.stage.start, stage.stage.stop],
        "cell_size": _cell(stage.rule.cell_size),
        "allocated_bytes": sum(value for key, value in storage.items() if key.startswith("kv.")),
        "req_to_token_bytes": storage["req.req_to_token"],
        "storage": dict(sorted(storage.items())),
        "log": log,
    }


def _add_states(
    planner: SglangPlanner,
    stage: StagePools,
    state: State,
    states: States,
    requests: int,
    *,
    storage: dict[str, int],
    log: list[str],
) -> None:
    """The state pool of this stage and its bookkeeping: `HybridReqToTokenPool`."""
    settings = planner.settings
    slots = len(stage.stage.states) * (states.slots + PADDING_SLOT)
    conv = slots * state.conv_elements * 2
    temporal = slots * state.temporal_elements * TORCH[settings.state_dtype][1]
    for name, size in (("conv", conv), ("temporal", temporal)):
        if size:
            storage[f"kv.mamba_pool.mamba_cache.{name}"] = size
    storage["req.mamba_allocator.free_slots"] = states.slots * 8
    storage["req.req_index_to_mamba_index_mapping"] = (requests + 1) * 4
    if settings.strategy != "no_buffer":
        tracks = 2 if settings.overlap else 1
        storage["req.req_index_to_mamba_ping_pong_track_buffer_mapping"] = (requests + 1) * tracks * 8
    log.append(
        f"Mamba Cache is allocated. max_mamba_cache_size: {states.slots}, "
        f"conv_state size: {conv / GIB:.2f}GB, ssm_state size: {temporal / GIB:.2f}GB "
    )
