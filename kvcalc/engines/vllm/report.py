"""The numbers of vLLM's start-up log, under its own names, and what they mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvcalc.engines.vllm.grouping import Group
from kvcalc.engines.vllm.pool import Capacity, Pool, longest, shortage
from kvcalc.engines.vllm.spec import SPEC_CLASSES

if TYPE_CHECKING:
    from kvcalc.core.plan import Load
    from kvcalc.engines.vllm.planner import VllmPlanner


def engine_report(planner: VllmPlanner, load: Load, pool_bytes: int | None) -> dict[str, object]:
    """Groups and blocks of one request; with a pool also what vLLM would log, or why it would not start.

    block_size: `cache_config.block_size`; `groups[]` have their own. max_concurrency is an admission bound at
    max_model_len; steady_* is what a request holds while decoding.
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
        record |= _with_pool(planner, length, sum(steady), pool_bytes or 0)
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


def _with_pool(planner: VllmPlanner, length: int, steady: int, pool_bytes: int) -> dict[str, object]:
    stages = [stage.pool_bytes for stage in planner.built.stages if stage.pool_bytes]
    if not planner.built.groups:
        return {"num_gpu_blocks": 1}  # no cache at all: the null block alone
    override = planner.override_blocks
    free = tuple(override * block for block in stages) if override else (pool_bytes,) * len(stages)
    pool = Pool(free, tuple(stages))
    reserve = 1 if planner.settings.rules.null_block_reserved else 0
    refused = shortage(planner.request_blocks, pool, reserve, length)
    fitted = longest(planner.request_blocks, pool, reserve, length)
    usable = pool.num_blocks - 1
    record: dict[str, object] = {
        "num_gpu_blocks": pool.num_blocks,
        "allocated_bytes": [pool.num_blocks * block for block in stages],
        "auto_max_model_len": fitted or None,
        "starts": refused is None,
    }
    if refused is not None:
        record |= {
            "refusal": {
                "message": refused.message,
                "max_model_len": refused.max_model_len,
                "needed_bytes": refused.needed_bytes,
                "available_bytes": refused.available_bytes,
                "estimated_max_model_len": refused.estimated_max_model_len or None,
            }
        }
    at = length if refused is None else fitted
    if at:
        shown = capacity(planner, pool, at)
        record |= {"kv_cache_tokens": shown.kv_cache_tokens, "max_concurrency": shown.max_concurrency}
        record["numbers_at_max_model_len"] = at
    record["steady_sessions"] = max(usable, 0) // steady if steady else None
    return record


def capacity(planner: VllmPlanner, pool: Pool, length: int) -> Capacity:
    """`KV cache size` and `Maximum concurrency` at a length. The null block counts here, though it is not usable."""
    blocks = planner.group_blocks(length)
    concurrency = pool.num_blocks / sum(blocks)
    if planner.settings.rules.tokens_by_blocks:
        smallest = min(spec.block_tokens or length for specs in planner.counters for spec in specs)
        tokens = pool.num_blocks // len(blocks) * smallest * planner.settings.layout.dcp
    else:
        tokens = int(concurrency * length)
    return Capacity(length, tokens, concurrency)
