"""What one line of the ledger takes: at least, best guess, at most; and where that was read."""

from __future__ import annotations

from kvcalc.core.exactness import weakest
from kvcalc.core.light import NamedTuple
from kvcalc.units import GIB

#: Source words: header (sizes of the checkpoint), formula, band (seen in logs), log (this start's own), user,
#: driver (what the GPU reports).
EXACT_SOURCES = ("log", "user")


class Amount(NamedTuple):
    """Bytes taken. low <= best <= high."""

    best: int
    low: int
    high: int
    source: str
    detail: str
    exactness: str = "estimate"


def exactly(size: int, source: str, detail: str, exactness: str = "exact") -> Amount:
    """An amount without a band."""
    return Amount(size, size, size, source, detail, exactness)


def band(best: int, low: int, high: int, source: str, detail: str) -> Amount:
    """An estimate between `low` and `high`; the best guess never leaves its own band."""
    return Amount(best, min(low, best), max(high, best), source, detail)


def gib_of(text: str | float) -> int:
    """Bytes of a figure printed in GiB."""
    return round(float(text) * GIB)


def scaled(amount: Amount, numerator: int, denominator: int) -> Amount:
    """The same amount for a start whose formula gives numerator instead of denominator."""
    if denominator <= 0 or numerator == denominator:
        return amount
    best, low, high = (size * numerator // denominator for size in amount[:3])
    label = weakest(amount.exactness, "estimate")
    return Amount(best, low, high, amount.source, f"{amount.detail}, scaled to the asked flags", label)
