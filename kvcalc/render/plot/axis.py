"""Where the ticks of an axis go: powers of two for tokens and bytes, 1-2-5 for counts. Integers only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from kvcalc.units import GIB, KIB, MIB, TIB, ceil_div, tokens_short

#: More labels than this run into each other.
MOST = 9


class Axis(NamedTuple):
    """What an axis shows: from low to high, a label at each tick."""

    title: str
    low: int
    high: int
    ticks: tuple[tuple[int, str], ...]
    log: bool

    @property
    def places(self) -> list[int]:
        return [place for place, _ in self.ticks]

    @property
    def labels(self) -> list[str]:
        return [label for _, label in self.ticks]


def tokens_axis(first: int, last: int, *, log: bool) -> Axis:
    """Contexts: 8k, 32k, 128k are ticks wherever they are in sight."""
    title = "context (tokens)"
    if log:
        return Axis(title, first, last, _labelled(_powers(first, last, through=13), tokens_short), log)
    step = 1
    while ceil_div(last, step) > MOST - 1:
        step *= 2
    return Axis(title, 0, last, _labelled(range(0, last + 1, step), tokens_short), log)


def bytes_axis(title: str, values: Sequence[int], *, log: bool) -> Axis:
    """Sizes with their unit at each tick."""
    least, most = min(values), max(values)
    if log:
        low, high = _floor(least), _ceiling(most)
        if low == high:
            low, high = max(low // 2, 1), high * 2
        return Axis(title, low, high, _labelled(_powers(low, high, through=30), _size), log)
    unit = next((unit for unit in (TIB, GIB, MIB, KIB) if most >= unit), 1)
    step = _step(ceil_div(most, unit)) * unit
    return Axis(title, 0, most, _labelled(range(0, most + step, step)[: most // step + 1], _size), log)


def counts_axis(title: str, values: Sequence[int], *, log: bool) -> Axis:
    """Sessions: 1, 2, 5, 10 ..."""
    least, most = min(values), max(values)
    if not log:
        step = _step(most)
        return Axis(title, 0, max(most, 1), _labelled(range(0, most + 1, step), _count), log)
    decades = [10**power for power in range(20)]
    fine = [decade * part for decade in decades for part in (1, 2, 5)]
    low = max(value for value in fine if value <= least)
    high = min(value for value in fine if value >= max(most, 2 * low))
    inside = [value for value in fine if low <= value <= high]
    if len(inside) > MOST:
        inside = [value for value in decades if low <= value <= high]
    return Axis(title, low, high, _labelled(inside, _count), log)


def _labelled(places: Sequence[int], name: Callable[[int], str]) -> tuple[tuple[int, str], ...]:
    return tuple((place, name(place)) for place in places)


def _powers(low: int, high: int, *, through: int) -> list[int]:
    """Powers of two between, as many as fit, 2**through among them where it is in sight."""
    exponents = range(_floor(low).bit_length() - 1, high.bit_length())
    stride = max(ceil_div(len(exponents), MOST), 1)
    return [2**power for power in exponents if (power - through) % stride == 0 and low <= 2**power <= high]


def _floor(value: int) -> int:
    """The power of two at or below."""
    return 1 << (max(value, 1).bit_length() - 1)


def _ceiling(value: int) -> int:
    """The power of two at or above."""
    return 1 << (max(value, 1) - 1).bit_length()


def _step(most: int) -> int:
    """1, 2 or 5 times a power of ten, so that at most MOST - 1 steps reach `most`."""
    step = 1
    while True:
        for factor in (1, 2, 5):
            if step * factor * (MOST - 1) >= most:
                return step * factor
        step *= 10


def _size(value: int) -> str:
    """A tick's bytes: whole units, so that no label is rounded."""
    for name, unit in (("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if value >= unit and value % unit == 0:
            return f"{value // unit:,} {name}"
    return f"{value:,} B" if value else "0"


def _count(value: int) -> str:
    return f"{value:,}"
