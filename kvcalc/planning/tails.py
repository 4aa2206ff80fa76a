"""Sums of equal independent holdings: how many fit with a given chance, exactly and in closed form.

The exact law of S sessions is the S-th power of one session's law. Laws are whole numbers of 2**-31, and a power is a
multiplication of big integers (each coefficient in its own 8 bytes), so a product is off by 2**-21 at most. A pool of
more units than bins has several units in each; where that would blur one session's law, its three moments are used.

Source of the closed form: Cornish-Fisher expansion to the third moment.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from kvcalc.units import MAX_SESSIONS

#: One is 2**_BITS: all coefficients of a product together stay below 2**62 and fit their 8 bytes.
_BITS, _SLOT = 31, 8
_BINS = 1536
#: Bins may add at most this part (one in so many) to the variance of one session.
_BLUR = 20
_ONE = 1 << _BITS
#: exp(-1) / 18! is below 2**-52: more sessions at once than this do not matter in one unit of Poisson load.
_TERMS = 18
#: A bend of the normal law below this changes no answer, and dividing by it would.
_STRAIGHT = 1e-9

Law = Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Moments:
    """Mean, variance and skewness of one session's holdings; second and third raw moments."""

    mean: float
    variance: float
    skewness: float
    second: float
    third: float


def moments(law: Law) -> Moments:
    """Of units -> chance."""
    mean = sum(units * chance for units, chance in law.items())
    second = sum(units * units * chance for units, chance in law.items())
    third = sum(units**3 * chance for units, chance in law.items())
    variance = max(second - mean * mean, 0.0)
    central = third - 3 * mean * second + 2 * mean**3
    skewness = central / variance**1.5 if variance > 0 else 0.0
    return Moments(mean, variance, skewness, second, third)


def _last(holds: Callable[[int], bool], *, most: int) -> int:
    """Largest n in [0, most) with holds(n), taking holds as monotone."""
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            low = middle
        else:
            high = middle
    return low


class Normal:
    """The sum by its first three moments; within about one session of the exact law.

    poisson: the number of sessions is random, and S is its mean.
    """

    def __init__(self, one: Moments, capacity: int, *, poisson: bool = False) -> None:
        self.capacity = capacity
        self.mean = one.mean
        self.variance = one.second if poisson else one.variance
        third = one.third if poisson else one.skewness * one.variance**1.5
        self.skewness = third / self.variance**1.5 if self.variance > 0 else 0.0

    def _units(self, sessions: int, z: float) -> float:
        """What `sessions` sessions hold at the standard normal quantile `z`."""
        tail = z + (z * z - 1) * self.skewness / (6 * math.sqrt(sessions))
        return sessions * self.mean + math.sqrt(sessions * self.variance) * tail

    def overflow(self, sessions: int) -> float:
        """Chance that `sessions` sessions want more than the capacity: `_units` solved for z."""
        left = self.capacity - sessions * self.mean
        if not sessions or self.variance <= 0:
            return 0.0 if left >= 0 else 1.0
        x, bend = left / math.sqrt(sessions * self.variance), self.skewness / (6 * math.sqrt(sessions))
        if abs(bend) < _STRAIGHT:
            return NormalDist().cdf(-x)
        inside = 1 + 4 * bend * (bend + x)
        if inside <= 0:  # beyond the end of the curve
            return 1.0 if bend > 0 else 0.0
        return NormalDist().cdf(-(math.sqrt(inside) - 1) / (2 * bend))

    def most(self, chance: float) -> int:
        """Most sessions whose demand exceeds the capacity with at most `chance`."""
        z = NormalDist().inv_cdf(1 - min(max(chance, 1e-12), 1 - 1e-12))
        limit = max(int(2 * self.capacity / max(self.mean, 1e-9)) + 2, 2)
        return _last(lambda sessions: self._units(sessions, z) <= self.capacity, most=limit)

    def quantile(self, sessions: int, share: float) -> int | None:
        """Units that `sessions` sessions exceed with a chance of 1 - share; None: beyond the capacity."""
        units = self._units(sessions, NormalDist().inv_cdf(share)) if sessions else 0.0
        return None if units > self.capacity else max(math.ceil(units), 0)


