"""TensorRT-LLM's pools, ideal layouts, classes of checkpoints and the inverse search: every field, by hand.

Rules: see kvcalc/engines/tensorrt_llm.py (read from TensorRT-LLM's source) and kvcalc/engines/ideal.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from starting import model_of, started

from kvcalc.core.capacity import growth, last_that_fits, max_context, max_sessions
from kvcalc.core.plan import Layout, Load
from kvcalc.engines import get_engine
from kvcalc.engines.classes import class_of
from kvcalc.engines.tensorrt_llm import grain_bytes
from kvcalc.errors import EngineRefusal, UsageError

GIB, MIB = 2**30, 2**20
HEADS = {"kind": "gqa", "heads": 8, "groups": 4, "head_dim": 64}
LOCAL = HEADS | {"window": 100}
MLA = {"kind": "mla", "heads": 8, "latent_dim": 512, "rope_dim": 64}
DELTA = {"kind": "gated_deltanet", "key_heads": 2, "value_heads": 4, "key_dim": 32, "value_dim": 16, "conv_kernel": 4}
HCA = {"kind": "hca", "heads": 8, "head_dim": 512, "tokens_per_slot": 128, "window": 128}
OWN = "attention"  # the block's name where a file names none
ROW = 2 * 4 * 64 * 2
"""One token of one layer of HEADS in bfloat16."""
V2, V1 = {"use_kv_cache_manager_v2": "true"}, {"use_kv_cache_manager_v2": "false"}
#: 3 taps of 2 x 2 x 32 + 4 x 16 channels in bfloat16, 4 matrices of 32 x 16 in float32.
STATE = 3 * 192 * 2 + 4 * 512 * 4


def blocks(law: str, rows: int, size: int, layers: tuple[int, ...] = (0, 1), block: str = OWN) -> tuple[Any, ...]:
    """The record of a pool: bytes without a shape of elements."""
    return "key_value", "blocks", block, law, layers, 1, rows, (size,), "int8", size


def states(slots: int, layers: tuple[int, ...], size: int) -> tuple[Any, ...]:
    """The record of the states."""
    return "state", "state", "state", "constant", layers, 1, slots, (slots * size,), "int8", slots * size


#: Attention, options: pools of two layers for three sessions of 200 tokens, which are 7 blocks of 32 each.
POOLS: list[tuple[dict[str, Any], dict[str, Any], list[tuple[Any, ...]]]] = [
    (HEADS, {}, [blocks("linear", 672, 672 * 2 * ROW)]),
    (HEADS, {"tokens_per_block": 128}, [blocks("linear", 768, 768 * 2 * ROW)]),
    (LOCAL, V1, [blocks("linear", 672, 672 * 2 * ROW)]),
    # A window of 100 tokens is 4 blocks, a chunk of 64 is 2.
    (LOCAL, V2, [blocks("window 100", 384, 384 * 2 * ROW)]),
    (HEADS | {"chunk": 64}, V2, [blocks("window 64", 192, 192 * 2 * ROW)]),
    (HEADS | {"window": 5000}, V2, [blocks("window 5,000", 672, 672 * 2 * ROW)]),
    # A latent is whole on every rank; heads are divided, one at least.
    (MLA, {"layout": Layout(tp=4)}, [blocks("linear", 672, 672 * 2 * 576 * 2)]),
    (HEADS, {"layout": Layout(tp=2)}, [blocks("linear", 672, 672 * ROW)]),
    (HEADS, {"layout": Layout(tp=3)}, [blocks("linear", 672, 672 * 2 * ROW // 4 * 2)]),
    (HEADS, {"layout": Layout(tp=8)}, [blocks("linear", 672, 672 * 2 * ROW // 4)]),
    (HEADS, {"layout": Layout(tp=2), "enable_attention_dp": True}, [blocks("linear", 672, 672 * 2 * ROW)]),
    # K in fp8 is one byte an element, V two.
    (HEADS, {"types": {"key": "fp8_e4m3"}}, [blocks("linear", 672, 672 * 2 * (256 + 512))]),
    # An indexer's key of 256 elements: 256 bytes of fp8, and 4 bytes per 128 of them.
    (HEADS | {"indexer": {"head_dim": 256}}, {}, [blocks("linear", 672, 672 * 2 * (ROW + 264))]),
    # One slot of states more than sessions; on 2 ranks half the channels and matrices.
    (DELTA, {}, [states(4, (0, 1), 2 * STATE)]),
    (DELTA, {"layout": Layout(tp=2)}, [states(4, (0, 1), STATE)]),
    ({"kind": "none"}, {}, []),
]  # fmt: skip


@pytest.mark.parametrize(("attention", "options", "expected"), POOLS)
def test_trt_pools(attention: dict[str, Any], options: dict[str, Any], expected: list[tuple[Any, ...]]) -> None:
    """Every field of every pool; without a fraction the pool pays for what it holds."""
    plan = started("tensorrt-llm", model_of(attention), **options).plan(Load(200, 3))
    assert [tuple(tensor) for tensor in plan.ranks[0].tensors] == expected
    assert plan.ranks[0].charged_bytes == plan.ranks[0].bytes == sum(record[-1] for record in expected)
    assert plan.ranks[0].ranks == tuple(range(options.get("layout", Layout()).tp))


def test_trt_layers_with_two_parts() -> None:
    """A state beside attention in one layer; layers of two blocks of states are counted once."""
    model = model_of({"d": DELTA, "e": DELTA, "h": HEADS}, pattern=[["d", "e", "h"], "h"])
    plan = started("tensorrt-llm", model, layout=Layout(pp=2, dp=2)).plan(Load(32, 1))
    assert [part.ranks for part in plan.ranks] == [(0,), (1,), (2,), (3,)]
    assert [[tuple(tensor) for tensor in part.tensors] for part in plan.ranks] == [
        [blocks("linear", 32, 32 * ROW, (0,), "h"), states(2, (0,), 2 * STATE)],
        [blocks("linear", 32, 32 * ROW, (1,), "h")],
        [blocks("linear", 0, 0, (0,), "h"), states(1, (0,), 2 * STATE)],
        [blocks("linear", 0, 0, (1,), "h")],
    ]


def test_trt_reports() -> None:
    """Every field. Three layers on two stages: the fuller one decides; states of the asked sessions come off first."""
    made = started("tensorrt-llm", model_of(HEADS, layers=3), layout=Layout(pp=2))
    basic = {
        "kv_cache_manager": "V1",
        "tokens_per_block": 32,
        "cache_bytes_per_token": 2 * ROW,
        "block_bytes": 64 * ROW,
    }
    assert made.report(Load(1)) == basic
    assert made.report(Load(1), 5 * 64 * ROW - 1) == basic | {
        "max_num_blocks": 4, "max_tokens": 128, "allocated_bytes": 4 * 64 * ROW,
    }  # fmt: skip
    none = {"max_num_blocks": 0, "max_tokens": 0, "allocated_bytes": 0}
    hybrid = model_of({"d": DELTA, "h": HEADS}, pattern=["d", "h"])
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [(V1, {}), (V2, {"pools": []})]
    for options, pools in cases:
        split = started("tensorrt-llm", hybrid, **options)
        got = split.report(Load(1, 9), 10 * STATE - 32 * ROW)
        assert {name: got[name] for name in (*none, *pools)} == none | pools
    exact = started("tensorrt-llm", hybrid, **V1).report(Load(1, 9), 10 * STATE + 3 * 32 * ROW)
    assert (exact["max_num_blocks"], exact["allocated_bytes"]) == (3, 3 * 32 * ROW)
    short = started("tensorrt-llm", hybrid, **V1).report(Load(1, 9), 10 * STATE + 3 * 32 * ROW - 1)
    assert short["max_num_blocks"] == 2
    only = started("tensorrt-llm", model_of(DELTA)).report(Load(1), 10**9)
    assert only == {"kv_cache_manager": "V2", "tokens_per_block": 32, "cache_bytes_per_token": 0, "block_bytes": 0}
    older = started("tensorrt-llm@0.8", model_of(HEADS, layers=1))
    assert older.report(Load(1), 3 * 32 * ROW + 1)["max_num_blocks"] == 4  # rounded up
    assert older.report(Load(1), 3 * 32 * ROW)["max_num_blocks"] == 3
    # V2, less than a grain: pools without slots.
    least = started("tensorrt-llm", model_of(HEADS, layers=1), **V2).report(Load(1), 1)
    assert least["pools"] == [{"block": OWN, "window": None, "slots": 0, "bytes": 0}]
    assert (least["max_num_blocks"], least["grain_bytes"]) == (0, 2 * MIB)
    # V2: 8 MiB + 1 of one life cycle are 4 grains of 2 MiB, 64 blocks of 32 KiB each.
    v2 = started("tensorrt-llm", model_of(HEADS, layers=1), **V2)
    assert v2.report(Load(1), 8 * MIB + 1) == {
        "kv_cache_manager": "V2", "tokens_per_block": 32, "cache_bytes_per_token": ROW, "block_bytes": 32 * ROW,
        "max_num_blocks": 256, "max_tokens": 8192, "grain_bytes": 2 * MIB, "allocated_bytes": 8 * MIB,
        "pools": [{"block": OWN, "window": None, "slots": 256, "bytes": 8 * MIB}],
    }  # fmt: skip


def test_trt_fraction_that_falls_short() -> None:
    """63 KiB / 0.7 = 92160 bytes, but 92160 x 0.7 is 64511.99... in doubles: one byte more is needed."""
    options = {"tokens_per_block": 1, "free_gpu_memory_fraction": 0.7}
    made = started("tensorrt-llm", model_of(HEADS, layers=1), **options)
    assert made.plan(Load(63)).max_rank_bytes == 92161
    assert made.report(Load(63), 92161)["max_num_blocks"] == 63
    assert made.report(Load(63), 92160)["max_num_blocks"] == 62


def test_trt_grain() -> None:
    """2 MiB below 2 GiB, twice that per doubling, 32 MiB from 16 GiB on."""
    sizes = {0: 2, GIB - 1: 2, 2 * GIB - 1: 2, 2 * GIB: 4, 4 * GIB - 1: 4, 4 * GIB: 8, 8 * GIB: 16, 16 * GIB - 1: 16,
             16 * GIB: 32, 32 * GIB: 32, 500 * GIB: 32}  # fmt: skip
    assert {quota: grain_bytes(quota) // MIB for quota in sizes} == sizes


@pytest.mark.parametrize(
    ("version", "model", "options", "v2"),
    [
        *(
            ("1.3", model_of(HEADS, architecture=kind), {}, True)
            for kind in ("deepseek_v4", "gpt_oss", "gemma3_text", "gemma4_text", "llama", "llama4_text")
        ),
        ("1.3", model_of(HEADS, architecture="qwen2"), {}, False),
        ("1.3", model_of(HEADS), {}, False),
        ("1.3", model_of(DELTA), {}, True),
        ("1.3", model_of({"kind": "short_conv", "dim": 8, "conv_kernel": 4}), {}, False),
        ("1.3", model_of(HEADS, architecture="llama"), V1, False),
        ("1.3", model_of(HEADS, architecture="qwen2"), V2, True),
        ("1.3", model_of(DELTA), {"use_kv_cache_manager_v2": "auto"}, True),
        ("0.8", model_of(HEADS, architecture="llama"), {}, False),
        ("0.8", model_of(DELTA), {}, False),
        ("0.8", model_of(HEADS), V2, True),
    ],
)
def test_trt_chooses_its_manager(version: str, model: Any, options: dict[str, Any], v2: bool) -> None:
    """auto: V2 for listed models and recurrent states, never before the PyTorch flow."""
    made: Any = started(f"tensorrt-llm@{version}", model, **options)
    assert tuple(made.launch) == (32, None, None, v2, version == "0.8")


def test_trt_options_and_refusals() -> None:
    """As read; stages beyond the layers, decode context parallelism and open groups are refused."""
    given: Any = started(
        "tensorrt-llm", model_of(LOCAL), tokens_per_block=64, free_gpu_memory_fraction=0.5, max_tokens=7, **V2
    )
    assert tuple(given.launch) == (64, 0.5, 7, True, False)
    assert (given.period_tokens, given.saturation_tokens) == (64, 100)
    assert started("tensorrt-llm", model_of({"kind": "none"}), **V2).saturation_tokens == 0
    assert given.warnings == ("TensorRT-LLM's rules were read from its source, not run: no log has confirmed them",)
    with pytest.raises(EngineRefusal) as refused:
        started("tensorrt-llm", model_of(HEADS), layout=Layout(pp=3))
    assert refused.value.field == "pp"
    with pytest.raises(EngineRefusal, match="compressed_kv of block attention"):
        started("tensorrt-llm", model_of(HCA))


# The tensor-level minimum

#: Attention, options: arrays of two layers for three sessions of 11 tokens: kind, law, slots, shape, dtype, bytes.
LEAST: list[tuple[dict[str, Any], dict[str, Any], list[tuple[Any, ...]]]] = [
    (HEADS, {}, [
        (name, "gqa", OWN, "linear", (0, 1), 2, 11, (3, 11, 4, 64), "bfloat16", 2 * 3 * 11 * 256 * 2)
        for name in ("key", "value")]),
    (LOCAL | {"window": 7}, {"types": {"key": "int8"}}, [
        ("key", "gqa", OWN, "window 7", (0, 1), 2, 7, (3, 7, 4, 64), "int8", 2 * 3 * 7 * 256),
        ("value", "gqa", OWN, "window 7", (0, 1), 2, 7, (3, 7, 4, 64), "bfloat16", 2 * 3 * 7 * 256 * 2)]),
    # Two groups of 5 tokens are full; the open group is not counted.
    (HCA | {"tokens_per_slot": 5, "window": 8}, {}, [
        ("window_kv", "hca", OWN, "window 8", (0, 1), 2, 8, (3, 8, 1, 512), "bfloat16", 2 * 3 * 8 * 512 * 2),
        ("compressed_kv", "hca", OWN, "1 slot per 5 tokens", (0, 1), 2, 2, (3, 2, 1, 512), "bfloat16",
         2 * 3 * 2 * 512 * 2)]),
    # Several parts lie in one row; so do single channels, which a block format packs: 64 are 2 x 34 bytes.
    (DELTA, {}, [
        ("conv_state", "gated_deltanet", OWN, "constant", (0, 1), 2, 3, (3, 3, 192), "bfloat16", 2 * 3 * 3 * 192 * 2),
        ("recurrent_state", "gated_deltanet", OWN, "constant", (0, 1), 2, 1, (3, 1, 4, 512), "float32",
         2 * 3 * 4 * 512 * 4)]),
    ({"kind": "rglru", "width": 64, "conv_kernel": 4}, {"types": {"conv": "q8_0", "state": "q8_0"}}, [
        ("lru_conv_state", "rglru", OWN, "constant", (0, 1), 2, 3, (3, 3, 64), "q8_0", 2 * 3 * 3 * 68),
        ("lru_state", "rglru", OWN, "constant", (0, 1), 2, 1, (3, 1, 64), "q8_0", 2 * 3 * 68)]),
    ({"kind": "none"}, {}, []),
    # dcp 2: 11 tokens are 6 on the fuller rank; a window stays whole.
    (MLA | {"rope_dim": 0}, {"layout": Layout(tp=2, dcp=2)}, [
        ("latent", "mla", OWN, "linear", (0, 1), 2, 6, (3, 6, 1, 512), "bfloat16", 2 * 3 * 6 * 512 * 2)]),
]  # fmt: skip


@pytest.mark.parametrize(("attention", "options", "expected"), LEAST)
def test_ideal_arrays(attention: dict[str, Any], options: dict[str, Any], expected: list[tuple[Any, ...]]) -> None:
    """Every field of every array."""
    plan = started("ideal", model_of(attention), **options).plan(Load(11, 3))
    assert [tuple(tensor) for tensor in plan.ranks[0].tensors] == expected
    assert plan.ranks[0].bytes == sum(record[-1] for record in expected)


def test_ideal_periods_and_shares() -> None:
    """Periods are common multiples of strides and dcp; equal ranks share a plan, a rank without units holds none."""
    pair = model_of({"a": HCA | {"tokens_per_slot": 4}, "b": HCA | {"tokens_per_slot": 6}}, pattern=["a", "b"])
    assert started("ideal", pair).period_tokens == 12
    assert (started("ideal", pair).saturation_tokens, started("ideal", pair).exactness) == (128, "exact")
    empty = started("ideal", model_of({"kind": "none"}))
    assert (empty.period_tokens, empty.saturation_tokens, empty.plan(Load(9)).total_bytes) == (1, 0, 0)
    uneven = started("ideal", model_of(HEADS, layers=1), layout=Layout(tp=3, dp=2)).plan(Load(10, 3))
    assert [(part.ranks, part.bytes) for part in uneven.ranks] == [
        ((0,), 2 * 10 * 2 * ROW // 4), ((1, 2), 2 * 10 * ROW // 4), ((3,), 10 * 2 * ROW // 4), ((4, 5), 10 * ROW // 4),
    ]  # fmt: skip
    states = model_of({"kind": "mamba1", "inner_dim": 2, "state_dim": 4, "conv_kernel": 4}, layers=1)
    few = started("ideal", states, layout=Layout(tp=3)).plan(Load(10))
    assert [(part.ranks, len(part.tensors)) for part in few.ranks] == [((0, 1), 2), ((2,), 0)]


# Names


def test_versions_of_an_engine() -> None:
    """None asked is the first; a patch release is its line; an empty one is none."""
    assert get_engine("tensorrt-llm")[1] == "1.3"
    assert get_engine(" TensorRT-LLM@0.8.9 ")[1] == "0.8"
    for name in ("tensorrt-llm@", "tensorrt-llm@1", "tensorrt-llm@1.4.2"):
        with pytest.raises(UsageError, match="no rules for version"):
            get_engine(name)


def test_class_of_a_checkpoint() -> None:
    """The file's first class; else the wrapper's; else the model_type's; what is no name is none."""
    model = model_of(HEADS, architecture="qwen2")
    cases: list[tuple[dict[str, Any], str | None]] = [
        ({"architectures": "AForCausalLM,BForCausalLM"}, "AForCausalLM"),
        ({"architectures": ""}, "Qwen2ForCausalLM"),
        ({"architectures": 7}, "Qwen2ForCausalLM"),
        ({"wrapper": "llava"}, "LlavaForConditionalGeneration"),
        ({"wrapper": "nobody_has_this"}, "Qwen2ForCausalLM"),
        ({}, "Qwen2ForCausalLM"),
    ]
    for facts, name in cases:
        assert class_of(replace(model, facts=facts)) == name
    assert class_of(model_of(HEADS)) is None
    assert class_of(model_of(HEADS, architecture="nobody_has_this")) is None


