"""The lists of a sweep as typed: values and ranges of tokens and sessions, KV types."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from kvcalc.errors import UsageError, short
from kvcalc.units import parse_count, parse_tokens

#: Values of one list. Longer ones are a typing mistake, and would not leave memory flat.
MAX_VALUES = 100_000


def token_values(text: str, *, field: str = "context") -> tuple[int, ...]:
    """`8k,32k`, `1k..1m` (doubling) or `4k..128k/4k` (in steps), mixed freely; each value once, in the order given.

    Raises: UsageError.

    >>> token_values("1k..8k,5000,2k..6k/2k")
    (1024, 2048, 4096, 8192, 5000, 6144)
    """
    return _values(text, lambda part: parse_tokens(part, field=field), field)


def count_values(text: str, *, field: str) -> tuple[int, ...]:
    """The same of plain whole numbers.

    >>> count_values("1..64", field="sessions")
    (1, 2, 4, 8, 16, 32, 64)
    """
    return _values(text, lambda part: parse_count(part, field=field), field)


def _values(text: str, read: Callable[[str], int], field: str) -> tuple[int, ...]:
    found: dict[int, None] = {}
    for part in text.split(","):
        ends, slash, step = part.partition("/")
        first, dots, last = ends.partition("..")
        if slash and not dots:
            raise UsageError(
                f"{field} {short(part)} has a step but no range",
                fix="write a range like 4k..128k/4k",
                field=field,
                value=text,
            )
        start = read(first)
        if not dots:
            found[start] = None
            continue
        stop = read(last)
        if stop < start:
            raise UsageError(
                f"{field} {short(part)} ends below its beginning", fix="write a range like 1k..128k", field=field
            )
        steps = range(start, stop + 1, read(step)) if slash else _doubled(start, stop)
        found.update(dict.fromkeys(islice(steps, MAX_VALUES + 1)))
        if len(found) > MAX_VALUES:
            break
    if len(found) > MAX_VALUES:
        raise UsageError(
            f"{field} {short(text)} is more than {MAX_VALUES:,} values", fix="take larger steps", field=field
        )
    return tuple(found)


def _doubled(start: int, stop: int) -> list[int]:
    """start, 2 start, 4 start ... up to stop."""
    found = [start]
    while found[-1] * 2 <= stop:
        found.append(found[-1] * 2)
    return found


def kv_types(text: str) -> tuple[str, ...]:
    """`bf16,fp8,k=q8_0,v=q4_0`: the types as `--kv-dtype` takes them; a `v=` belongs to the `k=` before it.

    >>> kv_types("bf16,k=q8_0,v=q4_0,fp8")
    ('bf16', 'k=q8_0,v=q4_0', 'fp8')
    """
    found: list[str] = []
    for part in (part.strip() for part in text.split(",")):
        before = found[-1] if found else ""
        if part.startswith("v=") and before.startswith("k=") and "," not in before:
            found[-1] = f"{before},{part}"
        else:
            found.append(part)
    return tuple(dict.fromkeys(found))
