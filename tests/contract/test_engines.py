"""What every engine promises for every kind: whole bytes that never shrink, every rank once, refusals in words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import cache_dtypes, layouts, loads, models, same_dtype

from kvcalc.core.capacity import growth, max_context, max_sessions
from kvcalc.core.exactness import LABELS
from kvcalc.core.model import Model
from kvcalc.core.plan import CachePlan, Layout, Load, Planner
from kvcalc.dtypes import DTYPES
from kvcalc.engines import engine_names, get_engine
from kvcalc.engines.base import CacheDtypes, Setup, read_options
from kvcalc.errors import KvcalcError
from kvcalc.kinds import KIND_TAGS

FEW = settings(max_examples=25)
BF16 = same_dtype("bfloat16")


def prepared(
    name: str, model: Model, *, layout: Layout, dtypes: CacheDtypes, version: str | None = None
) -> Planner | None:
    """The planner, or None where the engine refuses (any other exception fails the test)."""
    engine, newest = get_engine(name)
    version = version or newest
    try:
        return engine.prepare(model, Setup(version=version, layout=layout, dtypes=dtypes))
    except KvcalcError as refusal:
        check_refusal(refusal)
        return None


def versions(name: str) -> st.SearchStrategy[str]:
    """Any version the engine has rules for."""
    return st.sampled_from(get_engine(name)[0].versions)


def check_refusal(refusal: KvcalcError) -> None:
    """Words for the user, and the exit code of a refusal or of a wrong question."""
    assert str(refusal)
    assert refusal.exit_code in (1, 2)


def check_plan(plan: CachePlan, layout: Layout) -> None:
    """Each global rank exactly once; integers; a rank's bytes are the sum of its tensors."""
    assert sorted(rank for part in plan.ranks for rank in part.ranks) == list(range(layout.ranks))
    for part in plan.ranks:
        assert type(part.bytes) is int
        assert part.bytes == sum(tensor.bytes for tensor in part.tensors)
        for tensor in part.tensors:
            assert type(tensor.bytes) is int
            assert tensor.bytes >= 0
            assert tensor.count >= 1
            assert all(type(width) is int and width >= 0 for width in (*tensor.shape, tensor.slots, tensor.count))
    assert plan.total_bytes == sum(plan.by_rank().values())
    assert plan.max_rank_bytes == max(rank.bytes - rank.uncharged for rank in plan.ranks)


@pytest.mark.parametrize("name", engine_names())
@pytest.mark.parametrize("tag", KIND_TAGS)
@FEW
@given(data=st.data())
def test_every_engine_takes_every_kind(name: str, tag: str, data: st.DataObject) -> None:
    """Any model of any kind, dtype, layout and load: a sound plan, or a refusal in words."""
    model, layout, load = data.draw(models((tag,))), data.draw(layouts(4)), data.draw(loads())
    planner = prepared(name, model, layout=layout, dtypes=data.draw(cache_dtypes()), version=data.draw(versions(name)))
    if planner is None:
        return
    try:
        check_plan(planner.plan(load), layout)
    except KvcalcError as refusal:
        check_refusal(refusal)
        return
    assert planner.exactness in LABELS
    assert all(isinstance(text, str) and text for text in (*planner.assumptions, *planner.warnings))


@pytest.mark.parametrize("name", engine_names())
@settings(max_examples=100)
@given(data=st.data())
def test_bytes_never_shrink(name: str, data: st.DataObject) -> None:
    """More tokens or more sessions never take fewer bytes on any rank: the inverse rests on it."""
    model = data.draw(models())
    dtypes = same_dtype(data.draw(st.sampled_from(["bfloat16", "float16", "fp8_e4m3"])))
    planner = prepared(name, model, layout=Layout(), dtypes=dtypes, version=data.draw(versions(name)))
    if planner is None:
        return
    if name == "transformers" and any(c.role == "pending" for kind in model.blocks.values() for c in kind.lower()):
        return  # live bytes: inputs of an open group go when it closes, as counted in the real code
    few, many = sorted(data.draw(st.lists(st.integers(1, 5000), min_size=2, max_size=2)))
    sessions, more = sorted(data.draw(st.lists(st.integers(1, 9), min_size=2, max_size=2)))

    def size(tokens: int, count: int) -> int:
        return planner.plan(Load(tokens, count, 50)).max_rank_bytes

    assert size(few, sessions) <= size(many, sessions)
    assert size(many, sessions) <= size(many, more)


