"""What changed between vLLM releases in the numbers it prints and the memory it asks for.

One entry per release line, read from its last patch release (0.20 from 0.20.2: 0.20.0 still had the rules of
0.19). Block sizes follow the attention backends of 0.33 for every version: give `-o block_size` where an older
log says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Rules of one release. Sources: the release's v1/core/kv_cache_utils.py and v1/kv_cache_interface.py.

    tokens_by_blocks: `KV cache size` = num_blocks // groups x smallest block, instead of concurrency x length.
    in_flight_batches: windows reserve for every batch in flight, not for one.
    null_block_reserved: the start-up check keeps one block back for the null block.
    check_by_layers: the start-up check adds up layers, without the padding of groups.
    mamba2_checkpoint, gdn_checkpoint: prefix caching keeps one more state block, for the prefill checkpoint.
    hybrid_caching: prefix caching is on by default beside recurrent states.
    pads_attention: attention pages that do not divide the largest are padded, not refused.
    group_ratio: sets of layers below this ratio are padded to the larger one instead of being split.
    gpu_memory_utilization: the default.
    """

    tokens_by_blocks: bool = False
    in_flight_batches: bool = True
    null_block_reserved: bool = True
    check_by_layers: bool = False
    mamba2_checkpoint: bool = True
    gdn_checkpoint: bool = True
    hybrid_caching: bool = True
    pads_attention: bool = True
    group_ratio: float = 1.5
    gpu_memory_utilization: float = 0.92


def _history() -> dict[str, Rules]:
    """Newest first: each line changes what the one above it had."""
    now = Rules()
    v32 = replace(now, gdn_checkpoint=False)
    v31 = replace(v32, mamba2_checkpoint=False)
    v28 = replace(v31, null_block_reserved=False)
    v25 = replace(v28, in_flight_batches=False, hybrid_caching=False)
    v23 = replace(v25, pads_attention=False)
    v19 = replace(v23, tokens_by_blocks=True, gpu_memory_utilization=0.9)
    v17 = replace(v19, group_ratio=1.25)
    v13 = replace(v17, check_by_layers=True)
    v11 = replace(v13, group_ratio=1.0)
    lines = (
        (now, ("0.33",)),
        (v32, ("0.32",)),
        (v31, ("0.31", "0.30", "0.29")),
        (v28, ("0.28", "0.27", "0.26")),
        (v25, ("0.25", "0.24")),
        (v23, ("0.23", "0.22", "0.21", "0.20")),
        (v19, ("0.19", "0.18")),
        (v17, ("0.17", "0.16", "0.15", "0.14")),
        (v13, ("0.13", "0.12")),
        (v11, ("0.11", "0.10", "0.9")),
    )
    return {version: rules for rules, versions in lines for version in versions}


#: release line -> its rules; the first is the default.
RULES: dict[str, Rules] = _history()
