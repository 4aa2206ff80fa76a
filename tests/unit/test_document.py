"""Between documents and models: blocks, patterns, what may not be said together, and the way back."""

from __future__ import annotations

from typing import Any

import pytest

from kvcalc.document import LIMITS, MAX_BLOCKS, MAX_NAME, document_from_model, model_from_document, plain, write_pattern
from kvcalc.errors import ModelFileError
from kvcalc.kinds.heads import HeadAttention
from kvcalc.kinds.other import NoCache

MQA = {"kind": "mqa", "heads": 2, "head_dim": 4}
MLA = {"kind": "mla", "heads": 2, "latent_dim": 8, "rope_dim": 2}


CHECK = {"context": 1, "bytes": 1, "published": "a paper"}


def both(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Two blocks, both used."""
    return {"attention": {"a": first, "b": second}, "pattern": ["a", "b"]}


def doc(**fields: Any) -> dict[str, Any]:
    return {"name": "m", "layers": 6, "dtype": "bf16", "attention": {"a": MQA, "b": MLA}, **fields}


@pytest.mark.parametrize(
    ("pattern", "layers"),
    [
        (["a", "b"], "ababab"),
        (["a*3", "b"], "aaabaa"),
        (["a * 2", "b"], "aabaab"),
        (["a", "b*5"], "abbbbb"),
        (["a", "b", "none"], "ab.ab."),
        (["none*2", "a", "b"], "..ab.."),
    ],
)
def test_patterns(pattern: list[str], layers: str) -> None:
    """A pattern repeats to the number of layers and is cut there; `none` needs no block."""
    model = model_from_document(doc(pattern=pattern))
    assert [names[0] for names in model.layers] == [{".": "none"}.get(letter, letter) for letter in layers]
    assert isinstance(model.blocks.get("none", NoCache()), NoCache)


def test_two_caches_in_one_layer() -> None:
    """A list names the caches of one layer."""
    model = model_from_document(doc(pattern=[["a", "b"]]))
    assert model.layers == (("a", "b"),) * 6
    assert model.kinds_summary() == {"mqa": 6, "mla": 6}


def test_one_unnamed_block_is_every_layer() -> None:
    """Without names there is no pattern."""
    model = model_from_document(doc(attention=MQA))
    assert model.layers == (("attention",),) * 6
    assert model.blocks == {"attention": HeadAttention(kind="mqa", heads=2, head_dim=4)}


def test_one_named_block_needs_no_pattern() -> None:
    """A single named block is every layer too."""
    assert model_from_document(doc(attention={"a": MQA})).layers == (("a",),) * 6


def test_speculative_layers_use_a_block() -> None:
    """A block that only mtp names is used."""
    model = model_from_document(doc(pattern=["a"], mtp={"layers": 1, "block": "b"}))
    assert model.mtp is not None
    assert model.mtp.block == "b"


def test_dtypes_become_canonical() -> None:
    """Types are kept under one name, whatever the file called them."""
    model = model_from_document(doc(attention=MQA, cache_dtype="fp8", state_dtype="F32", index_dtype="torch.float16"))
    assert (model.dtype, model.cache_dtype, model.state_dtype, model.index_dtype) == (
        "bfloat16",
        "fp8_e4m3",
        "float32",
        "float16",
    )


@pytest.mark.parametrize(
    ("fields", "field", "says"),
    [
        ({}, "pattern", "2 blocks and no pattern"),
        ({"pattern": ["a"]}, "attention.b", "block 'b' is in no layer"),
        ({"pattern": ["a", "c"]}, "pattern.1", "pattern names 'c'"),
        ({"pattern": []}, "pattern", "pattern is empty"),
        ({"pattern": ["a*7", "b"]}, "pattern.0", "more layers than layers: 6"),
        ({"pattern": ["a", "b", ["a", "c"]]}, "pattern.2", "pattern names 'c'"),
        ({"pattern": ["a", "b"], "mtp": {"layers": 1, "block": "c"}}, "mtp.block", "mtp names 'c'"),
        ({"attention": {}}, "attention", "attention is empty"),
        ({"attention": MQA, "pattern": ["attention"]}, "pattern", "one unnamed block"),
        ({"attention": {f"b{i}": MQA for i in range(MAX_BLOCKS + 1)}}, "attention", "more than 1000 blocks"),
        (both(MQA, {"kind": "shared", "of": "b"}), "attention.b.of", "none of its own"),
        (both({"kind": "shared"}, {"kind": "shared", "of": "a"}), "attention.b.of", "none of its own"),
        ({"attention": MQA, "weights": {"dtype": "fp7"}}, "weights.dtype", "unknown dtype"),
        ({"attention": MQA, "checks": [CHECK | {"engine": "v"}]}, "checks.0.engine", "unknown engine 'v'"),
    ],
)  # fmt: skip
def test_contradictions(*, fields: dict[str, Any], field: str, says: str) -> None:
    """What cannot be meant is refused, with the path of the field at fault."""
    with pytest.raises(ModelFileError, match=says) as caught:
        model_from_document(doc(**fields))
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("layers", "pattern"),
    [
        ("a", ["a"]),
        ("aaaa", ["a"]),
        ("abab", ["a", "b"]),
        ("ababa", ["a", "b"]),
        ("aaab", ["a*3", "b"]),
        ("aabaa", ["a*2", "b"]),
        ("abba", ["a", "b*2"]),
    ],
)
def test_write_pattern(layers: str, pattern: list[str]) -> None:
    """The shortest round whose repetition, cut at the end, is the layers; runs are counted."""
    assert write_pattern([(letter,) for letter in layers]) == pattern


def test_absent_fields_stay_absent() -> None:
    """A document written from a model holds nothing that was not said."""
    small = doc(attention=MQA)
    assert document_from_model(model_from_document(small)) == {**small, "dtype": "bfloat16"}


def test_plain() -> None:
    """A record as a dict: defaults left out, the kind always kept, nested ones included."""
    kind = HeadAttention(kind="mha", heads=2, head_dim=4, window=8)
    assert plain(kind) == {"kind": "mha", "heads": 2, "head_dim": 4, "window": 8}
    assert plain(NoCache()) == {"kind": "none"}
    assert plain(3) == 3


@pytest.mark.parametrize("field", LIMITS)
@pytest.mark.parametrize("wrong", [0, -1, True, 8.0, "8", [8], None])
def test_numbers_beside_the_kinds_are_checked(field: str, wrong: object) -> None:
    """Each whole number outside its limits, or no whole number, is refused by name; its largest value is not."""
    group, _, key = field.rpartition(".")

    def written(value: object) -> dict[str, Any]:
        base: dict[str, Any] = {"attention": MQA, "layers": 6}
        inside = {"layers": 1, "block": "attention"} if group == "mtp" else {}
        return doc(**{**base, group: {**inside, key: value}} if group else {**base, key: value})

    most = LIMITS[field]
    for value in (most + 1, wrong):
        if value is None:
            continue  # absent
        with pytest.raises(ModelFileError, match="outside 1 to") as caught:
            model_from_document(written(value), file="m.yaml")
        assert (caught.value.field, caught.value.file, caught.value.value) == (field, "m.yaml", value)
    assert model_from_document(written(most))


@pytest.mark.parametrize("key", ["context", "bytes", "sessions"])
def test_numbers_of_checks_are_checked(key: str) -> None:
    """A published figure has a sensible context, size and number of sessions."""
    with pytest.raises(ModelFileError, match="is 0, outside 1 to") as caught:
        model_from_document(doc(attention=MQA, checks=[CHECK, {**CHECK, key: 0}]))
    assert caught.value.field == f"checks.1.{key}"


@pytest.mark.parametrize("key", ["name", "architecture"])
def test_names_are_printable_and_short(key: str) -> None:
    """An escape code reaches no terminal; a page is no name."""
    for value in ("\x1b[31m", "\x85", "\x00"):
        with pytest.raises(ModelFileError, match=f"{key} has control characters"):
            model_from_document(doc(**{"attention": MQA, key: value}))
    for value in ("", "x" * (MAX_NAME + 1)):
        with pytest.raises(ModelFileError, match=f"{key} has {len(value)} characters"):
            model_from_document(doc(**{"attention": MQA, key: value}))
    assert model_from_document(doc(**{"attention": MQA, key: "é" * MAX_NAME}))


@pytest.mark.parametrize("weights", [{}, {"source": None}, {"dtype": None, "bytes": None}])
def test_weights_that_say_nothing_are_absent(weights: dict[str, Any]) -> None:
    """A model is equal to the one its own document gives."""
    model = model_from_document(doc(attention=MQA, weights=weights))
    assert model.weights is None
    assert model_from_document(document_from_model(model)) == model


@pytest.mark.parametrize("dtype", ["fp8", "int8", "int64", "q8_0", "mxfp4", "nvfp4"])
def test_no_model_computes_in_a_quantised_type(dtype: str) -> None:
    """Engines would take it for the cache's element, and blocks of 32 for elements: refused where it is read."""
    with pytest.raises(ModelFileError, match="which no model computes in") as caught:
        model_from_document(doc(attention=MQA, dtype=dtype))
    assert caught.value.field == "dtype"
    assert "cache_dtype" in (caught.value.fix or "")
    assert model_from_document(doc(attention=MQA, cache_dtype=dtype))
