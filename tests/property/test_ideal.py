"""What must hold of the ideal cache of any model: monotone, additive, saturating, covered by its ranks."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import (
    BUILDERS,
    GGML,
    PLAIN,
    cache_dtypes,
    kind_documents,
    layouts,
    loads,
    model_documents,
    models,
    same_dtype,
)

from kvcalc.core.capacity import growth
from kvcalc.core.model import Model
from kvcalc.core.plan import CachePlan, Layout, Load
from kvcalc.document import model_from_document
from kvcalc.dtypes import DTYPES
from kvcalc.engines import get_engine
from kvcalc.engines.base import CacheDtypes, Setup
from kvcalc.engines.ideal import IdealPlanner
from kvcalc.errors import EngineRefusal, ModelFileError
from kvcalc.kinds import kinds_by_tag
from kvcalc.kinds.heads import HeadAttention

BF16 = same_dtype("bfloat16")
#: Fields that are no width: they decide which tokens are kept, or how many of them share a slot.
NOT_WIDTHS = {"window", "chunk", "sinks", "tokens_per_slot"}


def planner(model: Model, layout: Layout | None = None, dtypes: CacheDtypes = BF16) -> IdealPlanner:
    """The ideal allocation of a model."""
    engine, version = get_engine("ideal")
    prepared = engine.prepare(model, Setup(version=version, layout=layout or Layout(), dtypes=dtypes))
    assert isinstance(prepared, IdealPlanner)
    return prepared


def by_name(plan: CachePlan) -> dict[tuple[str, str], int]:
    """Bytes of each (block, component) over all ranks."""
    totals: dict[tuple[str, str], int] = {}
    for rank in plan.ranks:
        for tensor in rank.tensors:
            key = (tensor.block, tensor.name)
            totals[key] = totals.get(key, 0) + len(rank.ranks) * tensor.bytes
    return totals


def one_layer(block: dict[str, Any]) -> Model:
    """A model of one layer of `block`."""
    return model_from_document({"name": "m", "layers": 1, "dtype": "bfloat16", "attention": block})


def test_every_kind_has_a_builder() -> None:
    """The random documents cover every kind there is."""
    assert set(BUILDERS) == set(kinds_by_tag())


@pytest.mark.parametrize("tag", list(kinds_by_tag()))
def test_every_kind_has_a_plan(tag: str) -> None:
    """A model of each kind alone is planned, and only `shared` without an indexer and `none` store nothing."""

    @given(kind_documents((tag,)), loads())
    def holds(block: dict[str, Any], load: Load) -> None:
        stored = planner(one_layer(block)).plan(Load(5000, load.sessions, 1)).total_bytes
        owns = tag not in ("shared", "none") or (
            tag == "shared" and not block.get("indexer", {"shared": True}).get("shared")
        )
        assert (stored > 0) == owns

    holds()


@given(models(), cache_dtypes(), loads(), st.integers(1, 500))
def test_monotone_in_context(model: Model, dtypes: CacheDtypes, load: Load, more: int) -> None:
    """A longer context never takes fewer bytes."""
    plan = planner(model, dtypes=dtypes).plan
    longer = Load(load.context_tokens + more, load.sessions, load.encoder_tokens)
    assert plan(load).total_bytes <= plan(longer).total_bytes


@given(models(), cache_dtypes(), loads(), st.integers(1, 500))
def test_monotone_in_encoder_tokens(model: Model, dtypes: CacheDtypes, load: Load, more: int) -> None:
    """More encoder tokens never take fewer bytes."""
    plan = planner(model, dtypes=dtypes).plan
    longer = Load(load.context_tokens, load.sessions, load.encoder_tokens + more)
    assert plan(load).total_bytes <= plan(longer).total_bytes


@given(models(), cache_dtypes(), loads())
def test_proportional_to_sessions(model: Model, dtypes: CacheDtypes, load: Load) -> None:
    """n sessions take exactly n times the bytes of one: the ideal cache shares nothing and pads nothing."""
    plan = planner(model, dtypes=dtypes).plan
    one = plan(Load(load.context_tokens, 1, load.encoder_tokens)).total_bytes
    assert plan(load).total_bytes == load.sessions * one


@given(kind_documents(), cache_dtypes(), loads(), st.data())
def test_monotone_in_heads_groups_and_width(
    block: dict[str, Any], dtypes: CacheDtypes, load: Load, data: st.DataObject
) -> None:
    """Doubling any width (alone where the kind allows it, else all of them) never takes fewer bytes."""
    widths = [key for key, value in block.items() if type(value) is int and key not in NOT_WIDTHS]
    assume(widths)
    chosen = data.draw(st.sampled_from(widths))
    try:
        wider = one_layer(block | {chosen: 2 * block[chosen]})
    except ModelFileError:  # heads and groups, value and key heads divide each other
        wider = one_layer(block | {key: 2 * block[key] for key in widths})
    before = planner(one_layer(block), dtypes=dtypes).plan(load).total_bytes
    assert planner(wider, dtypes=dtypes).plan(load).total_bytes >= before


@given(models(), loads(), st.sampled_from([PLAIN, GGML]))
def test_monotone_in_dtype(model: Model, load: Load, chain: tuple[str, ...]) -> None:
    """A wider element type never takes fewer bytes."""
    sizes = [planner(model, dtypes=same_dtype(name)).plan(load).total_bytes for name in chain]
    assert sizes == sorted(sizes, reverse=True)


@given(models(), cache_dtypes(), st.integers(0, 40), st.integers(0, 300))
def test_growth_line_is_exact_past_saturation(
    model: Model, dtypes: CacheDtypes, periods: int, encoder_tokens: int
) -> None:
    """From saturation on, bytes at whole periods lie on the line of fixed and marginal bytes."""
    prepared = planner(model, dtypes=dtypes)
    line = growth(prepared, encoder_tokens=encoder_tokens)
    first = (line.saturation_tokens // line.period_tokens + 1) * line.period_tokens
    step = prepared.plan(Load(first + line.period_tokens, 1, encoder_tokens)).total_bytes
    step -= prepared.plan(Load(first, 1, encoder_tokens)).total_bytes
    tokens = first + periods * line.period_tokens
    total = prepared.plan(Load(tokens, 1, encoder_tokens)).total_bytes
    assert total == line.fixed_bytes + tokens // line.period_tokens * step
    assert line.marginal_bytes == math.ceil(step / line.period_tokens)


@given(models(), loads())
def test_windows_and_chunks_saturate(model: Model, load: Load) -> None:
    """A windowed or chunked tensor stops growing at its window; state never grows."""
    prepared = planner(model)
    long = Load(prepared.saturation_tokens + load.context_tokens, load.sessions, load.encoder_tokens)
    longer = Load(2 * long.context_tokens, load.sessions, load.encoder_tokens)
    grown = by_name(prepared.plan(longer))
    laws = {(t.block, t.name): t.law for rank in prepared.plan(long).ranks for t in rank.tensors}
    for key, size in by_name(prepared.plan(long)).items():
        if laws[key].startswith(("window", "chunk", "constant", "encoder")):
            assert grown[key] == size
        elif laws[key] == "linear":
            assert grown[key] == 2 * size


@given(models(), cache_dtypes(), loads(), st.integers(1, 12))
def test_tensor_parallel_ranks_cover_the_whole(model: Model, dtypes: CacheDtypes, load: Load, tp: int) -> None:
    """Over all TP ranks every component is stored at least once, and no rank holds more than the whole."""
    whole = planner(model, dtypes=dtypes).plan(load)
    shards = planner(model, Layout(tp=tp), dtypes).plan(load)
    stored = by_name(shards)
    for key, size in by_name(whole).items():
        assert stored.get(key, 0) >= size
    assert shards.max_rank_bytes <= whole.max_rank_bytes
    assert sorted(shards.by_rank()) == list(range(tp))


@given(models(), st.integers(1, 64))
def test_every_unit_is_on_a_rank(model: Model, tp: int) -> None:
    """Heads are divided without remainder or replicated, channels divided, latents whole on every rank."""
    for kind in model.blocks.values():
        for component in kind.lower():
            for part in component.parts:
                shares = [part.units_on_rank(rank, tp) for rank in range(tp)]
                if part.shard == "replicated":
                    assert shares == [part.units] * tp
                elif part.shard == "heads" and tp > part.units:
                    assert shares == [1] * tp
                else:
                    assert sum(shares) == part.units
                    assert max(shares) - min(shares) <= 1


@given(models(), cache_dtypes(), loads(), st.integers(1, 12), st.integers(1, 5))
def test_stages_and_replicas_add_up_to_the_whole(
    model: Model, dtypes: CacheDtypes, load: Load, pp: int, dp: int
) -> None:
    """Pipeline stages and data-parallel replicas divide the cache: their bytes sum to the whole."""
    layout = Layout(pp=min(pp, len(model.layers)), dp=dp)
    whole = planner(model, dtypes=dtypes).plan(load)
    parts = planner(model, layout, dtypes).plan(load)
    assert parts.total_bytes == whole.total_bytes
    assert by_name(parts) == {key: size for key, size in by_name(whole).items() if size or key in by_name(parts)}
    assert sorted(parts.by_rank()) == list(range(layout.ranks))


@given(models(), cache_dtypes(), loads(), layouts(max_stages=4))
def test_total_is_the_sum_of_shapes(model: Model, dtypes: CacheDtypes, load: Load, layout: Layout) -> None:
    """Every number is an int, and totals are shapes x element bytes, row by row, recomputed here."""
    layout = layout._replace(pp=min(layout.pp, len(model.layers)))
    plan = planner(model, layout, dtypes).plan(load)
    total = 0
    for rank in plan.ranks:
        summed = 0
        for tensor in rank.tensors:
            rows = math.prod(tensor.shape[:-1])
            block = DTYPES[tensor.dtype]
            row_blocks = (tensor.shape[-1] + block.block_elements - 1) // block.block_elements
            assert tensor.bytes == tensor.count * rows * row_blocks * block.block_bytes
            assert tensor.count == len(tensor.layers)
            assert tensor.slots == tensor.shape[1]
            assert {type(n) for n in (tensor.bytes, tensor.count, tensor.slots, *tensor.shape, *tensor.layers)} == {int}
            summed += tensor.bytes
        assert rank.bytes == summed
        total += summed * len(rank.ranks)
    assert plan.total_bytes == total
    assert type(plan.total_bytes) is int
    assert type(plan.max_rank_bytes) is int
    assert plan.max_rank_bytes == max(plan.by_rank().values())


@given(model_documents(), loads(), st.integers(2, 5))
def test_more_layers_of_the_same_cost_the_same(doc: dict[str, Any], load: Load, times: int) -> None:
    """A model repeated `times` over in depth takes `times` the bytes."""
    model = model_from_document(doc)
    deeper = model_from_document(
        doc
        | {"layers": times * doc["layers"]}
        | ({} if "kind" in doc["attention"] else {"pattern": [_item(layer) for layer in model.layers]})
    )
    assert planner(deeper).plan(load).total_bytes == times * planner(model).plan(load).total_bytes


def _item(layer: tuple[str, ...]) -> str | list[str]:
    return layer[0] if len(layer) == 1 else list(layer)


@given(model_documents(("mla", "mqa", "mamba1", "none")), loads(), st.integers(1, 4), st.integers(1, 3))
def test_decode_context_parallel_divides_the_growing_cache(
    doc: dict[str, Any], load: Load, dcp: int, more: int
) -> None:
    """Of a replicated full-length cache each rank keeps ceil(n / dcp) slots; windows, indexers, states stay whole."""
    model = model_from_document(doc)
    whole = planner(model, Layout(tp=dcp * more)).plan(load)
    divided = planner(model, Layout(tp=dcp * more, dcp=dcp)).plan(load)
    for before, after in zip(whole.ranks, divided.ranks, strict=True):
        assert before.ranks == after.ranks
        for old, new in zip(before.tensors, after.tensors, strict=True):
            shared = old.law == "linear" and old.name != "index_key"
            assert new.slots == (-(-old.slots // dcp) if shared else old.slots)
            assert new.bytes * old.slots == old.bytes * new.slots


@given(models(("gqa",)), st.integers(2, 4), st.integers(1, 3))
def test_decode_context_parallel_needs_replicated_heads(model: Model, dcp: int, times: int) -> None:
    """dcp is refused where the KV heads of a growing layer leave no replicas to divide, or dcp does not divide tp."""
    growing = [
        block.kv_heads
        for block in model.blocks.values()
        if isinstance(block, HeadAttention) and block.window is None and block.chunk is None
    ]
    with pytest.raises(EngineRefusal):
        planner(model, Layout(tp=dcp + 1, dcp=dcp))
    layout = Layout(tp=dcp * times, dcp=dcp)
    if growing and max(growing) * dcp > layout.tp:
        with pytest.raises(EngineRefusal):
            planner(model, layout)
