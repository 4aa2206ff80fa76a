"""Two parsers, one command line: what the quick one reads, typer reads the same."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvcalc.cli.app import build_command
from kvcalc.cli.quick import parse
from kvcalc.cli.spec import COMMANDS, Spec

WORDS = st.one_of(
    st.sampled_from(
        ["llama3", "8k", "fp8", "k=q8_0,v=q4_0", "1", "-1", "", "-", "--", "a b", "x=y", "=", "ä", "-5", "--json"]
    ),
    st.text(max_size=6),
)


class Read(Exception):
    """What typer made of a call."""

    def __init__(self, name: str, values: dict[str, Any]) -> None:
        super().__init__(name)
        self.name = name
        self.values = values


def record(name: str, values: dict[str, Any]) -> int:
    raise Read(name, values)


@cache
def command(name: str) -> Any:
    return build_command(name, called=record)


def slow(arguments: list[str]) -> tuple[str, dict[str, Any]] | None:
    """typer's reading; None where it refuses (or shows help)."""
    try:
        command(arguments[0]).main(arguments[1:], prog_name="kvcalc", standalone_mode=False)
    except Read as read:
        return read.name, read.values
    except Exception as error:
        if not hasattr(error, "format_message"):  # what typer's own errors have in common
            raise
        return None
    return None


def flags(spec: Spec) -> list[str]:
    return [flag for option in spec.options for flag in option.flags]


@st.composite
def calls(draw: st.DrawFn) -> list[str]:
    """A command with words of every sort in any order: options with and without values, attached or apart, misspelt."""
    name = draw(st.sampled_from(list(COMMANDS)))
    known = [*flags(COMMANDS[name]), "--help", "--bogus"]
    arguments = [name]
    for _ in range(draw(st.integers(0, 6))):
        shape = draw(st.sampled_from(["word", "flag", "pair", "pair", "joined", "stuck", "cut"]))
        flag, word = draw(st.sampled_from(known)), draw(WORDS)
        arguments += {
            "word": [word],
            "flag": [flag],
            "pair": [flag, word],
            "joined": [f"{flag}={word}"],
            "stuck": [f"{flag}{word}"],
            "cut": [flag[:-1]],
        }[shape]
    return arguments


@st.composite
def plain_calls(draw: st.DrawFn) -> list[str]:
    """A sound call: every option at most once (repeatable ones more often), arguments as many as the command takes."""
    name = draw(st.sampled_from(list(COMMANDS)))
    spec = COMMANDS[name]
    value = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=6)
    value = value.filter(lambda text: not text.startswith("-"))
    parts: list[list[str]] = []
    for option in draw(st.lists(st.sampled_from(spec.options), unique=True) if spec.options else st.just([])):
        for _ in range(draw(st.integers(1, 3)) if option.many else 1):
            flag = draw(st.sampled_from(option.flags))
            if option.switch:
                parts.append([flag])
            elif flag.startswith("--") and draw(st.booleans()):
                parts.append([f"{flag}={draw(value)}"])
            else:
                parts.append([flag, draw(value)])
    argument = spec.argument
    if argument is not None:
        most = 3 if argument.many else 1
        parts += [[draw(value)] for _ in range(draw(st.integers(1 if argument.required else 0, most)))]
    return [name, *(word for part in draw(st.permutations(parts)) for word in part)]


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Equal but for the two ways of saying `no list`."""
    return {key: value or None for key, value in first.items()} == {key: value or None for key, value in second.items()}


@given(calls())
def test_what_the_quick_parser_reads_typer_reads_the_same(arguments: list[str]) -> None:
    """Whatever was typed: the quick parser passes it on, or both read the same command and values."""
    quick = parse(arguments)
    if quick is None:
        return
    careful = slow(arguments)
    assert careful is not None, f"typer refuses {arguments}"
    assert careful[0] == quick[0]
    assert same(careful[1], quick[1])


@given(plain_calls())
def test_plain_calls_are_read_by_both(arguments: list[str]) -> None:
    """A sound call never needs typer, and means the same to it."""
    quick, careful = parse(arguments), slow(arguments)
    assert quick is not None
    assert careful is not None
    assert careful[0] == quick[0]
    assert same(careful[1], quick[1])


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--version"],
        ["--help"],
        ["nope"],
        ["size"],
        ["size", "a", "b"],
        ["size", "--help"],
        ["size", "a", "-h"],
        ["size", "a", "--cont", "5"],
        ["size", "a", "-c"],
        ["size", "a", "-c", "-5"],
        ["size", "a", "-c8k"],
        ["size", "a", "--json=1"],
        ["size", "-", "--", "-x"],
        ["dtypes", "x"],
        ["compare"],
    ],
    ids=" ".join,
)
def test_what_is_not_plain_is_left_to_typer(arguments: list[str]) -> None:
    """Help, versions, misspellings, missing values, attached values: the quick parser does not guess."""
    assert parse(arguments) is None


def test_values_are_text_lists_or_switches() -> None:
    """The quick parser's values, as the commands get them."""
    read = parse(["size", "llama3", "-c", "128k", "--option", "a=1", "-o", "b=2", "--json", "--kv-dtype=fp8"])
    assert read is not None
    name, values = read
    assert name == "size"
    assert set(values) == {option.name for option in COMMANDS["size"].options} | {"target"}
    given_ = {key: value for key, value in values.items() if value not in (None, False)}
    assert given_ == {"target": "llama3", "context": "128k", "option": ["a=1", "b=2"], "json": True, "kv_dtype": "fp8"}
