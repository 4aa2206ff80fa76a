"""A document and its model say the same, in both directions and however the pattern is written."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from strategies import rich_documents

from kvcalc.document import document_from_model, model_from_document, write_pattern

LAYERS = st.lists(
    st.one_of(st.sampled_from("abc").map(lambda name: (name,)), st.permutations("ab").map(tuple)),
    min_size=1,
    max_size=40,
)


@given(rich_documents())
def test_round_trip(doc: dict[str, Any]) -> None:
    """document -> model -> document -> model gives an equal model, and an equal document the second time."""
    model = model_from_document(doc)
    written = document_from_model(model)
    again = model_from_document(written)
    assert again == model
    assert document_from_model(again) == written


@given(rich_documents())
def test_reading_does_not_change_the_document(doc: dict[str, Any]) -> None:
    """The caller's document is left as it was."""
    before = copy.deepcopy(doc)
    model_from_document(doc)
    assert doc == before


@given(LAYERS)
def test_written_patterns_are_read_back(layers: list[tuple[str, ...]]) -> None:
    """The run-length pattern of any list of layers is read back to that list."""
    used = {name for layer in layers for name in layer}
    blocks = {name: {"kind": "mha", "heads": 1, "head_dim": 1 + ord(name)} for name in sorted(used)}
    doc = {
        "name": "m",
        "layers": len(layers),
        "dtype": "bfloat16",
        "attention": blocks,
        "pattern": write_pattern(layers),
    }
    assert list(model_from_document(doc).layers) == layers


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 9)), min_size=1, max_size=8), st.integers(0, 30))
def test_run_length_equals_written_out(runs: list[tuple[str, int]], more: int) -> None:
    """`a*3` is a, a, a, wherever the repetition of the whole pattern is cut."""
    used = {name for name, _ in runs}
    blocks = {name: {"kind": "mqa", "heads": 2, "head_dim": 1 + ord(name)} for name in sorted(used)}
    out = [name for name, times in runs for _ in range(times)]
    doc = {"name": "m", "layers": len(out) + more, "dtype": "bfloat16", "attention": blocks}
    short = model_from_document(doc | {"pattern": [f"{name}*{times}" for name, times in runs]})
    assert short == model_from_document(doc | {"pattern": out})
    assert short.layers[: len(out)] == tuple((name,) for name in out)
    assert short.layers[len(out) :] == tuple(short.layers[i % len(out)] for i in range(len(out), len(out) + more))
