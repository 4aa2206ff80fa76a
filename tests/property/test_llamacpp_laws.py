"""The engine contracts on models that llama.cpp takes: the generic ones mostly name no architecture and are refused."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from gguf_bytes import gguf_bytes
from hypothesis import given, settings
from hypothesis import strategies as st

from kvcalc.core.capacity import growth, max_context, max_sessions
from kvcalc.core.model import Model
from kvcalc.core.plan import Layout, Load, Planner
from kvcalc.document import model_from_document
from kvcalc.engines import get_engine
from kvcalc.engines.base import CacheDtypes, Setup
from kvcalc.errors import EngineRefusal, KvcalcError
from kvcalc.importers.gguf import import_gguf

DATA = Path(__file__).parents[1] / "data" / "llamacpp" / "b11549.json.gz"
HEADS: dict[str, dict[str, Any]] = {
    shape["name"]: shape["metadata"] for shape in json.loads(gzip.decompress(DATA.read_bytes()))["shapes"]
}
ENGINES = ("llama.cpp", "ollama", "lmstudio")
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "n_batch": st.sampled_from([64, 512, 2048]),
        "n_ubatch": st.sampled_from([1, 100, 512, 4096]),
        "kv_unified": st.booleans(),
        "swa_full": st.booleans(),
        "flash_attn": st.sampled_from(["auto", "on", "off"]),
        "n_rs_seq": st.integers(0, 3),
        "n_gpu_layers": st.integers(0, 80),
        "offload_kqv": st.booleans(),
    },
)
F16 = CacheDtypes(key="float16", value="float16", index="float16", pending="float32", conv="float32", state="float32")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Recorded headers as models, each read once."""
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"

    @cache
    def model(name: str) -> Model:
        path.write_bytes(gguf_bytes(HEADS[name]))
        return model_from_document(import_gguf(path).document)

    return model


def drawn(models: Any, data: st.DataObject) -> Planner | None:
    """A planner of any recorded model under any options; None where it is refused."""
    engine, version = get_engine(data.draw(st.sampled_from(ENGINES)))
    options = data.draw(OPTIONS) if engine.name == "llama.cpp" else {}
    layout = Layout(pp=data.draw(st.integers(1, 3)), dp=data.draw(st.integers(1, 2)))
    try:
        return engine.prepare(
            models(data.draw(st.sampled_from(sorted(HEADS)))),
            Setup(version=version, dtypes=F16, options=options, layout=layout),
        )
    except KvcalcError:
        return None


def size(planner: Planner, tokens: int, sessions: int) -> int | None:
    try:
        return planner.plan(Load(tokens, sessions)).total_bytes
    except EngineRefusal:
        return None


@settings(max_examples=150)
@given(data=st.data())
def test_bytes_never_shrink(models: Any, data: st.DataObject) -> None:
    """More tokens or sessions never take fewer bytes, on the GPUs and the host together."""
    planner = drawn(models, data)
    if planner is None:
        return
    few, many = sorted(data.draw(st.lists(st.integers(1, 70_000), min_size=2, max_size=2)))
    count, more = sorted(data.draw(st.lists(st.integers(1, 9), min_size=2, max_size=2)))
    sizes = [size(planner, few, count), size(planner, many, count), size(planner, many, more)]
    known = [found for found in sizes if found is not None]
    assert known == sorted(known)


@settings(max_examples=100)
@given(data=st.data())
def test_plans_are_sound(models: Any, data: st.DataObject) -> None:
    """Ranks once each, parts that sum to the whole, and the report's bytes are one server's."""
    planner = drawn(models, data)
    load = Load(data.draw(st.integers(1, 40_000)), data.draw(st.integers(1, 4)))
    if planner is None or size(planner, *load[:2]) is None:
        return
    plan = planner.plan(load)
    ranks = sorted(rank for part in plan.ranks for rank in part.ranks)
    assert ranks == list(range(len(ranks)))
    for part in (*plan.ranks, *([plan.host] if plan.host else [])):
        assert part.bytes == sum(tensor.bytes for tensor in part.tensors)
        assert all(tensor.count == len(tensor.layers) for tensor in part.tensors)
    host = plan.host.bytes if plan.host else 0
    assert plan.total_bytes == sum(plan.by_rank().values()) + host
    report = planner.report(load, 2**30)
    assert json.loads(json.dumps(report)) == report
    context = report["context_bytes"]
    assert isinstance(context, int)
    assert context <= plan.total_bytes


@settings(max_examples=60)
@given(data=st.data())
def test_the_inverse_is_the_last_that_fits(models: Any, data: st.DataObject) -> None:
    """bytes(n) <= pool < bytes(n + 1), for tokens and sessions; a refusal is no fit."""
    planner = drawn(models, data)
    if planner is None:
        return
    pool = data.draw(st.integers(2**20, 2**36))

    def rank(tokens: int, count: int) -> int | None:
        try:
            return planner.plan(Load(tokens, count)).max_rank_bytes
        except EngineRefusal:
            return None

    tokens = max_context(planner, pool)
    if tokens:
        assert (rank(tokens, 1) or 0) <= pool < (rank(tokens + 1, 1) or 0)
    sessions = max_sessions(planner, pool, context_tokens=1000)
    if sessions:
        inside, beyond = rank(1000, sessions), rank(1000, sessions + 1)
        assert inside is not None
        assert inside <= pool
        assert beyond is None or beyond > pool


@settings(max_examples=60)
@given(data=st.data())
def test_growth_is_the_slope_far_out(models: Any, data: st.DataObject) -> None:
    """From saturation on, a period of tokens always adds the same bytes."""
    planner = drawn(models, data)
    if planner is None:
        return
    try:
        rate = growth(planner)
    except EngineRefusal:
        return
    start = (rate.saturation_tokens // rate.period_tokens + 1) * rate.period_tokens
    sizes = [size(planner, start + step * rate.period_tokens, 1) or 0 for step in (0, 1, 2, 50)]
    assert sizes[3] - sizes[0] == 50 * (sizes[1] - sizes[0])
