"""What changed between vLLM releases in the numbers it prints and the memory it asks for.

Each release is a set of rules; a version between two of them has the rules of the older one.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Rules of one release.

    tokens_by_blocks: `KV cache size` = num_blocks // groups x smallest block, instead of concurrency x length.
    in_flight_batches: windows reserve for every batch in flight (from there on), for one batch before.
    null_block_reserved: the start-up check keeps one block back for the null block.
    checkpoint_blocks: prefix caching keeps one more state block for the prefill checkpoint.
    gpu_memory_utilization: the default.
    """

    tokens_by_blocks: bool
    in_flight_batches: bool
    null_block_reserved: bool
    checkpoint_blocks: bool
    gpu_memory_utilization: float


_NOW = Rules(
    tokens_by_blocks=False,
    in_flight_batches=True,
    null_block_reserved=True,
    checkpoint_blocks=True,
    gpu_memory_utilization=0.92,
)

#: newest first; the first is the default.
RULES: dict[str, Rules] = {"0.33": _NOW}


def rules_of(version: str) -> Rules:
    return RULES[version]
