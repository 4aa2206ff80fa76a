"""Errors say what, where and how to fix it, once each."""

from __future__ import annotations

import json

import pytest

from kvcalc.errors import (
    EXIT_CODES,
    Bug,
    CannotMeasure,
    EngineRefusal,
    KvcalcError,
    ModelFileError,
    UsageError,
    did_you_mean,
    short,
)


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        (UsageError("x"), 2, "usage"),
        (ModelFileError("x"), 3, "model_file"),
        (EngineRefusal("x"), 1, "engine_refusal"),
        (CannotMeasure("x"), 4, "cannot_measure"),
        (Bug("x"), 70, "bug"),
    ],
)
def test_exit_codes(error: KvcalcError, code: int, kind: str) -> None:
    """Each class has its documented exit code and its name in JSON; all are ValueErrors."""
    assert error.exit_code == code
    assert code in EXIT_CODES
    assert error.as_dict() == {"error": {"kind": kind, "message": "x", "exit_code": code}}
    assert isinstance(error, ValueError)


@pytest.mark.parametrize(
    ("what", "file", "line", "field", "sentence"),
    [
        ("x is wrong", None, None, None, "x is wrong"),
        ("x is wrong", None, 3, "x", "x is wrong"),
        ("it is wrong", "a.yaml", None, None, "a.yaml: it is wrong"),
        ("it is wrong", "a.yaml", 3, None, "a.yaml:3: it is wrong"),
        ("it is wrong", "a.yaml", 3, "b.x", "a.yaml:3: b.x: it is wrong"),
        ("x is wrong", "a.yaml", 3, "b.x", "a.yaml:3: b.x is wrong"),
        ("b.x is wrong", "a.yaml", 3, "b.x", "a.yaml:3: b.x is wrong"),
        ("xy is wrong", "a.yaml", 3, "b.x", "a.yaml:3: b.x: xy is wrong"),
        ("a.yaml is wrong", "a.yaml", None, None, "a.yaml is wrong"),
        ("cannot read a.yaml: no", "a.yaml", None, "b", "cannot read a.yaml: no"),
    ],
)
def test_sentence(*, what: str, file: str | None, line: int | None, field: str | None, sentence: str) -> None:
    """File, line and field come before the message unless it says them itself."""
    assert ModelFileError(what, file=file, line=line, field=field).sentence == sentence


def test_as_dict() -> None:
    """The JSON object has what is known and nothing else; a value of any type is shown short."""
    error = ModelFileError("w", fix="f", file="a", line=3, field="x", value={"a": "b" * 200})
    record = json.loads(json.dumps(error.as_dict()))["error"]
    assert set(record) == {"kind", "message", "fix", "file", "line", "field", "value", "exit_code"}
    assert record["line"] == 3
    assert len(record["value"]) == 60


@pytest.mark.parametrize(
    ("value", "text"), [(1, "1"), ("a", "'a'"), (None, "None"), ("\n\x1b", "'\\n\\x1b'"), ("x" * 99, f"'{'x' * 56}...")]
)
def test_short(value: object, text: str) -> None:
    """Values are cut to one short line without control characters."""
    assert short(value) == text


def test_did_you_mean() -> None:
    """Near names are suggested, at most three, as they are written; nothing where nothing is near."""
    assert did_you_mean("heds", ["heads", "groups"]) == "did you mean heads?"
    assert did_you_mean("LLAMA3", ["Llama3", "gemma"]) == "did you mean Llama3?"
    assert did_you_mean("zzz", ["heads"]) is None
    assert did_you_mean("", ["heads"]) is None
    near = did_you_mean("aaaa", ["aaab", "aaac", "aaad", "aaae"])
    assert near is not None
    assert near.count(" or ") == 2