@pytest.mark.parametrize("name", engine_names())
@FEW
@given(data=st.data())
def test_the_inverse_is_the_last_that_fits(name: str, data: st.DataObject) -> None:
    """bytes(n) <= pool < bytes(n + 1), for tokens and for sessions, for every engine."""
    planner = prepared(name, data.draw(models()), layout=Layout(), dtypes=BF16, version=data.draw(versions(name)))
    if planner is None:
        return
    pool = data.draw(st.integers(1, 2**28))

    def fits(tokens: int, count: int) -> bool:
        return planner.plan(Load(tokens, count, 50)).max_rank_bytes <= pool

    tokens = max_context(planner, pool, encoder_tokens=50)
    if tokens is not None:
        assert tokens == 0 or fits(tokens, 1)
        assert not fits(tokens + 1, 1)
    sessions = max_sessions(planner, pool, context_tokens=100, encoder_tokens=50)
    if sessions is not None:
        assert sessions == 0 or fits(100, sessions)
        assert not fits(100, sessions + 1)


@pytest.mark.parametrize("name", engine_names())
@FEW
@given(data=st.data())
def test_growth_is_the_slope_far_out(name: str, data: st.DataObject) -> None:
    """From saturation on, a period of tokens always adds the same bytes."""
    planner = prepared(name, data.draw(models()), layout=Layout(), dtypes=BF16, version=data.draw(versions(name)))
    if planner is None:
        return
    rate = growth(planner, encoder_tokens=7)
    period = rate.period_tokens
    start = (rate.saturation_tokens // period + 1) * period
    sizes = [planner.plan(Load(start + step * period, 1, 7)).total_bytes for step in (0, 1, 2, 50)]
    assert sizes[1] - sizes[0] == sizes[2] - sizes[1]
    assert sizes[3] - sizes[0] == 50 * (sizes[1] - sizes[0])
    assert rate.marginal_bytes == -(-(sizes[1] - sizes[0]) // period)


@pytest.mark.parametrize("name", engine_names())
@FEW
@given(data=st.data())
def test_reports_are_json(name: str, data: st.DataObject) -> None:
    """The engine's own numbers are printable as they are, with and without a pool."""
    planner = prepared(name, data.draw(models()), layout=Layout(), dtypes=BF16, version=data.draw(versions(name)))
    if planner is None:
        return
    load = data.draw(loads())
    for pool in (None, 2**30):
        try:
            report: dict[str, Any] = planner.report(load, pool)
        except KvcalcError as refusal:
            check_refusal(refusal)
            continue
        assert json.loads(json.dumps(report, allow_nan=False)) == json.loads(json.dumps(report))


@pytest.mark.parametrize("name", engine_names())
def test_engines_describe_themselves(name: str) -> None:
    """Name, versions, proof and summary are said; options have help, known choices and sound defaults."""
    engine, default = get_engine(name)
    assert engine.name == name
    assert engine.versions[0] == default
    assert len(set(engine.versions)) == len(engine.versions)
    assert [get_engine(f"{name}@{version}")[1] for version in engine.versions] == list(engine.versions)
    assert engine.verified_by
    assert engine.summary
    assert len({option.name for option in engine.options}) == len(engine.options)
    for option in engine.options:
        assert option.help
        assert option.name == option.name.strip().lower()
        if option.choices and option.default is not None:
            assert str(option.default).lower() in option.choices
        if option.parse != "text":
            with pytest.raises(KvcalcError):
                read_options(engine, [f"{option.name}=~nonsense~"])
    with pytest.raises(KvcalcError, match="has no option"):
        read_options(engine, ["qqqq=1"])


@pytest.mark.parametrize("name", engine_names())
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_priced_or_refused(name: str, dtype: str) -> None:
    """An engine prices a type or says that it does not store it; it never passes another one off as it."""
    from kvcalc.document import model_from_document

    attention = {"kind": "gqa", "heads": 8, "groups": 2, "head_dim": 128}
    model = model_from_document({"name": "m", "layers": 4, "dtype": "bfloat16", "attention": attention})
    planner = prepared(name, model, layout=Layout(), dtypes=same_dtype(dtype))
    if planner is None:
        return
    size = planner.plan(Load(64, 1)).total_bytes
    assert size >= 64 * 4 * 2 * 2 * DTYPES[dtype].row_bytes(128)
