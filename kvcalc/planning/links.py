"""Rates of links, and how long bytes take over them. Integers of bytes per second; bits only where `b` says so."""

from __future__ import annotations

import re
from fractions import Fraction

from kvcalc.errors import UsageError, short
from kvcalc.units import GIB, KIB, MIB, TIB

_RATE = re.compile(r"([0-9]{1,9})(?:\.([0-9]{1,9}))?\s*([a-zA-Z]+)\s*/\s*s", re.ASCII)
#: Units as they are written: B bytes, b or bit bits.
_UNITS = {
    "B": (1, 1), "kB": (10**3, 1), "KB": (10**3, 1), "MB": (10**6, 1), "GB": (10**9, 1), "TB": (10**12, 1),
    "KiB": (KIB, 1), "MiB": (MIB, 1), "GiB": (GIB, 1), "TiB": (TIB, 1),
    "Mb": (10**6, 8), "Gb": (10**9, 8), "Tb": (10**12, 8), "Mbit": (10**6, 8), "Gbit": (10**9, 8), "Tbit": (10**12, 8),
}  # fmt: skip


def parse_rate(text: str, *, field: str) -> int:
    """Bytes per second of `50GB/s`, `24GiB/s` or `400Gb/s` (bits).

    Raises: UsageError.

    >>> parse_rate("400Gb/s", field="link"), parse_rate("25GB/s", field="link")
    (50000000000, 25000000000)
    """
    match = _RATE.fullmatch(text.strip())
    unit = _UNITS.get(match.group(3)) if match else None
    if match is None or unit is None:
        raise UsageError(
            f"{field} must be a rate, not {short(text)}",
            fix="write it like 50GB/s (bytes), 24GiB/s or 400Gb/s (bits)",
            field=field,
            value=text,
        )
    whole, part, _ = match.groups()
    rate = Fraction(f"{whole}.{part or 0}") * unit[0] / unit[1]
    if rate < 1:
        raise UsageError(f"{field} must be at least 1 B/s", fix="write it like 50GB/s", field=field, value=text)
    return int(rate)


def nanoseconds(size: int, rate: int) -> int:
    """Time that `size` bytes take, rounded up.

    >>> nanoseconds(286358400, 50 * 10**9)
    5727168
    """
    return -(-size * 10**9 // rate)
