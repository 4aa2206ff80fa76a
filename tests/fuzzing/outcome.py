"""What came of a case, in words from which its own names and numbers are taken out."""

from __future__ import annotations

import re
from typing import NamedTuple

from kvcalc.errors import KvcalcError

_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'?|\"(?:[^\"\\]|\\.)*\"?|b'[^']*'")
_NUMBER = re.compile(r"-?\d[\d,._]*(?:e[+-]?\d+)?", re.IGNORECASE)
_LISTED = re.compile(r"[\[{(][^\]})]*[\]})]?")
_VALUE = re.compile(r", not .*| is \[.*| is \{.*", re.DOTALL)
_ROOM = re.compile(r"\S*/\S*/|\b[Nn]one\b|\bTrue\b|\bFalse\b|\bnan\b|\binf\b")


class Outcome(NamedTuple):
    """accepted, or the refusal; `template` is equal for equal reasons. shown: the message as a user sees it."""

    kind: str
    template: str
    shown: str = ""


class Wrong(Exception):
    """An answer or an error that must not be. fault: equal for equal faults; detail: this one's own numbers."""

    def __init__(self, fault: str, detail: object = "") -> None:
        super().__init__(f"{fault}: {detail}" if detail else fault)
        self.fault = fault


def template(text: str) -> str:
    """The sentence without quoted values, numbers, lists and paths."""
    text = _ROOM.sub("", _QUOTED.sub("Q", _VALUE.sub(", not V", text)))
    return _NUMBER.sub("N", _LISTED.sub("L", text))[:160]


def refused(error: KvcalcError) -> Outcome:
    """A refusal as it should be: an exit code of its own, one line of what, one of how to fix it.

    Raises: Wrong for one that helps nobody.
    """
    shown = f"{error.sentence}\n  {error.fix}"
    if error.exit_code not in (1, 2, 3, 4):
        raise Wrong(f"exit code {error.exit_code}", shown)
    if not error.fix or not str(error).strip():
        raise Wrong(f"no way out is said by {type(error).__name__} {template(str(error))}", shown)
    if not (error.sentence + error.fix).isprintable():
        raise Wrong("a message has a line break or a control character", repr(shown))
    if len(shown) > 1500:
        raise Wrong(f"a message is too long: {template(shown)[:60]}", len(shown))
    field = re.sub(r"\d+", "N", error.field or "")[:60] if error.exit_code != 1 else ""
    return Outcome("refused", f"{type(error).__name__} {template(_bare(error, field))}", shown)


def _bare(error: KvcalcError, field: str) -> str:
    """The sentence without its file; the last word of the field stays in it."""
    return error.what if error.file is None else error.what.replace(error.file, "")
