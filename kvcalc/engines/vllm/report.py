"""The numbers of vLLM's start-up log, under its own names, and what they mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvcalc.engines.vllm.grouping import Group
from kvcalc.engines.vllm.pool import StagePool, num_blocks, shortage
from kvcalc.engines.vllm.spec import NULL_BLOCKS, SPEC_CLASSES

if TYPE_CHECKING:
    from kvcalc.core.plan import Load
    from kvcalc.engines.vllm.planner import VllmPlanner


def engine_report(planner: VllmPlanner, load: Load, pool_bytes: int | None) -> dict[str, object]:
    """Groups and blocks of one request; with a pool also what vLLM would log, or why it would not start.

    block_size: `cache_config.block_size`; `groups[]` have their own. max_concurrency: an admission bound, every
    request at max_model_len and its windows full of tokens in flight. sessions_at_context: the same bound at the
    asked context, whole sessions beside the null block. steady_*: what a request holds while it decodes.
    flags: hold exactly the asked load. changes: what would let most more sessions in.
    """
    length = planner.max_model_len or load.context_tokens
    blocks = planner.group_blocks(length)
    steady = planner.steady_blocks(load.context_tokens)
    record: dict[str, object] = {
        "max_model_len": length,
        "block_size": planner.built.block_tokens,
        "kv_cache_layout": planner.built.layout,
        "kv_cache_dtype": planner.settings.kv_dtype,
        "max_num_batched_tokens": planner.settings.batch_tokens,
        "max_in_flight_tokens": planner.settings.in_flight_tokens,
        "enable_prefix_caching": planner.settings.prefix_caching,
        "pool_bytes_per_block": [stage.pool_bytes for stage in planner.built.stages],
        "blocks_per_request": sum(blocks),
        "steady_blocks_per_request": sum(steady),
        "groups": [
            _group(planner, group, held, live, length)
            for group, held, live in zip(planner.built.groups, blocks, steady, strict=True)
        ],
        **_session_bytes(planner, blocks),
    }
    if pool_bytes is not None or planner.override_blocks is not None:
        record |= _with_pool(planner, load, length, sum(steady), pool_bytes or 0)
    return record


def _group(planner: VllmPlanner, group: Group, held: int, live: int, length: int) -> dict[str, object]:
    widest = sum(stage.pool_bytes for stage in planner.built.stages)
    own = sum(layer.spec.page_bytes for layer in group.layers)
    content = sum(layer.spec.content_bytes for layer in group.layers)
    first = group.layers[0].spec
    pages: dict[str, int] = {}
    for layer in group.layers:
        key = f"{SPEC_CLASSES[layer.spec.kind]}:{layer.spec.page_bytes}"
        pages[key] = pages.get(key, 0) + 1
    return {
        "kind": "UniformTypeKVCacheSpecs" if group.mixed else SPEC_CLASSES[first.kind],
        "layers": len(group.layers),
        "layers_per_stage": [
            sum(layer.number in stage.layers for layer in group.layers) for stage in planner.built.stages
        ],
        "layer_indices": [layer.number for layer in group.layers],
        "blocks": list(dict.fromkeys(layer.block for layer in group.layers)),
        "block_size": first.block_tokens or length,
        "page_bytes": group.page_bytes,
        "pages": pages,
        "padding_bytes_per_block": own - content,
        "unused_bytes_per_block": widest - own,
        "blocks_per_request": held,
        "steady_blocks_per_request": live,
    }


def _session_bytes(planner: VllmPlanner, blocks: list[int]) -> dict[str, object]:
    """Pool bytes of one request over all stages: what it may take at once, split into constant and growing."""
    per_block = sum(stage.pool_bytes for stage in planner.built.stages)
    growing = sum(
        held for specs, held in zip(planner.counters, blocks, strict=True) if any(spec.growing for spec in specs)
    )
    period = planner.period_tokens
    per_period = planner.request_blocks(period * 2 + planner.saturation_tokens // period * period) - (
        planner.request_blocks(period + planner.saturation_tokens // period * period)
    )
    return {
        "bytes_per_request": sum(blocks) * per_block,
        "growing_bytes_per_request": growing * per_block,
        "reserved_bytes_per_request": (sum(blocks) - growing) * per_block,
        "bytes_per_period": per_period * per_block,
        "period_tokens": period,
    }


def stage_pools(planner: VllmPlanner, pool_bytes: int) -> list[StagePool]:
    """The pool of every stage that holds layers; `pool_bytes` each, or the blocks of the override."""
    rules = planner.settings.rules
    pools = []
    for stage in planner.built.stages:
        block = stage.pool_bytes
        if not block:
            continue
        free = planner.override_blocks * block if planner.override_blocks else pool_bytes
        usable = free - (NULL_BLOCKS * block if rules.null_block_reserved else 0)
        need = planner.layer_bytes(stage.layers) if rules.check_by_layers else planner.block_need(block)
        pools.append(StagePool(free, block, usable, need))
    return pools


def _with_pool(planner: VllmPlanner, load: Load, length: int, steady: int, pool_bytes: int) -> dict[str, object]:
    stages = stage_pools(planner, pool_bytes)
    if not stages:
        return {"num_gpu_blocks": NULL_BLOCKS, "starts": True}  # no cache at all: the null block alone
    blocks = num_blocks(stages)
    refused = shortage(stages, length)
    fitted = min(stage.longest(length) for stage in stages)
    record: dict[str, object] = {
        "num_gpu_blocks": blocks,
        "allocated_bytes": [blocks * stage.block_bytes for stage in stages],
        "auto_max_model_len": fitted or None,
        "starts": refused is None,
    }
    if refused is not None:
        record["refusal"] = {
            "message": refused.message,
            "max_model_len": refused.max_model_len,
            "needed_bytes": refused.needed_bytes,
            "available_bytes": refused.available_bytes,
            "estimated_max_model_len": refused.estimated_max_model_len or None,
        }
    at = length if refused is None else fitted
    if at:
        tokens, concurrency = capacity(planner, blocks, at)
        record |= {"kv_cache_tokens": tokens, "max_concurrency": concurrency, "numbers_at_max_model_len": at}
    usable = max(blocks - NULL_BLOCKS, 0)
    asked = planner.request_blocks(load.context_tokens)
    return record | {
        "sessions_at_context": usable // asked if asked else None,
        "steady_sessions": usable // steady if steady else None,
        "flags": {
            "--max-model-len": load.context_tokens,
            "--max-num-seqs": load.sessions,
            "--kv-cache-memory-bytes": planner.plan(load).max_rank_bytes,
        },
        "changes": planner.changes(load, min(stage.free_bytes for stage in stages)),
    }


def capacity(planner: VllmPlanner, blocks: int, length: int) -> tuple[int, float]:
    """`KV cache size` in tokens and `Maximum concurrency` at a length. The null block is counted, though not usable."""
    concurrency = blocks / planner.request_blocks(length)
    if not planner.settings.rules.tokens_by_blocks:
        return int(concurrency * length), concurrency
    smallest = min(spec.block_tokens or length for specs in planner.counters for spec in specs)
    return blocks // len(planner.counters) * smallest * planner.settings.layout.dcp, concurrency
