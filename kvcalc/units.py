"""Bytes and tokens as people write and read them. Integers inside, one rounding only where text is shown.

GiB = 2**30 and GB = 10**9 are never mixed: every displayed size names its unit.
"""

from __future__ import annotations

import re

from kvcalc.errors import UsageError, short

KIB, MIB, GIB, TIB = 2**10, 2**20, 2**30, 2**40

#: One session of more tokens than this (about 10**12) is a typing mistake, not a plan.
MAX_TOKENS = 2**40
MAX_SESSIONS = 2**31
MAX_BYTES = 2**63 - 1
#: Longer than any number a person types; integers of thousands of digits take time to read.
MAX_TEXT = 200

_BINARY = {"": 1, "b": 1, "kib": KIB, "mib": MIB, "gib": GIB, "tib": TIB}
_DECIMAL = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_TOKEN_SUFFIX = {"": 1, "k": KIB, "m": MIB}
_NUMBER = r"([0-9][0-9_,]*)(?:\.([0-9]+))?\s*([a-zA-Z]*)"


def _scaled(text: str, units: dict[str, int], *, exactly: bool) -> int | None:
    """`text` times its unit as an integer; None where it is no such number.

    exactly: a remainder is no number either; otherwise it is dropped, but for a bare unit.
    """
    match = re.fullmatch(_NUMBER, text.strip(), re.ASCII)
    if match is None or len(text) > MAX_TEXT:
        return None
    whole, part, unit = match.groups()
    factor = units.get(unit.lower())
    if factor is None:
        return None
    digits = whole.replace("_", "").replace(",", "")
    scaled, rest = divmod(int(digits + (part or "")) * factor, 10 ** len(part or ""))
    return scaled if rest == 0 or (factor > 1 and not exactly) else None


def parse_tokens(text: str, *, field: str = "context") -> int:
    """Tokens: `4096`, `128k` (= 131072), `1m` (= 1048576).

    Raises: UsageError when it is no positive whole number, or above 2**40.

    >>> parse_tokens("128k")
    131072
    """
    tokens = _scaled(text, _TOKEN_SUFFIX, exactly=True)
    if tokens is None or tokens < 1:
        raise UsageError(
            f"{field} must be a positive whole number of tokens, not {short(text)}",
            fix="write it like 8192, 32k (= 32768) or 1m (= 1048576)",
            field=field,
            value=text,
        )
    if tokens > MAX_TOKENS:
        raise UsageError(
            f"{field} {short(text)} is above {MAX_TOKENS:,} tokens",
            fix="give a context that a model could hold",
            field=field,
            value=text,
        )
    return tokens


def parse_bytes(text: str, *, field: str = "size") -> int:
    """Bytes: `24GiB` (binary), `80GB` (decimal), `1073741824`. A fraction of a byte is rounded down.

    >>> parse_bytes("1.5GiB"), parse_bytes("80GB")
    (1610612736, 80000000000)
    """
    size = _scaled(text, _BINARY | _DECIMAL, exactly=False)
    if size is None:
        raise UsageError(
            f"{field} must be a size in bytes, not {short(text)}",
            fix="write it like 24GiB (binary), 80GB (decimal) or 1073741824",
            field=field,
            value=text,
        )
    if size > MAX_BYTES:
        raise UsageError(f"{field} {short(text)} is more than any machine holds", fix="check the unit", field=field)
    return size


def parse_count(text: str, *, field: str, most: int = MAX_SESSIONS, least: int = 1) -> int:
    """A whole number in [least, most]."""
    count = int(text) if re.fullmatch(r"[0-9]{1,20}", text.strip(), re.ASCII) else None
    if count is None or not least <= count <= most:
        raise UsageError(
            f"{field} must be a whole number from {least} to {most:,}, not {short(text)}",
            fix=f"for example --{field} {max(least, 1)}",
            field=field,
            value=text,
        )
    return count


def parse_fraction(text: str, *, field: str) -> float:
    """A fraction of memory the user gives, in (0, 1]: `0.92`. A float, because engines multiply it as one."""
    if re.fullmatch(r"[01]?(\.[0-9]{1,12})?", text.strip(), re.ASCII) and text.strip():
        value = float(text)
        if 0 < value <= 1:
            return value
    raise UsageError(
        f"{field} must be a fraction above 0 and up to 1, not {short(text)}",
        fix="write it like 0.9",
        field=field,
        value=text,
    )


def parse_ratio(text: str, *, field: str) -> float:
    """A ratio of two sizes, above 0 and up to 1000: `0.9`, `2`. A float, because engines multiply it as one."""
    if re.fullmatch(r"[0-9]{0,4}(\.[0-9]{1,12})?", text.strip(), re.ASCII) and text.strip():
        value = float(text)
        if 0 < value <= 1000:
            return value
    raise UsageError(
        f"{field} must be a ratio above 0 and up to 1000, not {short(text)}",
        fix="write it like 0.9 or 2",
        field=field,
        value=text,
    )


def gib(size: int) -> str:
    """`size` bytes in the largest binary unit that leaves a digit before the point.

    >>> gib(17179869184), gib(65536), gib(512)
    ('16.00 GiB', '64.0 KiB', '512 B')
    """
    sign, size = ("-", -size) if size < 0 else ("", size)
    for unit, factor, digits in (("TiB", TIB, 2), ("GiB", GIB, 2), ("MiB", MIB, 1), ("KiB", KIB, 1)):
        if size >= factor and not (unit == "TiB" and size < 10 * TIB):
            return f"{sign}{size / factor:,.{digits}f} {unit}"
    return f"{sign}{size} B"


def gb(size: int) -> str:
    """`size` bytes in decimal GB, as vendors write it.

    >>> gb(17179869184)
    '17.18 GB'
    """
    return f"{size / 10**9:,.2f} GB"


def tokens_short(tokens: int) -> str:
    """Token counts as people write them: powers of two in k and M, others with separators.

    >>> tokens_short(131072), tokens_short(1048576), tokens_short(5000)
    ('128k', '1M', '5,000')
    """
    for suffix, factor in (("M", MIB), ("k", KIB)):
        if tokens >= factor and tokens % factor == 0:
            return f"{tokens // factor:,}{suffix}"
    return f"{tokens:,}"


def ceil_div(numerator: int, denominator: int) -> int:
    """Smallest integer not below numerator / denominator."""
    return -(-numerator // denominator)
