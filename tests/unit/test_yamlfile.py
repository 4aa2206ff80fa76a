"""Model files as text: plain YAML and JSON in, the same YAML out, with the line of every field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kvcalc.errors import ModelFileError
from kvcalc.yamldump import dump
from kvcalc.yamlfile import MAX_DEPTH, MAX_DIGITS, MAX_FILE_BYTES, decode, parse, read_bytes

TEXT = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="\ufeff\ufffe\uffff"), max_size=9
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**20), 10**20), TEXT, st.floats(allow_nan=False, allow_infinity=False)
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)),
    max_leaves=12,
)


def read(text: str) -> Any:
    return parse(text, "m.yaml")[0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1), ("-1", -1), ("+1", 1), ("0", 0), ("007", 7), ("1_000", 1000), ("1.5", 1.5), ("1e3", 1000.0),
        ("1E-05", 1e-5),
        (".5", 0.5), ("true", True), ("false", False), ("True", True), ("null", None), ("~", None), ("", None),
        ("no", "no"), ("yes", "yes"), ("on", "on"), ("off", "off"), ("Y", "Y"), ("1:30", "1:30"), ("0x10", "0x10"),
        ("0b1", "0b1"), ("2024-01-01", "2024-01-01"), ("'1'", "1"), ('"true"', "true"), ("NaN", "NaN"),
        ("Infinity", "Infinity"),
        ("1.2.3", "1.2.3"), ("1k", "1k"), ("=", "="), ("'~'", "~"), ("\u0661", "\u0661"),
    ],
)  # fmt: skip
def test_scalars(text: str, value: object) -> None:
    """Scalars mean what JSON or the reader's eye says, not what YAML 1.1 makes of them."""
    found = read(f"a: {text}")["a"]
    assert found == value
    assert type(found) is type(value)


def test_lines() -> None:
    """Every path has the 1-based line where its key (or list item) stands."""
    text = "# c\nname: x\nattention:\n  a: {kind: mqa,\n      heads: 1}\npattern:\n  - a\n  - [a, b]\n"
    document, lines = parse(text, "m.yaml")
    assert document["attention"]["a"] == {"kind": "mqa", "heads": 1}
    assert lines["name",] == 2
    assert lines["attention", "a", "kind"] == 4
    assert lines["attention", "a", "heads"] == 5
    assert lines["pattern", 1] == 8
    assert lines["pattern", 1, 1] == 8


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("a: *b\n", 1, "anchors and aliases"),
        ("a: 1\nb: &x 2\n", 2, "anchors and aliases"),
        ("a: !!int '3'\n", 1, "YAML tag tag:yaml.org,2002:int"),
        ("a: !thing {}\n", 1, "YAML tag !thing"),
        ("a: 1\n---\nb: 2\n", 2, "more than one document"),
        ("a: 1\nb: 2\na: 3\n", 3, "'a' is given twice"),
        ("a: {b: 1, c: {b: 1, b: 2}}\n", 1, "'b' is given twice"),
        ("{a: 1}: 2\n", 1, "a key must be a word"),
        ("a: .inf\n", 1, "'.inf' is no finite number"),
        ("a: -1e999\n", 1, "'-1e999' is no finite number"),
        (f"x: 1\na: {'1' * (MAX_DIGITS + 1)}\n", 2, "is no sensible number"),
        ("a: 'b\n", 2, "not valid YAML"),
        ("a: [1\nb: 2\n", 2, "not valid YAML"),
        ("a: %\n", 1, "not valid YAML"),
    ],
)
def test_refused(text: str, line: int, says: str) -> None:
    """What a model file never needs is refused with its line."""
    with pytest.raises(ModelFileError, match=says.replace("!", "\\!").replace(".", "\\.")) as caught:
        read(text)
    assert caught.value.line == line
    assert caught.value.file == "m.yaml"
    assert caught.value.fix


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_depth(suffix: str) -> None:
    """MAX_DEPTH levels are read, one more is not, and a thousand more cost nothing."""
    deepest = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert parse(deepest, f"m.{suffix}")[0] is not None
    for levels in (MAX_DEPTH + 1, 1000, 100_000):
        with pytest.raises(ModelFileError, match="nested deeper than"):
            parse("[" * levels + "]" * levels, f"m.{suffix}")


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n", "\ufeff"])
def test_empty(text: str) -> None:
    """An empty file is said to be empty."""
    if text == "---\n":
        assert read(text) is None  # an explicit document: the empty value, which is no model either
        return
    with pytest.raises(ModelFileError, match="the file is empty"):
        read(decode(text.encode(), "m.yaml"))


