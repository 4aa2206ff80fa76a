"""SGLang's steps from a budget to tokens, slots and requests, each step alone and at its boundaries.

Source: sglang 0.5.23, srt/model_executor/pool_configurator.py, srt/mem_cache/kv_cache_configurator.py,
srt/mem_cache/memory_pool.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from starting import model_of, started

from kvcalc.core.model import Model
from kvcalc.core.plan import Layout, Load
from kvcalc.engines.sglang.geometry import Attention
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


def test_sliding_layers_alone() -> None:
    """The full pool of a model without full layers has no tensors, and SGLang logs it with 0 tokens.

    2 layers of 512 bytes a token: 1600 tokens of 1024 bytes.
    """
    made = start(several({"l": LOCAL}, ["l", "l"], "GptOssForCausalLM"), page_size=16)
    got: Any = made.report(Load(1), 1600 * 1024)
    size = "dtype: torch.bfloat16, #tokens"
    assert got["log"] == [
        "Use sliding window memory pool (all SWA). swa_layer_tokens=1600",
        f"Full KV Cache is allocated. {size}: 0, K size: 0.00 GB, V size: 0.00 GB",
        f"SWA KV Cache is allocated. {size}: 1600, K size: 0.00 GB, V size: 0.00 GB",
    ]
    assert {name: held for name, held in got["storage"].items() if name.startswith("kv.")} == {
        "kv.full_to_swa_index_mapping": 17 * 8,
        "kv.swa_kv_pool.data_ptrs": 32,
        "kv.swa_kv_pool.data_strides": 32,
        "kv.swa_kv_pool.k_buffer": 2 * 2 * 1616 * 256,
        "kv.swa_kv_pool.k_data_ptrs": 16,
        "kv.swa_kv_pool.v_data_ptrs": 16,
    }


def test_full_and_sliding_latents() -> None:
    """dots3: 10 sessions of 128 tokens; window 128 in pages and one more: 192, but no more than the context.

    Sliding: 10 x 128 tokens; full: 1280 / 0.8 = 1600. Indexed pages: (1600 + 64 + 1) // 64.
    """
    full = MLA | {"indexer": {"head_dim": 128}}
    local = MLA | {"latent_dim": 256, "rope_dim": 32, "window": 128}
    model = several({"f": full, "l": local}, ["f", "l", "l"], "Dots3NoteForCausalLM")
    made = start(model)
    assert [
        (t.name, t.kind, t.block, t.layers, t.shape, t.dtype) for t in made.plan(Load(128, 10)).ranks[0].tensors
    ] == [
        ("latent", "latent", "kv", (0,), (1664, 1, 576), "bfloat16"),
        ("index_key", "latent", "kv", (0,), (26, 64 * 132), "int8"),
        ("latent", "latent", "swa", (1, 2), (1344, 1, 288), "bfloat16"),
        ("full_to_swa_index_mapping", "table", "kv", (), (1665, 8), "int8"),
    ]
    rule = TwoPools(full_bytes=576 * 2 + 132, swa_bytes=2 * 288 * 2, ratio=0.8, cap=None, window=128, page=64)
    assert made.stages[0].rule == rule
    assert (made.exactness, made.period_tokens, made.saturation_tokens) == ("estimate", 64000, 4 * 128 + 16 * 64)
    got: Any = made.report(Load(1), 100 * 2**20 + 10**7)
    assert got["log"][0] == (
        "Reserving 0.10 GB of the KV budget for post-sizing multimodal allocations "
        "(feature-transport pools + embedding cache)."
    )
    # 10^7 / (1284 + 0.8 x 1152) = 4533.1 in pages of 64; 4480 x 0.8 = 3584.
    assert got["log"][1:] == [
        "Use sliding window memory pool. full_layer_tokens=4480, swa_layer_tokens=3584",
        "KV Cache is allocated. dtype: torch.bfloat16, #tokens: 4480, KV size: 0.01 GB",
        "SWA KV Cache is allocated. dtype: torch.bfloat16, #tokens: 3584, KV size: 0.00 GB",
    ]


def test_each_stage_has_its_own_sizes() -> None:
    """A stage of a sliding layer and one of a full layer: the figures on top are the first rank's.

    512 bytes a token on both: 1600 tokens, 0.8 of them in the second stage's sliding pool, which has no layers.
    """
    model = several({"l": LOCAL, "f": HEADS}, ["l", "f"], "GptOssForCausalLM")
    got: Any = start(model, page_size=16, layout=Layout(pp=2)).report(Load(1), 1600 * 512)
    assert (got["max_total_num_tokens"], got["full_max_total_num_tokens"], got["swa_max_total_num_tokens"]) == (
        1600,
        0,
        1600,
    )
    assert [stage["layers"] for stage in got["stages"]] == [[0, 1], [1, 2]]
    lines = [[line.partition("_tokens=")[2] for line in stage["log"] if "_tokens=" in line] for stage in got["stages"]]
    assert lines == [["1600"], ["1600, swa_layer_tokens=1280"]]
