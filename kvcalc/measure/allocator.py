"""What torch's CUDA caching allocator makes of a list of sizes: rounding, segments, splits. Pure arithmetic.

The pass or fail of a measurement is `requested_bytes`, which the allocator never rounds. This page only explains
the rest: why `allocated_bytes` and `reserved_bytes` are larger.

Source: torch 2.13 c10/core/AllocatorConfig.h (constants), c10/cuda/CUDACachingAllocator.cpp round_size,
get_allocation_size, should_split, get_free_block; default settings, a fresh private pool, one stream.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from typing import NamedTuple

from kvcalc.units import MIB, ceil_div

#: Every block is a multiple of this.
MIN_BLOCK_BYTES = 512
#: Largest request that is served from the pool of small blocks.
SMALL_BYTES = MIB
SMALL_SEGMENT_BYTES = 2 * MIB
#: Requests below this share segments of `LARGE_SEGMENT_BYTES`; larger ones get a segment of their own.
MIN_OWN_SEGMENT_BYTES = 10 * MIB
LARGE_SEGMENT_BYTES = 20 * MIB
ROUND_LARGE_BYTES = 2 * MIB


class Simulated(NamedTuple):
    """Bytes of the blocks handed out, and of the segments taken from the driver."""

    allocated_bytes: int
    reserved_bytes: int


def block_bytes(size: int) -> int:
    """`size` rounded up to whole blocks of 512 bytes.

    >>> block_bytes(1), block_bytes(512), block_bytes(513)
    (512, 512, 1024)
    """
    return max(ceil_div(size, MIN_BLOCK_BYTES), 1) * MIN_BLOCK_BYTES


def segment_bytes(block: int) -> int:
    """Bytes taken from the driver for a block that no free one can hold.

    >>> [segment_bytes(n * MIB) // MIB for n in (1, 5, 11)]
    [2, 20, 12]
    """
    if block <= SMALL_BYTES:
        return SMALL_SEGMENT_BYTES
    if block < MIN_OWN_SEGMENT_BYTES:
        return LARGE_SEGMENT_BYTES
    return ceil_div(block, ROUND_LARGE_BYTES) * ROUND_LARGE_BYTES


def simulate(sizes: Iterable[int]) -> Simulated:
    """Allocated and reserved bytes after requests of `sizes` bytes in this order, nothing freed.

    A request takes the smallest free block that holds it, else a new segment; what is left of it stays free when it
    is 512 bytes or more (small pool) or above 1 MiB (large pool), else the block is handed out whole.

    >>> simulate([MIB + 1])
    Simulated(allocated_bytes=1049088, reserved_bytes=20971520)
    >>> simulate([11 * MIB])  # 1 MiB left over: not above 1 MiB, so it belongs to the block
    Simulated(allocated_bytes=12582912, reserved_bytes=12582912)
    """
    small: list[int] = []
    large: list[int] = []
    allocated = reserved = 0
    for size in sizes:
        if size <= 0:
            continue  # a tensor without elements asks for nothing
        need = block_bytes(size)
        is_small = need <= SMALL_BYTES
        free = small if is_small else large
        place = bisect_left(free, need)
        if place < len(free):
            found = free.pop(place)
        else:
            found = segment_bytes(need)
            reserved += found
        rest = found - need
        if rest >= MIN_BLOCK_BYTES if is_small else rest > SMALL_BYTES:
            insort(free, rest)
            allocated += need
        else:
            allocated += found
    return Simulated(allocated, reserved)