# The inverse


@pytest.mark.parametrize("start", [1, 2, 64, 4096])
def test_the_last_that_fits(start: int) -> None:
    """Straight, stepped, flat and sudden costs, at the budget and beside it; few evaluations."""
    costs: list[tuple[Any, int, int | None]] = [
        (lambda n: n, 1, 1), (lambda n: n, 0, 0), (lambda n: n, 2, 2), (lambda n: n, 999, 999),
        (lambda n: n, 1000, None),
        (lambda n: 7 * n + 5, 705, 100), (lambda n: 7 * n + 5, 704, 99), (lambda n: 7 * n + 5, 11, 0),
        (lambda n: -(-n // 64) * 64, 127, 64), (lambda n: -(-n // 64) * 64, 128, 128), (lambda n: 5, 5, None),
        (lambda n: 0 if n < 500 else 10**12, 1, 499), (lambda n: min(n, 100), 100, None), (lambda n: n * n, 10**4, 100),
    ]  # fmt: skip
    for cost, budget, answer in costs:
        asked: list[int] = []

        def need(n: int, cost: Any = cost, asked: list[int] = asked) -> int:
            asked.append(n)
            return int(cost(n))

        assert last_that_fits(need, budget, 1000, start=start) == answer
        assert all(1 <= n <= 1000 for n in asked)
        assert len(asked) <= 40  # each round asks two, every other round halves: 4 x log2(1000)


def test_capacity_counts_what_lies_beside() -> None:
    """Buffers that grow with the load come off the pool; options that fix the pool end it; encoder tokens count.

    One token of two layers: 2 x 1024 bytes.
    """
    made = started("ideal", model_of(HEADS))
    row = 2 * ROW
    assert max_context(made, 10 * row) == 10
    assert max_context(made, 10 * row, sessions=3) == 3
    assert max_context(made, 10 * row, beside=lambda load: load.context_tokens * row) == 5
    assert max_context(made, row - 1) == 0
    assert max_sessions(made, 10 * row, context_tokens=3) == 3
    assert max_sessions(made, 10 * row, context_tokens=3, beside=lambda load: load.sessions * row) == 2
    assert max_sessions(started("ideal", model_of({"kind": "none"})), 0, context_tokens=3) is None
    cross = started("ideal", model_of({"kind": "cross", "heads": 2, "head_dim": 2}, layers=1))
    each = 2 * 2 * 2 * 2  # K and V of an encoder token
    assert max_sessions(cross, 12 * each, context_tokens=1, encoder_tokens=4) == 3
    assert max_context(cross, 12 * each, encoder_tokens=12) is None
    assert max_context(cross, 12 * each, encoder_tokens=13) == 0
    assert max_context(cross, 0) is None
    assert max_sessions(cross, 0, context_tokens=1) is None
    fixed = started("tensorrt-llm", model_of(HEADS), max_tokens=128)
    assert max_context(fixed, 10**12) == 128
    assert max_context(fixed, 10**12, sessions=2) == 64
    assert max_sessions(fixed, 10**12, context_tokens=33) == 2


def test_growth_of_a_session() -> None:
    """A window of 100 tokens and full layers: 100 rows once, a row a token; 5 tokens a slot round up."""
    local = started("ideal", model_of({"a": LOCAL, "b": HEADS}, pattern=["a", "b"]))
    assert tuple(growth(local)) == (100 * ROW, ROW, 1, 100)
    groups = started("ideal", model_of(HCA | {"tokens_per_slot": 5, "window": 8}, layers=1))
    assert tuple(growth(groups)) == (8 * 1024, -(-1024 // 5), 5, 8)
    pages = started("exllamav3", model_of(DELTA, layers=1))
    assert growth(pages).marginal_bytes == 0
    cross = started("ideal", model_of({"kind": "cross", "heads": 2, "head_dim": 2}, layers=1))
    assert tuple(growth(cross, encoder_tokens=3)) == (3 * 16, 0, 1, 0)
    assert tuple(growth(cross)) == (0, 0, 1, 0)
