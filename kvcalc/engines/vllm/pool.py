"""What a pool of given bytes yields: blocks, the numbers vLLM logs, and whether it starts.

Source: vLLM 0.33.0 v1/core/kv_cache_planning.py:1288-1592, v1/core/kv_cache_utils.py:1061-1150.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class StagePool(NamedTuple):
    """The pool of one pipeline stage.

    free_bytes: its KV memory; block_bytes: one block id; usable_bytes: what one request may take of it;
    need: bytes one request of so many tokens takes.
    """

    free_bytes: int
    block_bytes: int
    usable_bytes: int
    need: Callable[[int], int]

    def holds(self, tokens: int) -> bool:
        return self.need(tokens) <= self.usable_bytes

    def longest(self, most: int) -> int:
        """Longest length up to `most` it holds, 0 for none.

        Source: _estimate_max_model_len_from_groups (a bisection over the predicate of the start-up check).
        """
        if self.usable_bytes <= 0 or not self.holds(1):
            return 0
        low, high = 1, most
        while low < high:
            middle = (low + high + 1) // 2
            if self.holds(middle):
                low = middle
            else:
                high = middle - 1
        return low


def num_blocks(stages: Sequence[StagePool]) -> int:
    """All stages work with the blocks of the one that has fewest."""
    return min(stage.free_bytes // stage.block_bytes for stage in stages)


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


def shortage(stages: Sequence[StagePool], length: int) -> Shortage | None:
    """The first stage that cannot hold one request of `length` tokens; None when vLLM starts.

    available is what remains after the blocks kept back, as vLLM prints it.
    """
    for stage in stages:
        if stage.usable_bytes <= 0 or not stage.holds(length):
            return Shortage(
                max_model_len=length,
                needed_bytes=stage.need(length),
                available_bytes=stage.usable_bytes,
                estimated_max_model_len=stage.longest(length),
            )
    return None
