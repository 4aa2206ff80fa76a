"""SGLang's steps from a budget to tokens, slots and requests, each step alone and at its boundaries.

Source: sglang 0.5.23, srt/model_executor/pool_configurator.py, srt/mem_cache/kv_cache_configurator.py,
srt/mem_cache/memory_pool.py; launch defaults: srt/arg_groups/memory_hook.py, cuda_graph_hook.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from starting import model_of, started

from kvcalc.core.model import Model
from kvcalc.core.plan import Layout, Load
from kvcalc.engines.sglang.geometry import Attention
from kvcalc.engines.sglang.launch import default_mem_fraction_static, prefill_graphs, tier
from kvcalc.engines.sglang.planner import SglangPlanner
from kvcalc.engines.sglang.pools import Buffer, heads_on_rank, index_row_bytes, latent_width
from kvcalc.engines.sglang.settings import Settings
from kvcalc.engines.sglang.sizing import (
    OnePool,
    Sizes,
    States,
    TwoPools,
    budget_gib,
    check_sliding,
    max_requests,
    request_cap,
    slot_bytes,
    solve_states,
)
from kvcalc.engines.sglang.v4 import V4Pools, page_bytes
from kvcalc.errors import EngineRefusal

GIB = 2**30
HEADS = {"kind": "gqa", "heads": 8, "groups": 2, "head_dim": 64}
LOCAL = HEADS | {"window": 128}
MLA = {"kind": "mla", "heads": 8, "latent_dim": 512, "rope_dim": 64}
DELTA = {"kind": "gated_deltanet", "key_heads": 2, "value_heads": 4, "key_dim": 32, "value_dim": 32, "conv_kernel": 4}
V4 = {
    "w": {"kind": "mqa", "heads": 8, "head_dim": 512, "tied_kv": True, "window": 128},
    "csa": {"kind": "csa", "heads": 8, "head_dim": 512, "tokens_per_slot": 4, "window": 128, "index_dim": 128},
    "hca": {"kind": "hca", "heads": 8, "head_dim": 512, "tokens_per_slot": 128, "window": 128},
}


def several(blocks: dict[str, Any], pattern: list[str], cls: str) -> Model:
    used = {name: blocks[name] for name in dict.fromkeys(pattern)}
    return model_of(used, pattern=pattern, layers=len(pattern), cls=cls, max_context=4096)


def start(model: Model, **asked: Any) -> SglangPlanner:
    made = started("sglang", model, **asked)
    assert isinstance(made, SglangPlanner)
    return made


def settings(**changes: Any) -> Settings:
    """A plain launch, one page of 16."""
    return replace(start(model_of(HEADS, cls="LlamaForCausalLM", max_context=4096), page_size=16).settings, **changes)


def test_one_pool() -> None:
    """Tokens in whole pages; the price is tokens x cell; without a price, what was set aside for that."""
    rule = OnePool(cell=10, page=16, free_tokens=100)
    assert [rule.from_budget(budget).tokens for budget in (159, 160, 319, 320)] == [0, 16, 16, 32]
    assert (rule.cell_size, rule.priced(7), rule.from_budget(0)) == (10, 70, Sizes(tokens=0))
    assert replace(rule, cell=0).from_budget(0) == Sizes(tokens=96, full=None, swa=None, log=[])


def test_stages_without_kv() -> None:
    """A stage of states alone leaves the tokens to the other; a model of states alone has one context of tokens."""
    blocks = {"d": DELTA, "a": HEADS}
    rules = [
        stage.rule for stage in start(several(blocks, ["d", "a"], "Qwen3NextForCausalLM"), layout=Layout(pp=2)).stages
    ]
    assert rules == [OnePool(cell=0, page=1, free_tokens=2**63 - 1), OnePool(cell=512, page=1, free_tokens=2**63 - 1)]
    alone = several(blocks, ["d", "d"], "Mamba2ForCausalLM")
    for options, free in (({}, 4096), ({"context_length": 64}, 64), ({"max_total_tokens": 320}, 320)):
        for stages in (1, 2):
            made = start(alone, layout=Layout(pp=stages), **options)
            assert [stage.rule for stage in made.stages] == [OnePool(cell=0, page=1, free_tokens=free)] * stages
    together = start(several(blocks, ["d", "a"], "Qwen3NextForCausalLM"), max_total_tokens=320).stages[0].rule
    assert together == OnePool(cell=512, page=1, free_tokens=320)


CAPPED = {"max_running_requests": 3, "disable_radix_cache": True, "chunked_prefill_size": 512, "page_size": 16}


def test_what_caps_a_sliding_pool() -> None:
    """max_running_requests, no prefix cache and a chunk, on a stage with full layers; else a share, 0.8 or as asked."""
    model = several({"l": LOCAL, "f": HEADS}, ["l", "f"], "GptOssForCausalLM")
    # (127 + 128 + 16 + 16) x 3 + 2 x 512 + 16 = 1901.
    plain = TwoPools(full_bytes=512, swa_bytes=512, ratio=0.8, cap=None, window=127, page=16)
    for drop, expected in (
        (None, replace(plain, cap=1901)),
        ("max_running_requests", plain),
        ("disable_radix_cache", plain),
        ("chunked_prefill_size", plain),
    ):
        asked = {name: value for name, value in CAPPED.items() if name != drop}
        assert start(model, **asked).stages[0].rule == expected, drop
    assert start(model, **CAPPED | {"chunked_prefill_size": 0}).stages[0].rule == plain
    assert start(model, page_size=16, swa_full_tokens_ratio=0.5).stages[0].rule == replace(plain, ratio=0.5)
    none_full = start(several({"l": LOCAL}, ["l", "l"], "GptOssForCausalLM"), **CAPPED).stages[0].rule
    assert none_full == replace(plain, full_bytes=0, swa_bytes=1024)
    # A class that counts the token itself keeps its 128.
    whole = several({"l": LOCAL, "f": HEADS}, ["l", "f"], "Step3p5ForCausalLM")
    assert start(whole, page_size=16).stages[0].rule == replace(plain, window=128)
    for changes, cap in (
        ({}, (127 + 128 + 16 + 16) + 16),
        ({"max_running": 5}, 287 * 5 + 16),
        ({"max_running": 5, "attn_dp": 2}, 287 * 2 + 16),
        ({"chunk": 100}, 287 + 200 + 16),
        ({"chunk": 100, "overlap": False}, 287 + 100 + 16),
        ({"eviction": 1}, 127 + 1 + 16 + 16 + 16),
    ):
        assert request_cap(settings(**changes), 127) == cap, changes


def test_two_pools() -> None:
    """Sizes and prices of a share, of a cap and of sliding layers alone; a price that is a float is rounded up."""
    rule = TwoPools(full_bytes=10, swa_bytes=3, ratio=0.5, cap=None, window=15, page=16)
    assert rule.cell_size == 11.5
    assert (rule.priced(2), rule.priced(3)) == (23, 35)  # 34.5
    line = "Use sliding window memory pool. full_layer_tokens=64, swa_layer_tokens=32"
    assert rule.from_tokens(79) == Sizes(tokens=64, full=64, swa=32, log=[line]) == rule.from_budget(64 * 23 // 2)
    capped = replace(rule, cap=33)  # 48 tokens in pages, 144 bytes
    assert (capped.priced(64), capped.cell_size) == (144 + 640, 11.5)
    assert capped.from_budget(144 + 640) == Sizes(tokens=64, full=64, swa=48)
    assert capped.from_budget(144 + 639) == Sizes(tokens=48, full=48, swa=48)
    assert [capped.from_tokens(tokens).swa for tokens in (40, 47, 48, 64)] == [40, 47, 48, 48]
    only = replace(rule, full_bytes=0, cap=33)
    assert (only.cell_size, only.priced(10)) == (3, 30)
    said = "Use sliding window memory pool (all SWA). swa_layer_tokens=32"
    assert only.from_budget(100) == Sizes(tokens=32, full=0, swa=32, log=[said])


def test_the_least_sliding_pool() -> None:
    """More than the window and a page, where there is a window."""
    check_sliding(144, 127, 16)
    check_sliding(1, None, 16)
    with pytest.raises(EngineRefusal):
        check_sliding(143, 127, 16)


def test_requests() -> None:
    """tokens / context x 512 between 2048 and 4096, at most half the tokens and what the states serve."""
    plain = settings()
    for tokens, expected in ((10**9, 4096), (4096 * 8, 4096), (4096 * 6, 3072), (4096 * 4 + 7, 2048), (4096, 2048),
                             (4095, 2047), (4094, 2047), (3, 1), (2, 1), (1, 0)):  # fmt: skip
        assert max_requests(tokens, plain, None) == expected, tokens
    assert max_requests(4096 * 6, replace(plain, context_len=4608), None) == 2730  # 24576 / 4608 x 512 = 2730.7
    for running, tokens, expected in ((5, 10**6, 5), (5, 8, 4), (9000, 10**6, 9000)):
        assert max_requests(tokens, replace(plain, max_running=running), None) == expected
    for slots, expected in ((3, 1), (5, 1), (6, 2), (3 * 5000, 4096)):
        assert max_requests(10**6, plain, States(slot_bytes=1, slots=slots)) == expected
    with pytest.raises(EngineRefusal) as refused:
        max_requests(10**6, plain, States(slot_bytes=1, slots=2))
    assert "max_mamba_cache_size=2, mamba_ratio=3, resulting max_num_reqs=0" in str(refused.value)
    for strategy, overlap, radix, slots in (
        ("no_buffer", True, True, 3), ("extra_buffer", True, True, 5), ("extra_buffer", False, True, 4),
        ("extra_buffer_lazy", True, True, 4), ("extra_buffer", True, False, 1), ("no_buffer", True, False, 1),
    ):  # fmt: skip
        assert replace(plain, strategy=strategy, overlap=overlap, radix=radix).slots_per_request == slots


def test_state_slots() -> None:
    """0.9 / 1.9 of the memory less the padding slot; given outright, or by the requests without a prefix cache.

    A slot of one layer: 3 x 256 x 2 bytes of convolution and 4 x 32 x 32 x 4 of state, 17920; the fullest stage counts.
    """
    blocks = {"d": DELTA, "a": HEADS}
    made = start(several(blocks, ["d", "d", "a", "d"], "Qwen3NextForCausalLM"))
    geometry, plain = made.geometry, made.settings
    assert slot_bytes(geometry, plain) == 3 * 17920
    two = start(several(blocks, ["d", "d", "a", "d"], "Qwen3NextForCausalLM"), layout=Layout(pp=2))
    assert slot_bytes(two.geometry, two.settings) == 2 * 17920
    size = 53760
    for changes, slots in (
        ({}, int((0.9 / 1.9 * GIB - size) // size)),
        ({"mamba_ratio": 1.0}, (GIB // 2 - size) // size),
        ({"mamba_slots": 7}, 7),
        ({"mamba_slots": 7, "attn_dp": 2}, 3),
        ({"mamba_slots": 1}, 1),
        ({"max_running": 9, "radix": False}, 9),
        ({"max_running": 9}, int((0.9 / 1.9 * GIB - size) // size)),
        ({"radix": False}, int((0.9 / 1.9 * GIB - size) // size)),
    ):
        states, rest = solve_states(geometry, replace(plain, **changes), 1.0)
        assert states == States(slot_bytes=size, slots=slots), changes
        assert rest == 1.0 - (slots + 1) * size / GIB
    with pytest.raises(EngineRefusal) as refused:
        solve_states(geometry, replace(plain, mamba_slots=0), 1.0)
    assert "max_mamba_cache_size=0 (total_rest_memory=1.00 GB, mamba_cache_per_req=0.05 MB)" in str(refused.value)
    assert solve_states(start(model_of(HEADS, cls="LlamaForCausalLM")).geometry, plain, 1.5) == (None, 1.5)
    assert budget_gib(replace(plain, reserve_mib=256), 3 * GIB) == 2.75
    # What a plan sets aside: the slots given or by the requests, else the larger of two shares of 0.9 : 1.
    one = several(blocks, ["d", "a"], "Qwen3NextForCausalLM")
    for options, charged in (
        ({}, -(-4 * 17920 * 19 // 9)),
        ({"max_running_requests": 9}, -(-4 * 17920 * 19 // 9)),
        ({"disable_radix_cache": True}, 97280),  # 100 x 512 x 1.9; 2 slots are 75,663
        ({"disable_radix_cache": True, "max_running_requests": 9}, 100 * 512 + 10 * 17920),
        ({"max_mamba_cache_size": 6}, 100 * 512 + 7 * 17920),
        ({"mamba_full_memory_ratio": 1.0}, 2 * 4 * 17920),
    ):
        assert start(one, **options).plan(Load(100)).max_rank_bytes == charged, options
    assert start(one).plan(Load(1000)).max_rank_bytes == 972800  # 1000 x 512 x 1.9


def test_rows_of_a_buffer() -> None:
    """tokens + page rows; in whole pages where K and V share a tensor; pages of the index round up one token more."""
    row = Buffer(group="b", name="n", layers=(3, 4, 5), tail=(2, 8), dtype="bfloat16", item=2)
    assert (row.count, row.shape(100, 16), row.bytes(100, 16)) == (3, (116, 2, 8), 3 * 116 * 16 * 2)
    assert row.logged_bytes(100, 16) == (3 * 116 * 32, 0)
    padded = replace(row, rows="padded", lead=2, logged="both")
    assert (padded.shape(100, 16), padded.bytes(100, 16)) == ((2, 128, 2, 8), 3 * 2 * 128 * 32)
    assert padded.logged_bytes(100, 16) == (3 * 116 * 32, 3 * 116 * 32)
    assert replace(row, logged="v").logged_bytes(100, 16) == (0, 3 * 116 * 32)
    assert replace(row, logged="k").logged_bytes(100, 16) == (3 * 116 * 32, 0)
    assert replace(row, logged="no").logged_bytes(100, 16) == (0, 0)
    pages = replace(row, rows="pages", tail=(7,), item=1)
    assert [pages.shape(tokens, 16)[0] for tokens in (96, 97, 110, 111, 112)] == [7, 7, 7, 8, 8]
    assert (pages.bytes(96, 16), pages.logged_bytes(96, 16)) == (3 * 49, (3 * 49, 0))
    assert replace(pages, logged="no").logged_bytes(96, 16) == (0, 0)
    assert (replace(row, once=True).count, replace(row, once=True).bytes(100, 16)) == (1, 116 * 32)


def test_widths() -> None:
    """Heads are divided and never fewer than one; an index row has 4 bytes of scale per 128; fp8 rows of latents.

    Indexed latents in fp8: 512 + 4 x 4 + 64 x 2, unless TensorRT-LLM's kernels or TileLang for both take them plain.
    """
    for heads, tp, expected in ((8, 1, 8), (8, 4, 2), (8, 8, 1), (8, 16, 1), (9, 2, 4), (0, 4, 0), (1, 1, 1)):
        assert heads_on_rank(heads, settings(attn_tp=tp)) == expected
    assert [index_row_bytes(Attention(index_dim=dim)) for dim in (0, 64, 128, 256)] == [0, 64, 132, 264]
    indexed = start(model_of(MLA | {"indexer": {"head_dim": 128}}, cls="DeepseekV32ForCausalLM")).geometry
    plain = start(model_of(MLA, cls="DeepseekV3ForCausalLM")).geometry
    for prefill, decode, width in (
        (None, None, 656),
        ("trtllm", None, 576),
        (None, "trtllm", 576),
        ("tilelang", "tilelang", 576),
        ("tilelang", None, 656),
        (None, "tilelang", 656),
        ("fa3", "fa3", 656),
    ):
        asked = settings(kv="fp8_e4m3", dsa_prefill=prefill, dsa_decode=decode)
        assert latent_width(indexed, asked) == width, (prefill, decode)
        assert latent_width(plain, asked) == 576
    for kv, width in (("fp8_e4m3", 656), ("mxfp8", 656), ("fp8_e5m2", 576), ("bfloat16", 576), ("nvfp4", 576)):
        assert latent_width(indexed, settings(kv=kv)) == width, kv


def test_v4_rule() -> None:
    """The rule of each stage and its figures, with and without a cap.

    Cap: (128 + 128 + 256 + 256) x requests + 2 chunks + a page, 384 for each tail; 4 tails a request.
    """
    model = several(V4, ["w", "w", "csa", "hca"], "DeepseekV4ForCausalLM")
    made = start(model, layout=Layout(pp=2))
    rules = [stage.rule for stage in made.stages]
    first = V4Pools(layers=2, csa=0, hca=0, index_dim=128, settings=made.settings, window=128)
    second = replace(first, csa=1, hca=1)
    assert rules == [first, second]
    assert (second.page, second.ratio, second.cap, second.prefix_tails) == (256, 0.1, None, 0)
    assert (first.bytes_per_swa_token, second.bytes_per_swa_token) == (1170, 1170 + 320)
    assert (first.bytes_per_full_token, second.bytes_per_full_token) == (0.1 * 1170, 0.1 * 1490 + (179.25 + 6.75))
    # Rows of the groups of 128: (requests + 1) x 128, a ring and a row more, in 128s.
    assert [second.state_rows_128(requests) for requests in (0, 1, 10)] == [384, 512, 1664]
    assert [rule.fixed_bytes(10) for rule in (first, second)] == [0, 1664 * 1024 * 4]
    assert [page_bytes(tokens) for tokens in (1, 2, 64, 256)] == [1152, 1728, 37440, 149760]

    def changed(**changes: Any) -> V4Pools:
        return replace(second, settings=replace(made.settings, **changes))

    for changes, tails, cap in (
        ({"max_running": 2, "chunk": 512}, 8, 5888),  # 768 x 2 + 1024 + 256 + 8 x 384 = 5888, 23 pages
        ({"max_running": 2, "chunk": 512, "radix": False}, 0, 2816),
        ({"max_running": 2, "chunk": 512, "prefix_tails": 1}, 1, 3328),  # 3200 in pages
        ({"max_running": 2, "chunk": 512, "prefix_tails": 0}, 0, 2816),
        ({"max_running": 2, "chunk": 512, "swa_ratio": 0.1}, 8, None),
        ({"max_running": 2}, 8, None),
        ({"chunk": 512}, 0, None),
    ):
        rule = changed(**changes)
        assert (rule.prefix_tails, rule.cap) == (tails, cap), changes
    capped = changed(max_running=2, chunk=512)
    assert (capped.bytes_per_full_token, capped.cell_size) == (186, 186)
    assert capped.fixed_bytes(2) == 640 * 4096 + 5888 * 1490
    assert (capped.swa_tokens(10**6), second.swa_tokens(10240), second.swa_tokens(10239)) == (5888, 1024, 768)
    assert changed(swa_ratio=0.5).ratio == 0.5
    # 335 bytes a token; tokens / 4096 x 512 between 2048 and 4096, at most half the tokens.
    for tokens, expected in ((10**9, 4096), (4096 * 6, 3072), (8192, 2048), (4095, 2047), (3, 1)):
        assert second.requests(int(tokens * 335) + 1) == expected, tokens
    assert changed(max_running=5).requests(10**12) == 5
    nothing = "SWA pool (0 tokens) cannot hold even one request"
    with pytest.raises(EngineRefusal) as refused:
        second.from_budget(0)
    assert nothing in str(refused.value)
    assert [row[1] for row in first.arrays(2560, 256, 1)] == ["window_kv"]
    assert (
        first.from_tokens(5120).log[1]
        == "DSV4 pool sizes: full=5120, swa=512, c4=1280, c128=40, c4_state=0, c128_state=0"
    )
    assert second.from_tokens(5120).log[1].endswith("c4_state=16, c128_state=0")
    assert (second.from_tokens(5375).tokens, second.from_tokens(5376).tokens) == (5120, 5376)


def test_launch_tiers() -> None:
    """Chunk and decode batch by MiB of the GPU: below 20, 35, 60, 160 GiB and above; more from 4 ranks on."""
    rows = ((20480, (2048, 8, 8)), (35840, (4096, 48, 160)), (61440, (4096, 32, 160)), (163840, (8192, 256, 512)))
    for most, (chunk, few, many) in rows:
        for tp, batch in ((1, few), (3, few), (4, many), (8, many)):
            assert tier(most - 1, tp) == (chunk, batch)
    assert [tier(least, 1).chunked_prefill_size for least, _ in rows] == [4096, 4096, 8192, 16384]
    assert tier(163840, 1) == tier(10**6, 8) == (16384, 512)


def test_launch_graphs() -> None:
    """A graph more at 4, 8 .. 32, 48 .. 256, 288 .. 512, 576 .. 1024, 1280 .. 4096, 4608 .. tokens, and at no other."""
    steps = {*range(4, 33, 4), *range(48, 257, 16), *range(288, 513, 32), *range(576, 1025, 64)}
    steps |= {*range(1280, 4097, 256), *range(4608, 9000, 512)}
    counts = [prefill_graphs(most) for most in range(9000)]
    assert {most for most in range(1, 9000) if counts[most] != counts[most - 1]} == steps
    assert counts[-1] == len(steps)


def test_launch_reserve() -> None:
    """A pretended GPU of 1000 MiB, whose third digit is 1 MiB: 512 + 1.5 x chunk + 128 x tp x pp + 2 x batch.

    Batches above 300 take 4.5 MiB a group, others 3; graphs 8 each, latents 1536; no chunk counts below 2048.
    """
    cases: list[tuple[dict[str, Any], int]] = [
        ({}, 512 + 3072 + 128 + 16),
        ({"tp": 2, "pp": 3}, 512 + 3072 + 768 + 16),
        ({"max_running_requests": 5}, 512 + 3072 + 128 + 10),
        ({"max_running_requests": 9}, 512 + 3072 + 128 + 16),
        ({"chunked_prefill_size": 2047}, 512 + 3072 + 128 + 16),
        ({"chunked_prefill_size": 2050}, 512 + 3075 + 128 + 16),
        ({"tp": 2, "attn_dp": 2}, 512 + 3072 + 256 + 16 + 8 * 2 * 3),
        ({"prefill_graph": True}, 512 + 3072 + 128 + 16 + 8 * 42),  # 2048 tokens: 38 graphs to 1024, then 1280 .. 2048
        ({"prefill_graph": True, "latent": True}, 512 + 3072 + 128 + 16 + 1536),
    ]
    for asked, reserved in cases:
        assert default_mem_fraction_static(1000, **{"prefill_graph": False} | asked) == (1000 - reserved) / 1000, asked
    # 10 GiB stay free on larger GPUs; over this range a MiB more or less would turn the third digit of some.
    small = {"chunked_prefill_size": 2048, "max_running_requests": 8, "prefill_graph": False}
    for mib in range(61441, 69000):
        expected = round((mib - 10240) / mib, 3)
        assert default_mem_fraction_static(mib, **small) == expected  # type: ignore[arg-type]
