"""The rules of torch's CUDA caching allocator, on examples worked out from its source by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvcalc.measure.allocator import simulate
from kvcalc.units import MIB

SIZES = st.lists(st.one_of(st.integers(0, 4096), st.integers(0, 64 * MIB)), max_size=40)


@pytest.mark.parametrize(
    ("sizes", "allocated", "reserved"),
    [
        ([], 0, 0),
        ([0], 0, 0),  # no elements, no request
        ([1], 512, 2 * MIB),  # small pool: 2 MiB segments, 512-byte blocks
        ([MIB], MIB, 2 * MIB),
        ([MIB, MIB], 2 * MIB, 2 * MIB),  # the second fills the first one's segment
        ([MIB, MIB, 1], 2 * MIB + 512, 4 * MIB),
        ([MIB + 1], MIB + 512, 20 * MIB),  # large pool: shared segments of 20 MiB
        ([9 * MIB, 9 * MIB], 18 * MIB, 20 * MIB),
        ([9 * MIB, 10 * MIB], 20 * MIB, 20 * MIB),  # the 11 MiB left hold it, and 1 MiB of them stays with it
        ([10 * MIB], 10 * MIB, 10 * MIB),  # from 10 MiB on: a segment of its own, rounded to 2 MiB
        ([10 * MIB + 1], 10 * MIB + 512, 12 * MIB),  # 2 MiB - 512 left: split off
        ([11 * MIB], 12 * MIB, 12 * MIB),  # 1 MiB left is not above 1 MiB: the whole segment is one block
        ([11 * MIB - 512], 11 * MIB - 512, 12 * MIB),  # 1 MiB + 512 left: split off
        ([19 * MIB], 20 * MIB, 20 * MIB),
        ([536870912], 536870912, 536870912),  # a 512 MiB tensor: nothing is rounded
    ],
)
def test_rules(sizes: list[int], allocated: int, reserved: int) -> None:
    """Rounding, segments, splits and reuse, one rule at a time."""
    assert simulate(sizes) == (allocated, reserved)


@given(SIZES)
def test_bounds(sizes: list[int]) -> None:
    """Asked <= allocated <= reserved; a block is at most 512 bytes, or 1 MiB + 512 bytes, above what was asked."""
    found = simulate(sizes)
    slack = sum(511 if size <= MIB else MIB + 511 for size in sizes if size)
    assert sum(sizes) <= found.allocated_bytes <= sum(sizes) + slack
    assert found.allocated_bytes <= found.reserved_bytes
    assert found.reserved_bytes % (2 * MIB) == 0
    assert {type(number) for number in found} == {int}


@given(SIZES, st.integers(1, 64 * MIB))
def test_one_more_never_frees(sizes: list[int], more: int) -> None:
    """A further request never lowers what is allocated or reserved."""
    before, after = simulate(sizes), simulate([*sizes, more])
    assert after.allocated_bytes >= before.allocated_bytes + more
    assert after.reserved_bytes >= before.reserved_bytes
