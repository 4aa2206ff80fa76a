"""Answers recorded from real llama.cpp builds, for runs without the library (tests/conformance/llamacpp/record.py)."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from gguf_bytes import gguf_bytes

from kvcalc.core.component import Role
from kvcalc.core.plan import Load
from kvcalc.document import model_from_document
from kvcalc.engines.base import CacheDtypes, Setup
from kvcalc.engines.llamacpp import ENGINE
from kvcalc.engines.llamacpp.arch import arch_of
from kvcalc.errors import EngineRefusal
from kvcalc.importers.gguf import import_gguf

DATA = Path(__file__).parents[1] / "data" / "llamacpp"
BUILDS = ("b11549", "b10566")
ASKED: frozenset[Role] = frozenset(("key", "value"))


@cache
def recorded(build: str) -> dict[str, Any]:
    """The file of one build."""
    found: dict[str, Any] = json.loads(gzip.decompress((DATA / f"{build}.json.gz").read_bytes()))
    return found


SHAPES = [(build, shape["name"]) for build in BUILDS for shape in recorded(build)["shapes"]]


def predict(model: Any, asked: dict[str, Any], build: str, sizes: list[str]) -> Any:
    """Our sizes as a list, or our words of a refusal."""
    rest = dict(asked)
    key, value, slots = rest.pop("type_k"), rest.pop("type_v"), rest.pop("n_seq_max")
    dtypes = CacheDtypes(key=key, value=value, index=key, pending="float32", conv="float32", state="float32")
    try:
        planner = ENGINE.prepare(model, Setup(version=build, dtypes=dtypes, options=rest, asked=ASKED))
        report = planner.report(Load(1, slots))
        assert planner.plan(Load(1, slots)).total_bytes == report["context_bytes"]
        return [report[name] for name in sizes]
    except EngineRefusal as refusal:
        return str(refusal)


def test_both_builds_are_recorded() -> None:
    """Every version of the engine has its recording, of at least 100 models of 60 architectures."""
    assert ENGINE.versions == BUILDS
    for build in BUILDS:
        shapes = recorded(build)["shapes"]
        assert len(shapes) >= 100
        assert len({shape["metadata"]["general.architecture"] for shape in shapes}) >= 60


@pytest.mark.parametrize(("build", "name"), SHAPES)
def test_recorded_answers_are_predicted(build: str, name: str, tmp_path: Path) -> None:
    """Bytes and sizes are the library's; where it refused or aborted, so do we."""
    data = recorded(build)
    shape = next(item for item in data["shapes"] if item["name"] == name)
    path = tmp_path / "shape.gguf"
    path.write_bytes(gguf_bytes(shape["metadata"]))
    model = model_from_document(import_gguf(path).document)
    assert arch_of(shape["metadata"]["general.architecture"], len(model.layers), build) is not None
    for changed, answer in zip(data["options"], shape["answers"], strict=True):
        ours = predict(model, data["server"] | changed, build, data["sizes"])
        if isinstance(answer, list):
            assert ours == answer, changed
        else:
            assert isinstance(ours, str), changed
            assert ("aborts" in ours) == (answer is None), (changed, answer, ours)