class Sums:
    """Powers of one session's law, cut at `capacity` units (what lies above has overflowed)."""

    def __init__(self, law: Law, capacity: int, *, poisson: bool = False) -> None:
        self.capacity = capacity
        self.width = bin_width(capacity)
        self.bins = capacity // self.width + 1
        one = self._binned(law)
        self._powers = [self._random(one) if poisson else one]

    def _binned(self, law: Law) -> list[int]:
        """The law in bins; what lies between two bins is split so that the mean stays."""
        found = [0.0] * (self.bins + 1)
        for units, chance in law.items():
            index = units // self.width
            if index < self.bins:
                above = units / self.width - index
                found[index] += chance * (1 - above)
                found[index + 1] += chance * above
        return [round(chance * _ONE) for chance in found[: self.bins]]

    def _random(self, one: list[int]) -> list[int]:
        """A Poisson number of sessions with mean 1."""
        power = [_ONE] + [0] * (self.bins - 1)
        total = [0.0] * self.bins
        factor = math.exp(-1.0)
        for count in range(_TERMS):
            total = [sum_ + factor * share for sum_, share in zip(total, power, strict=True)]
            power = self._times(power, one)
            factor /= count + 1
        return [round(share) for share in total]

    def _times(self, left: list[int], right: list[int]) -> list[int]:
        """The law of the sum of two independent demands."""
        first, second = (int.from_bytes(array("Q", law).tobytes(), "little") for law in (left, right))
        product = first * second
        found = array("Q", product.to_bytes((2 * self.bins + 1) * _SLOT, "little")[: self.bins * _SLOT])
        return [share >> _BITS for share in found]

    def _power(self, exponent: int) -> list[int]:
        """The law to the power 2**exponent."""
        while len(self._powers) <= exponent:
            self._powers.append(self._times(self._powers[-1], self._powers[-1]))
        return self._powers[exponent]

    def law_of(self, sessions: int) -> list[int]:
        """The demand of `sessions` sessions, bin by bin."""
        found: list[int] | None = None
        for exponent in range(sessions.bit_length()):
            if sessions >> exponent & 1:
                power = self._power(exponent)
                found = power if found is None else self._times(found, power)
        return found if found is not None else [_ONE] + [0] * (self.bins - 1)

    def overflow(self, sessions: int) -> float:
        """Chance that `sessions` sessions want more than the capacity."""
        return max(1.0 - sum(self.law_of(sessions)) / _ONE, 0.0)

    def most(self, chance: float) -> int:
        """Most sessions whose demand exceeds the capacity with at most `chance`."""

        def fits(law: list[int]) -> bool:
            return sum(law) >= (1 - chance) * _ONE

        if not fits(self._powers[0]):
            return 0
        exponent = 0
        while fits(self._power(exponent + 1)):
            exponent += 1
        held, sessions = self._power(exponent), 1 << exponent
        for lower in range(exponent - 1, -1, -1):
            more = self._times(held, self._power(lower))
            if fits(more):
                held, sessions = more, sessions + (1 << lower)
        return sessions

    def quantile(self, sessions: int, share: float) -> int | None:
        """Units that `sessions` sessions exceed with a chance of 1 - share; None: beyond the capacity."""
        wanted, total = share * _ONE, 0
        for index, chance in enumerate(self.law_of(sessions)):
            total += chance
            if total >= wanted:
                return min(index * self.width, self.capacity)
        return None


def bin_width(capacity: int) -> int:
    """Units per bin: a power of two, so that a slightly larger pool is cut alike and never holds fewer.

    >>> bin_width(1535), bin_width(1536), bin_width(28266)
    (1, 2, 32)
    """
    return 1 << (capacity // _BINS).bit_length()


def sums_of(law: Law, one: Moments, capacity: int, *, poisson: bool = False, exact: bool = True) -> Sums | Normal:
    """The law of a sum: exact where the bins keep the law of one session, else by its moments `one`."""
    width, variance = bin_width(capacity), one.second if poisson else one.variance
    # A law split between two bins gains a quarter of a squared width at most.
    if exact and (width == 1 or width * width * _BLUR <= 4 * variance):
        return Sums(law, capacity, poisson=poisson)
    return Normal(one, capacity, poisson=poisson)


def most_sessions(
    law: Law, one: Moments, capacity: int, chances: Sequence[float], *, poisson: bool = False, exact: bool = True
) -> list[int]:
    """Most sessions that `capacity` units hold, for each accepted chance."""
    if capacity <= 0 or not chances:
        return [0] * len(chances)
    if one.mean <= 0:
        return [MAX_SESSIONS] * len(chances)
    sums = sums_of(law, one, capacity, poisson=poisson, exact=exact)
    return [sums.most(chance) for chance in chances]
