"""A logged number beside the computed one. Logs round: a computed value is a range, and ranges that meet agree."""

from __future__ import annotations

from typing import NamedTuple

from kvcalc.explain_log.facts import Fact

#: The cache of 8 bits that is tried where a log does not state its type, and what is said when nothing tried agrees.
EIGHT_BITS = "fp8_e4m3"
UNEXPLAINED = "neither a tensor-parallel degree up to 8 nor an fp8 cache explains it"


class Computed(NamedTuple):
    """What the engine's rules give; `low` to `high` where a rounded input leaves a range."""

    name: str
    low: float
    high: float


def agrees(fact: Fact, found: Computed) -> bool:
    """Whether some value of the range prints as the log says."""
    if isinstance(fact.value, str):
        return False
    # A hair more than half a digit: engines round up at the half, and 0.005 is no binary fraction.
    slack = fact.within * 1.001
    return found.low - slack <= fact.value <= found.high + slack


def record(fact: Fact, found: Computed) -> dict[str, object]:
    """One row of the comparison; `why` is filled in by the caller where it differs."""
    ok = agrees(fact, found)
    middle = found.low if found.low == found.high else (found.low + found.high) / 2
    logged = 0.0 if isinstance(fact.value, str) else float(fact.value)
    return {
        "name": fact.name,
        "unit": fact.unit,
        "logged": fact.value,
        "computed": _tidy(middle, fact),
        "computed_range": None if found.low == found.high else [_tidy(found.low, fact), _tidy(found.high, fact)],
        "ratio": logged / middle if middle else None,
        "verdict": "agrees" if ok else "differs",
        "why": None,
        "line": fact.line,
    }


def _tidy(value: float, fact: Fact) -> int | float:
    return value if fact.unit in ("sessions", "fraction") else round(value)
