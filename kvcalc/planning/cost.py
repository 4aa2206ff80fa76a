"""What GPUs cost an hour: given prices, or published ones with their source. Never invented; integers of 1e-6 USD."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from kvcalc.core.gpu import Gpu, Price
from kvcalc.errors import KvcalcError, UsageError, short

#: Of several published prices the one that most buyers can get comes first.
_PREFERRED = ("specialist cloud range", "median", "on-demand", "AWS on-demand")


class Cost(NamedTuple):
    """Of a set of GPUs for an hour, from `low` to `high` (equal for one price)."""

    low_micro_usd: int
    high_micro_usd: int
    price: Price

    @property
    def middle(self) -> int:
        return (self.low_micro_usd + self.high_micro_usd) // 2


def read_prices(text: str) -> dict[str, Price]:
    """`2.95` for every GPU (key ""), or `h100-80gb=2.95,h200=3.50-4.00`: USD per GPU and hour.

    Raises: UsageError.

    >>> read_prices("2.95")[""].micro_usd
    (2950000, 2950000)
    """
    found: dict[str, Price] = {}
    for part in text.split(","):
        name, equals, amount = part.strip().partition("=")
        if not equals:
            name, amount = "", name
        try:
            price = Price(usd_per_hour=amount.strip().removeprefix("$"), kind="given", source="--price", date="given")
        except KvcalcError:
            raise _bad(part) from None
        if name.strip() in found:
            raise _bad(part)
        found[name.strip()] = price
    return found


def _bad(part: str) -> UsageError:
    fix = "write --price 2.95 (USD per GPU and hour) or --price h100-80gb=2.95,h200=3.50"
    return UsageError(f"--price has {short(part)}", fix=fix, field="price", value=part)


def price_of(gpu: Gpu, given: Mapping[str, Price]) -> Price | None:
    """The given price of a GPU, else a published one, else None."""
    for name in (gpu.name, *gpu.aliases, ""):
        if name in given:
            return given[name]
    if given:
        return None  # some prices were given: the others stay unknown rather than of another source
    ranked = sorted(gpu.prices, key=lambda price: _PREFERRED.index(price.kind) if price.kind in _PREFERRED else 99)
    return ranked[0] if ranked else None


def cost_of(gpu: Gpu, count: int, given: Mapping[str, Price]) -> Cost | None:
    """What `count` of them cost an hour; None where no price is known."""
    price = price_of(gpu, given)
    if price is None:
        return None
    low, high = price.micro_usd
    return Cost(low * count, high * count, price)