@given(TREES)
def test_json_is_read_as_json(tree: Any) -> None:
    """Whatever json writes, in either escaping and indentation, is read back the same."""
    for text in (json.dumps(tree), json.dumps(tree, ensure_ascii=False, indent="\t")):
        assert parse(text, "config.JSON") == (tree, {})


def test_json_of_the_real_world() -> None:
    """Surrogate pairs, escaped slashes, long keys and the Infinity that Mamba configs hold."""
    text = '{"a": "\\ud83d\\ude00", "b": "\\/", "%s": 1, "time_step_limit": [0.0, Infinity]}' % ("k" * 3000)
    document = parse(text, "config.json")[0]
    assert document["a"] == "\U0001f600"
    assert document["b"] == "/"
    assert document["time_step_limit"] == [0.0, float("inf")]


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ('{"a": 1,}', 1, "not valid JSON: "),
        ('{\n"a": \n}', 3, "not valid JSON: "),
        ("{'a': 1}", 1, "not valid JSON: "),
        ('{"a": 1} {"b": 2}', 1, "not valid JSON: Extra data"),
        ('{"a": {"b": 1, "b": 2}}', None, "'b' is given twice"),
        ("[" + "1" * (MAX_DIGITS + 1) + "]", None, "is no sensible number"),
        ('"\x01"', 1, "not valid JSON: "),
    ],
)
def test_json_refused(text: str, line: int | None, says: str) -> None:
    """Broken JSON is refused, a syntax error with its line."""
    with pytest.raises(ModelFileError, match=says) as caught:
        parse(text, "m.json")
    assert caught.value.line == line


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), TREES, min_size=1, max_size=5))
def test_dumped_documents_are_read_back(document: dict[str, Any]) -> None:
    """dump writes YAML that this reader and PyYAML's both read as the document: no anchors, one line a field."""
    text = dump(document)
    assert yaml.safe_load(text) == document
    assert "&id" not in text
    assert read(text) == document


def test_dump_writes_no_anchors() -> None:
    """The same list twice is written twice."""
    pair = ["a", "b"]
    assert "&" not in dump({"pattern": [pair, pair]})
    assert read(dump({"pattern": [pair, pair]})) == {"pattern": [pair, pair]}


def test_decode() -> None:
    """UTF-8 with or without a mark; other encodings and NUL bytes are refused with the first bad byte."""
    assert decode("\ufeffname: ä".encode(), "f") == "name: ä"
    with pytest.raises(ModelFileError, match="byte 3 is no UTF-8"):
        decode(b"abc\xff", "f")
    with pytest.raises(ModelFileError, match="NUL"):
        decode(b"a\0b", "f")


def test_read_bytes(tmp_path: Path) -> None:
    """Files up to the limit are read whole, one byte more is refused."""
    path = tmp_path / "m.yaml"
    path.write_bytes(b"x" * MAX_FILE_BYTES)
    assert len(read_bytes(path)) == MAX_FILE_BYTES
    path.write_bytes(b"x" * (MAX_FILE_BYTES + 1))
    with pytest.raises(ModelFileError, match="above 4 MiB"):
        read_bytes(path)
    with pytest.raises(ModelFileError, match="is a directory"):
        read_bytes(tmp_path)
    with pytest.raises(ModelFileError, match="does not exist"):
        read_bytes(tmp_path / "none")
    link = tmp_path / "loop"
    link.symlink_to(link)
    with pytest.raises(ModelFileError):
        read_bytes(link)
