"""The lists of a sweep."""

from __future__ import annotations

import pytest

from kvcalc.errors import UsageError
from kvcalc.planning.axes import MAX_VALUES, count_values, kv_types, token_values


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("8k", (8192,)),
        ("8k,32k,8192", (8192, 32768)),
        ("1k..8k", (1024, 2048, 4096, 8192)),
        ("1k..9k", (1024, 2048, 4096, 8192)),
        ("3..3", (3,)),
        ("4k..12k/4k", (4096, 8192, 12288)),
        ("4k..11k/4k", (4096, 8192)),
        (" 2 , 1..2 ", (2, 1)),
    ],
)
def test_token_lists(text: str, values: tuple[int, ...]) -> None:
    """A list is its values in the order given, each once; a range doubles, or goes in steps, up to its end."""
    assert token_values(text) == values


@pytest.mark.parametrize(
    "text", ["", ",", "8k,", "..8k", "1k..", "1k..2k..4k", "8k..1k", "1k/2", "1k..8k/", "1k..8k/0", "-1", "0", "1.3"]
)
def test_bad_lists_are_refused(text: str) -> None:
    """What is no list is a usage error that names the option."""
    with pytest.raises(UsageError) as caught:
        token_values(text)
    assert caught.value.field == "context"
    with pytest.raises(UsageError):
        count_values(text, field="sessions")


def test_lists_are_bounded() -> None:
    """A range of 2**40 values is refused at once."""
    with pytest.raises(UsageError, match="more than 100,000 values"):
        token_values("1..1024m/1")
    assert len(token_values(f"1..{MAX_VALUES}/1")) == MAX_VALUES


@pytest.mark.parametrize(
    ("text", "types"),
    [
        ("bf16", ("bf16",)),
        ("bf16, fp8,bf16", ("bf16", "fp8")),
        ("k=q8_0,v=q4_0,fp8", ("k=q8_0,v=q4_0", "fp8")),
        ("k=q8_0,k=q4_0,v=f16", ("k=q8_0", "k=q4_0,v=f16")),
    ],
)
def test_kv_types(text: str, types: tuple[str, ...]) -> None:
    """A v= belongs to the k= before it."""
    assert kv_types(text) == types
