"""Bytes and tokens as people write and read them."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvcalc.errors import UsageError
from kvcalc.units import (
    GIB,
    MAX_BYTES,
    MAX_SESSIONS,
    MAX_TOKENS,
    ceil_div,
    gb,
    gib,
    parse_bytes,
    parse_count,
    parse_fraction,
    parse_tokens,
    tokens_short,
)

BINARY = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
DECIMAL = {"kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("1", 1), ("8192", 8192), ("8k", 8192), ("128K", 131072), ("1m", 1048576), ("1M", 1048576), ("0.5k", 512),
     ("1.5k", 1536), ("131,072", 131072), ("131_072", 131072), (" 8k ", 8192), ("8 k", 8192), ("1048576m", MAX_TOKENS)],
)  # fmt: skip
def test_tokens(text: str, tokens: int) -> None:
    """k is 1024 and m is 1048576, separators and spaces are forgiven."""
    assert parse_tokens(text) == tokens
    assert type(parse_tokens(text)) is int


@pytest.mark.parametrize(
    "text",
    ["", " ", "0", "0k", "-1", "+1", "1.5", "1.3k", "0.0001k", "1e3", "k", "8kk", "8 kb", "1g", "0x10", "1.", ".5k",
     "nan", "inf", "\u0661", "1\n2", "1;2", "8192 tokens", "1" * 10000],
)  # fmt: skip
def test_no_tokens(text: str) -> None:
    """Anything else is refused, a fraction of a token too."""
    with pytest.raises(UsageError, match="must be a positive whole number of tokens"):
        parse_tokens(text)


def test_too_many_tokens() -> None:
    """2**40 tokens are the most; above, the message says so."""
    assert parse_tokens(str(2**40)) == 2**40
    with pytest.raises(UsageError, match="is above 1,099,511,627,776 tokens"):
        parse_tokens(str(2**40 + 1))


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("1073741824", GIB), ("24GiB", 24 * GIB), ("24 gib", 24 * GIB), ("80GB", 80 * 10**9),
     ("1.5GiB", 3 * GIB // 2),
     ("1tib", 2**40), ("1TB", 10**12), ("512b", 512), ("0.3KiB", 307), ("1,024", 1024)],
)  # fmt: skip
def test_bytes(text: str, size: int) -> None:
    """GiB is binary, GB decimal, whatever the case; a fraction of a byte is dropped."""
    assert parse_bytes(text) == size
    assert type(parse_bytes(text)) is int


@pytest.mark.parametrize(
    "text", ["", "GiB", "-1", "1.5", "1.5b", "1e9", "10XB", "10 GiB GiB", "10Gi", "10G", "nan", "\u0663GiB", "0x10"]
)
def test_no_bytes(text: str) -> None:
    """A bare `G` says neither GB nor GiB: refused like any other guess."""
    with pytest.raises(UsageError, match="must be a size in bytes"):
        parse_bytes(text)


def test_too_many_bytes() -> None:
    """More than 2**63 - 1 bytes is a wrong unit."""
    assert parse_bytes(str(MAX_BYTES)) == MAX_BYTES
    with pytest.raises(UsageError, match="more than any machine holds"):
        parse_bytes(str(MAX_BYTES + 1))


@given(st.integers(0, 10**6), st.integers(0, 999), st.sampled_from(sorted(BINARY | DECIMAL)))
def test_bytes_are_exact(whole: int, thousandths: int, unit: str) -> None:
    """No float takes part: the result is the exact product, rounded down."""
    text = f"{whole}.{thousandths:03}{unit}"
    assert parse_bytes(text) == int(Decimal(f"{whole}.{thousandths:03}") * (BINARY | DECIMAL)[unit])


@given(st.integers(1, MAX_TOKENS))
def test_short_tokens_are_read_back(tokens: int) -> None:
    """What `tokens_short` writes, `parse_tokens` reads."""
    assert parse_tokens(tokens_short(tokens)) == tokens


@pytest.mark.parametrize("text", ["1", "7", str(MAX_SESSIONS), " 5 "])
def test_counts(text: str) -> None:
    """Whole numbers in their range."""
    assert parse_count(text, field="sessions") == int(text)


@pytest.mark.parametrize("text", ["0", "-1", "1.0", "1k", "", "x", str(MAX_SESSIONS + 1), "9" * 30, "1_000", "\u0665"])
def test_no_counts(text: str) -> None:
    """Out of range or no whole number: the message has the range and the value."""
    with pytest.raises(UsageError, match="sessions must be a whole number from 1 to 2,147,483,648, not"):
        parse_count(text, field="sessions")


@pytest.mark.parametrize(("text", "value"), [("0.9", 0.9), ("1", 1.0), ("1.0", 1.0), (".5", 0.5), ("0.000001", 1e-6)])
def test_fractions(text: str, value: float) -> None:
    """Fractions of memory: above 0, up to 1."""
    assert parse_fraction(text, field="share") == value


@pytest.mark.parametrize("text", ["0", "0.0", "1.1", "-0.5", "90%", "", "nan", "2", "1e-3", "0.1234567890123"])
def test_no_fractions(text: str) -> None:
    """Nothing, more than all, and other spellings are refused."""
    with pytest.raises(UsageError, match="share must be a fraction above 0 and up to 1, not"):
        parse_fraction(text, field="share")


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1, "1 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (2**20 - 1, "1,024.0 KiB"), (2**20, "1.0 MiB"),
     (2**30, "1.00 GiB"), (85520809984, "79.65 GiB"), (2**40, "1,024.00 GiB"),
     (10 * 2**40, "10.00 TiB"), (-GIB, "-1.00 GiB")],
)  # fmt: skip
def test_gib(size: int, text: str) -> None:
    """Binary units, always named."""
    assert gib(size) == text


def test_gb() -> None:
    """Decimal GB, as vendors print it."""
    assert gb(80 * 10**9) == "80.00 GB"
    assert gb(85899345920) == "85.90 GB"


@given(st.integers(0, 10**18), st.integers(1, 10**9))
def test_ceil_div(numerator: int, denominator: int) -> None:
    """The smallest whole number not below the quotient."""
    result = ceil_div(numerator, denominator)
    assert (result - 1) * denominator < numerator <= result * denominator or (result == 0 == numerator)
