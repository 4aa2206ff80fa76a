"""What a pool of given bytes yields: blocks, the numbers vLLM logs, and whether it starts.

Source: vLLM 0.33.0 v1/core/kv_cache_planning.py:1288-1592, v1/core/kv_cache_utils.py:1061-1150.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple


class Pool(NamedTuple):
    """One pool. free_bytes: KV memory of each stage's GPU; block_bytes: one block id there."""

    free_bytes: tuple[int, ...]
    block_bytes: tuple[int, ...]

    @property
    def num_blocks(self) -> int:
        """All stages work with the blocks of the one that has fewest."""
        return min(free // block for free, block in zip(self.free_bytes, self.block_bytes, strict=True) if block)


class Capacity(NamedTuple):
    """Numbers of the start-up log at one length."""

    max_model_len: int
    kv_cache_tokens: int
    max_concurrency: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortage:
    """Why vLLM would refuse to start. estimated_max_model_len 0: not even one token fits."""

    max_model_len: int
    needed_bytes: int
    available_bytes: int
    estimated_max_model_len: int

    @property
    def message(self) -> str:
        """The refusal with vLLM's own numbers, rounded to 0.01 GiB as it prints them."""
        needed, free = (f"{round(size / 2**30, 2)} GiB" for size in (self.needed_bytes, self.available_bytes))
        text = f"one request of {self.max_model_len:,} tokens needs {needed} of KV cache, available are {free}"
        if self.estimated_max_model_len:
            return f"{text}; estimated maximum model length {self.estimated_max_model_len:,}"
        return text


def longest(blocks_of: Callable[[int], int], pool: Pool, reserve: int, most: int) -> int:
    """Longest length up to `most` that every stage can hold, 0 for none. reserve: blocks kept back.

    Source: _estimate_max_model_len_from_groups (a bisection over the same predicate as the start-up check).
    """
    usable = min(
        (free // block - reserve for free, block in zip(pool.free_bytes, pool.block_bytes, strict=True) if block),
        default=0,
    )
    if blocks_of(1) > usable:
        return 0
    low, high = 1, most
    while low < high:
        middle = (low + high + 1) // 2
        if blocks_of(middle) <= usable:
            low = middle
        else:
            high = middle - 1
    return low


def shortage(blocks_of: Callable[[int], int], pool: Pool, reserve: int, length: int) -> Shortage | None:
    """The first stage that cannot hold one request of `length` tokens; None when vLLM starts.

    available is what remains after the blocks kept back, as vLLM prints it.
    """
    need = blocks_of(length)
    for free, block in zip(pool.free_bytes, pool.block_bytes, strict=True):
        available = free - reserve * block
        if need * block > available or available <= 0:
            one = Pool((free,), (block,))
            estimate = longest(blocks_of, one, reserve, length) if available > 0 else 0
            return Shortage(
                max_model_len=length,
                needed_bytes=need * block,
                available_bytes=available,
                estimated_max_model_len=estimate,
            )
    return None
