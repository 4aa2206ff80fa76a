"""Every field of every kind and group with a wrong value: exit 3, with file, line, field, what and a fix."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import MISSING, Field
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from calling import Call
from sound import BLOCKS, Doc, changed, document, written

from kvcalc.core.model import Check, Mtp, Source, Weights
from kvcalc.kinds import kinds_by_tag
from kvcalc.kinds.indexer import Indexer

#: Fields that are no counts: what they must be, and what they must not.
NO_COUNTS: dict[str, tuple[str, tuple[object, ...]]] = {
    "tied_kv": ("true or false", (1, "true", [True])),
    "shared": ("true or false", (1, "true", [True])),
    "of": ("text", (1, True, ["a"])),
    "indexer": ("a mapping", (1, True, "x", [1])),
}
#: Counts that may be 0, and those that need 2: a convolution of 1 keeps nothing, a slot of 1 token is no compression.
LEAST = {"rope_dim": 0, "nope_dim": 0, "sinks": 0, "conv_kernel": 2}
LEAST_IN_COMPRESSED = {"tokens_per_slot": 2}
HUGE = 2**63


class Bad(NamedTuple):
    """One wrong value of one field, and what must be said."""

    tag: str
    field: str
    value: object  # MISSING: the field is left out
    says: str

    @property
    def id(self) -> str:
        return f"{self.tag}-{self.field}-{'missing' if self.value is MISSING else self.value}"


def _bad_counts(tag: str, item: Field[Any]) -> Iterator[Bad]:
    name = item.name
    least = LEAST.get(name, LEAST_IN_COMPRESSED.get(name, 1) if tag in ("csa", "hca") else 1)
    for value in sorted({-1, least - 1}):
        yield Bad(tag, name, value, f"{name} is {value}, outside {least} to ")
    yield Bad(tag, name, HUGE, f"{name} is {HUGE}, outside {least} to ")
    others: tuple[object, ...] = (8.0, 1.5, "8", True, [8], {})
    for other in others:
        yield Bad(tag, name, other, f"{name} must be a whole number, not {other!r}")


def _fields(cls: Any) -> tuple[Field[Any], ...]:
    return dataclasses.fields(cls)


def _bad_fields(tag: str, cls: type) -> Iterator[Bad]:
    """Every field of a kind: negative, zero, huge, float, text, boolean, list, mapping, empty, missing."""
    for item in _fields(cls):
        if item.name == "kind":
            continue
        if item.name in NO_COUNTS:
            wanted, values = NO_COUNTS[item.name]
            for value in values:
                yield Bad(tag, item.name, value, f"{item.name} must be {wanted}, not {value!r}")
        else:
            yield from _bad_counts(tag, item)
        if item.default is MISSING:
            yield Bad(tag, item.name, MISSING, f"{item.name} is missing")
            yield Bad(tag, item.name, None, f"{item.name} is empty")


KIND_FAULTS = [bad for tag, cls in kinds_by_tag().items() for bad in _bad_fields(tag, cls)]
INDEXER_FAULTS = list(_bad_fields("indexer", Indexer))


def test_every_kind_has_a_sound_block() -> None:
    """The blocks that the cases below break one field of are those of all kinds."""
    assert set(BLOCKS) == set(kinds_by_tag())


@pytest.mark.parametrize("tag", BLOCKS)
def test_sound_blocks_pass(call: Call, tmp_path: Path, tag: str) -> None:
    """Unbroken, each block is a valid model."""
    done = call("validate", written(tmp_path / "model.yaml", document({"kind": tag, **BLOCKS[tag]})))
    assert (done.code, done.err) == (0, "")


@pytest.mark.parametrize("bad", KIND_FAULTS, ids=lambda bad: bad.id)
def test_field_of_a_kind(call: Call, tmp_path: Path, bad: Bad) -> None:
    """Each field of each kind: exit 3, and file, line, field, what and a fix are said."""
    block = changed({"kind": bad.tag, **BLOCKS[bad.tag]}, bad.field, bad.value)
    path = written(tmp_path / "model.yaml", document(block))
    done = call("validate", path, "--json")
    (row,) = done.answer["results"]
    assert done.code == 3
    assert row["status"] == "broken"
    fault = row["error"]
    assert fault["message"].startswith(bad.says)
    assert (fault["file"], fault["line"], fault["field"]) == (path, 5, f"attention.{bad.field}")
    assert fault["fix"]


@pytest.mark.parametrize("bad", INDEXER_FAULTS, ids=lambda bad: bad.id)
def test_field_of_the_indexer(call: Call, tmp_path: Path, bad: Bad) -> None:
    """The indexer inside a block is checked field by field like the block, under its own path."""
    indexer = changed({"head_dim": 8}, bad.field, bad.value)
    block = {"kind": "mla", **BLOCKS["mla"], "indexer": indexer}
    path = written(tmp_path / "model.yaml", document(block))
    done = call("size", path, "--json")
    assert (done.code, done.out) == (3, "")
    assert done.error["message"].startswith(bad.says)
    assert done.error["field"] == f"attention.indexer.{bad.field}"
    assert done.error["line"] == 5


@pytest.mark.parametrize("tag", BLOCKS)
def test_unknown_key_of_a_kind(call: Call, tmp_path: Path, tag: str) -> None:
    """A misspelt field of any kind is refused and the right one suggested; a strange one gets the list."""
    names = [item.name for item in _fields(kinds_by_tag()[tag])]
    wanted = names[-1]
    misspelt = f"{wanted[:-1]}{wanted[-1]}{wanted[-1]}"
    path = written(tmp_path / "model.yaml", document({"kind": tag, **BLOCKS[tag], misspelt: 1}))
    done = call("validate", path, "--json")
    fault = done.answer["results"][0]["error"]
    assert done.code == 3
    assert fault["message"] == f"unknown key {misspelt!r}"
    assert fault["fix"].startswith("did you mean ")
    assert wanted in fault["fix"]
    path = written(tmp_path / "other.yaml", document({"kind": tag, **BLOCKS[tag], "qqqq": 1}))
    fault = call("validate", path, "--json").answer["results"][0]["error"]
    assert fault["fix"] == f"known here: {', '.join(names)}"


GROUPS: list[tuple[str, type, Doc]] = [
    ("source", Source, {"repo": "a/b"}),
    ("weights", Weights, {"bytes": 5}),
    ("mtp", Mtp, {"layers": 1, "block": "attention"}),
    ("checks", Check, {"context": 1, "bytes": 1, "published": "paper"}),
]


class BadGroup(NamedTuple):
    """One wrong value of one field of a group."""

    group: str
    field: str
    value: object
    says: str

    @property
    def id(self) -> str:
        return f"{self.group}-{self.field}-{'missing' if self.value is MISSING else self.value}"


def _wrong_values(item: Field[Any]) -> Iterator[tuple[object, str]]:
    name, kind = item.name, str(item.type)
    if "int" in kind:
        yield from ((value, f"{name} is {value}, outside 1 to ") for value in (-1, 0, 2**64))
        counts: tuple[object, ...] = (1.5, "1", True, [1])
        yield from ((value, f"{name} must be a whole number, not {value!r}") for value in counts)
    elif "str" in kind:
        texts: tuple[object, ...] = (3, True, ["x"])
        yield from ((value, f"{name} must be text, not {value!r}") for value in texts)
    else:
        switches: tuple[object, ...] = (1, "true")
        yield from ((value, f"{name} must be true or false, not {value!r}") for value in switches)
    if item.default is MISSING:
        yield MISSING, f"{name} is missing"
    if name in ("dtype", "engine"):
        yield "nope", f"unknown {name} 'nope'"


def _group_faults() -> Iterator[BadGroup]:
    for group, cls, _ in GROUPS:
        yield from (BadGroup(group, item.name, *wrong) for item in _fields(cls) for wrong in _wrong_values(item))
        yield BadGroup(group, "qqqq", 1, "unknown key 'qqqq'")


@pytest.mark.parametrize("bad", list(_group_faults()), ids=lambda bad: bad.id)
def test_field_of_a_group(call: Call, tmp_path: Path, bad: BadGroup) -> None:
    """source, weights, mtp and checks: each field of the wrong type or out of range is refused with its path."""
    sound = next(doc for name, _, doc in GROUPS if name == bad.group)
    broken = changed(sound, bad.field, bad.value)
    listed = bad.group == "checks"
    place = f"{bad.group}.0" if listed else bad.group
    text = {**document({"kind": "mha", **BLOCKS["mha"]}), bad.group: [broken] if listed else broken}
    done = call("size", written(tmp_path / "model.yaml", text), "--json")
    assert (done.code, done.out) == (3, "")
    assert done.error["message"].removeprefix(f"{place}.").startswith(bad.says)
    assert (done.error["field"], done.error["line"]) == (f"{place}.{bad.field}", 6)


def test_written_files_are_what_yaml_reads(tmp_path: Path) -> None:
    """The files of this module are broken where they should be: another YAML reader sees the same document."""
    doc = document({"kind": "mha", **BLOCKS["mha"]})
    assert yaml.safe_load(Path(written(tmp_path / "model.yaml", doc)).read_text()) == doc
