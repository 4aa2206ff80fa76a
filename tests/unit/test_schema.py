"""Model documents: pydantic's findings in the user's words, and one schema for editors."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from strategies import rich_documents

from kvcalc.core.model import Check, Model, Mtp, Source, Weights
from kvcalc.document import model_from_document
from kvcalc.errors import ModelFileError
from kvcalc.kinds import KIND_TAGS, kinds_by_tag
from kvcalc.schema import ModelDocument, check_document, json_schema, load_file, load_text

DOC: dict[str, Any] = {
    "name": "m",
    "layers": 2,
    "dtype": "bfloat16",
    "attention": {"kind": "gqa", "heads": 8, "groups": 2, "head_dim": 16},
}


SCHEMA = jsonschema.Draft202012Validator(json_schema())


@settings(max_examples=25)
@given(rich_documents())
def test_sound_documents_pass(doc: dict[str, Any]) -> None:
    """Every document of every kind passes pydantic, the JSON Schema and the reader alike, and means the same."""
    assert check_document(doc, file="m.yaml") == model_from_document(doc)
    SCHEMA.validate(doc)


def test_fields_are_the_models() -> None:
    """A document has the fields of `Model`, with attention and pattern for its blocks."""
    model = {item.name for item in fields(Model)}
    assert set(ModelDocument.model_fields) == model - {"blocks"} | {"attention", "pattern"}


def test_every_kind_is_in_the_schema() -> None:
    """The JSON Schema describes every kind with all its fields; unknown keys are refused everywhere."""
    definitions = json_schema()["$defs"]
    for cls in set(kinds_by_tag().values()):
        described = definitions[cls.__name__]
        assert set(described["properties"]) == {item.name for item in fields(cls)}  # type: ignore[arg-type]
        assert described["additionalProperties"] is False
        assert described["description"]
    for group in (Source, Weights, Check, Mtp):
        assert definitions[group.__name__]["additionalProperties"] is False
    tags = {tag for cls in definitions.values() for tag in _tags(cls.get("properties", {}).get("kind", {}))}
    assert tags == set(KIND_TAGS)


def _tags(kind: dict[str, Any]) -> list[str]:
    return [kind["const"]] if "const" in kind else list(kind.get("enum", []))


@pytest.mark.parametrize(
    ("change", "field", "what", "fix"),
    [
        ({"layers": 1.0}, "layers", "layers must be a whole number, not 1.0", "write layers as an integer"),
        ({"lyers": 3}, "lyers", "unknown key 'lyers'", "did you mean layers?"),
        ({"num_kv_heads": 3}, "num_kv_heads", "unknown key 'num_kv_heads'", "known here: name, aliases"),
        ({"max_position_embeddings": 3}, "max_position_embeddings", "unknown key", "here it is called max_context"),
        ({"dtype": "bf17"}, "dtype", "unknown dtype 'bf17'", "did you mean bf16"),
        ({"attention": {"a": {"kind": "gqa"}}}, "attention.a.heads", "heads is missing", "num_attention_heads"),
        ({"attention": {"kind": "mla", "heads": 2}}, "attention.latent_dim", "latent_dim is missing", "kv_lora_rank"),
        (
            {"attention": {"kind": "mla", "kv_lora_rank": 2}},
            "attention.kv_lora_rank",
            "unknown key",
            "called latent_dim",
        ),
        ({"checks": [{}]}, "checks.0.context", "context is missing", "add context"),
        ({"facts": {"a": float("nan")}}, "facts.a", "a must be a number, text, true or false", "single values"),
        ({"source": {"repo": "a\x1bb"}}, "source.repo", "source.repo has control characters", "remove them"),
        ({"name": "a\nb"}, "name", "name has control characters: 'a\\nb'", "remove them"),
    ],
)
def test_words(*, change: dict[str, Any], field: str, what: str, fix: str) -> None:
    """The first fault: its field, what is wrong, how to fix it."""
    with pytest.raises(ModelFileError) as caught:
        check_document(DOC | change, file="m.yaml")
    error = caught.value
    assert error.field == field
    assert error.what.startswith(what)
    assert fix in (error.fix or "")
    assert error.file == "m.yaml"


def test_a_misspelt_field_is_the_better_message() -> None:
    """`grups` makes groups missing too: the misspelling is what is told."""
    with pytest.raises(ModelFileError, match="unknown key 'grups'") as caught:
        check_document(DOC | {"attention": {"kind": "gqa", "heads": 8, "grups": 2, "head_dim": 16}}, file="m.yaml")
    assert caught.value.fix == "did you mean groups?"


def test_a_fault_without_its_own_line_gets_the_nearest() -> None:
    """A missing field has no line: the block around it has."""
    text = b"name: m\nlayers: 2\ndtype: bf16\nattention:\n  a:\n    kind: mla\n    heads: 2\npattern: [a]\n"
    with pytest.raises(ModelFileError, match="latent_dim is missing") as caught:
        load_text(text, file="m.yaml")
    assert caught.value.line == 5


@pytest.mark.parametrize("doc", [None, 3, "x", [], True])
def test_no_mapping(doc: object) -> None:
    """A document is a mapping."""
    with pytest.raises(ModelFileError, match="a model file is a mapping of fields, not"):
        check_document(doc, file="m.yaml")


def test_files(tmp_path: Path) -> None:
    """YAML and kvcalc's own JSON are read by the same rules."""
    import json

    (tmp_path / "m.json").write_text(json.dumps(DOC))
    (tmp_path / "m.yaml").write_text(json.dumps(DOC))
    assert load_file(tmp_path / "m.json") == load_file(tmp_path / "m.yaml") == model_from_document(DOC)


@pytest.mark.parametrize("attention", [{"kind": "mha", "mha": 36}, {"a": {"kind": "mha", "mha": 36}}])
def test_a_key_named_like_the_kind_is_an_unknown_key(attention: dict[str, Any]) -> None:
    """pydantic names the kind on the way to a fault; a key of the same name is not mistaken for it."""
    fields = {"heads": 4, "head_dim": 8}
    block = attention if "kind" in attention else attention["a"]
    document = {"name": "m", "layers": 2, "dtype": "bfloat16", "attention": attention}
    for more in ({}, fields):
        block |= more
        with pytest.raises(ModelFileError, match="unknown key 'mha'") as caught:
            check_document(document, file="m.json")
        assert caught.value.field == ("attention.mha" if "kind" in attention else "attention.a.mha")
        assert "groups" in (caught.value.fix or "")


@pytest.mark.parametrize("extra", [{"kind": "kind"}, {"kind": "mha", "mha": 1}, {"source": {"kind": "mha", "mha": 1}}])
def test_a_kind_elsewhere_is_an_unknown_key(extra: dict[str, Any]) -> None:
    """Only a block of attention has a kind."""
    block = {"kind": "gqa", "heads": 4, "groups": 2, "head_dim": 8}
    for attention in (block, {"a": block}, {"mha": block}):
        document = {"name": "m", "layers": 2, "dtype": "bfloat16", "attention": attention, **extra}
        with pytest.raises(ModelFileError, match="unknown key 'kind'") as caught:
            check_document(document, file="m.json")
        assert caught.value.field == ("source.kind" if "source" in extra else "kind")
