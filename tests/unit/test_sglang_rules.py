"""SGLang 0.5.23's rules that no recorded cell asks about, each worked out by hand from the rule's own formula.

Formulas: srt/mem_cache/kv_cache_configurator.py, srt/model_executor/pool_configurator.py, srt/server_args.py.
"""

from __future__ import annotations

from typing import Any

import pytest
from starting import model_of, started

from kvcalc.core.model import Model
from kvcalc.core.plan import Layout, Load, Planner
from kvcalc.engines.sglang.launch import default_mem_fraction_static
from kvcalc.engines.sglang.planner import SglangPlanner
from kvcalc.engines.sglang.settings import Settings
from kvcalc.engines.sglang.sizing import TwoPools
from kvcalc.engines.sglang.v4 import V4Pools
from kvcalc.errors import EngineRefusal, UsageError

GIB = 2**30
HEADS = {"kind": "gqa", "heads": 8, "groups": 2, "head_dim": 64}
MLA = {"kind": "mla", "heads": 8, "latent_dim": 512, "rope_dim": 64}
DELTA = {"kind": "gated_deltanet", "key_heads": 2, "value_heads": 4, "key_dim": 32, "value_dim": 32, "conv_kernel": 4}
V4 = {
    "window": {"kind": "mqa", "heads": 8, "head_dim": 512, "tied_kv": True, "window": 128},
    "csa": {"kind": "csa", "heads": 8, "head_dim": 512, "tokens_per_slot": 4, "window": 128, "index_dim": 128},
    "hca": {"kind": "hca", "heads": 8, "head_dim": 512, "tokens_per_slot": 128, "window": 128},
}


def plain(**more: Any) -> Model:
    return model_of(HEADS, cls="LlamaForCausalLM", max_context=4096, **more)


def indexed(latent: int = 512, *, cls: str = "DeepseekV32ForCausalLM") -> Model:
    return model_of(MLA | {"latent_dim": latent, "indexer": {"head_dim": 128}}, cls=cls, max_context=4096)


def sliding(cls: str = "GptOssForCausalLM", pattern: tuple[str, ...] = ("local", "global"), **more: Any) -> Model:
    """Two kinds of layers, one with a window of 128."""
    blocks = {"local": HEADS | {"window": 128}, "global": HEADS}
    used = {name: blocks[name] for name in dict.fromkeys(pattern)}
    return model_of(used, cls=cls, pattern=list(pattern), layers=len(pattern), max_context=4096, **more)


def hybrid(**more: Any) -> Model:
    return model_of(
        {"attention": HEADS, "delta": DELTA},
        pattern=["delta", "attention"],
        cls="Qwen3NextForCausalLM",
        max_context=4096,
        **more,
    )


def v4(pattern: tuple[str, ...] = ("window", "csa", "hca"), **more: Any) -> Model:
    used = {name: V4[name] for name in pattern}
    return model_of(
        used,
        cls="DeepseekV4ForCausalLM",
        pattern=list(pattern),
        layers=len(pattern),
        max_context=more.pop("max_context", 4096),
        **more,
    )


def report(model: Model, pool: float, **asked: Any) -> dict[str, Any]:
    """The report for `pool` GiB."""
    return started("sglang", model, **asked).report(Load(4096), int(pool * GIB))


#: What SGLang stops at, its own words, and what asks for it.
REFUSED: list[tuple[str, Model, dict[str, Any], str]] = [
    ("states in fp8", hybrid(), {"types": {"state": "fp8_e4m3"}}, "no recurrent state in fp8_e4m3"),
    ("half a physical page", indexed(), {"page_size": 32}, "requires 64-token physical pages, got page_size=32"),
    ("two physical pages", indexed(), {"page_size": 128}, "requires 64-token physical pages, got page_size=128"),
    ("3 stages, 2 layers", plain(), {"layout": Layout(pp=3)}, "3 pipeline stages for 2 layers"),
    (
        "sliding latents",
        model_of(MLA | {"window": 8}, cls="DeepseekV3ForCausalLM"),
        {},
        "sliding latent layers of DeepseekV3ForCausalLM are not modelled",
    ),
    (
        "compressed, another class",
        model_of(V4["hca"] | {"head_dim": 64}, cls="Dots3NoteForCausalLM"),
        {},
        "compressed attention is not modelled for Dots3NoteForCausalLM",
    ),
    (
        "two kinds of states",
        model_of(
            {"a": DELTA, "b": DELTA | {"key_dim": 16}}, pattern=["a", "b"], cls="Qwen3NextForCausalLM", max_context=4096
        ),
        {},
        "different recurrent states",
    ),
    ("rank 500 in fp8", indexed(500), {"types": {"key": "fp8_e4m3", "value": "fp8_e4m3"}}, "kv_lora_rank 500 must be"),
    (
        "mxfp8 of 48",
        model_of(HEADS | {"head_dim": 48}, cls="LlamaForCausalLM"),
        {"kv_cache_dtype": "mxfp8"},
        "divisible by 32, got 48",
    ),
    (
        "mxfp8 of V 48",
        model_of(HEADS | {"v_head_dim": 48}, cls="LlamaForCausalLM"),
        {"kv_cache_dtype": "mxfp8"},
        "divisible by 32, got 48",
    ),
    ("longer than the model", plain(), {"context_length": 4097}, "context_length 4,097 is above the model's own 4,096"),
    (
        "lazy without overlap",
        hybrid(),
        {"mamba_radix_cache_strategy": "extra_buffer_lazy", "disable_overlap_schedule": True},
        "Lazy extra buffer requires overlap schedule",
    ),
    ("dcp", plain(), {"layout": Layout(tp=2, dcp=2)}, "decode context parallelism is not modelled"),
    ("two types", plain(), {"types": {"key": "fp8_e4m3", "value": "bfloat16"}}, "one type for K and V"),
    ("a type of others", plain(), {"types": {"key": "int8", "value": "int8"}}, "cannot keep its cache in int8"),
    ("float32", plain(), {"types": {"key": "float32", "value": "float32"}}, "cannot keep its cache in float32"),
    ("pages of 64", v4(), {"page_size": 64}, "page_size must be 256"),
    ("compressed in bf16", v4(), {"kv_cache_dtype": "bfloat16"}, "DeepSeek-V4's cache in bfloat16 is not modelled"),
]


@pytest.mark.parametrize(("model", "asked", "words"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_sglang_does_not_start_is_refused(model: Model, asked: dict[str, Any], words: str) -> None:
    """The refusal says what SGLang says, and how to go on."""
    with pytest.raises(EngineRefusal) as refused:
        started("sglang", model, **asked)
    assert words in str(refused.value)


def test_groups_must_divide_the_ranks() -> None:
    """--dp-size divides --tp; with one GPU it means nothing."""
    with pytest.raises(UsageError):
        started("sglang", plain(), layout=Layout(tp=4), dp_size=3)
    started("sglang", plain(), dp_size=3)


def test_the_context_may_be_the_models_own() -> None:
    """context_length up to the model's own is fine, and it is what SGLang reports."""
    assert report(plain(), 1, context_length=4096)["context_len"] == 4096
    assert report(plain(), 1, context_length=100)["context_len"] == 100
    assert report(plain(), 1)["context_len"] == 4096


def test_states_as_asked() -> None:
    """One slot: 3 inputs of 2 x 2 x 32 + 4 x 32 channels in bf16, and 4 heads of 32 x 32 in the asked type."""
    conv, matrix = 3 * (2 * 2 * 32 + 4 * 32) * 2, 4 * 32 * 32
    for dtype, item in (("bfloat16", 2), ("float16", 2)):
        made = started("sglang", hybrid(), types={"state": dtype})
        assert made.report(Load(1))["mamba_cache_per_req"] == conv + matrix * item
    assert started("sglang", hybrid()).report(Load(1))["mamba_cache_per_req"] == conv + matrix * 4


def test_a_latent_without_rotary_key() -> None:
    """use_mla_nope: 512 elements a token and layer instead of 576."""
    for facts, width in (({"use_mla_nope": True}, 512), ({"use_mla_nope": False}, 576), ({}, 576)):
        made = started("sglang", model_of(MLA, cls="BailingMoeV3ForCausalLM", facts=facts))
        assert made.report(Load(1))["cell_size"] == 2 * width * 2


def test_latents_of_sliding_layers_have_a_pool_of_their_own() -> None:
    """dots3: full latents 512 + 64 with an index row of 132 bytes, sliding latents 256 + 32; read, not recorded.

    Price: full + 0.8 x sliding bytes. Pools: (tokens + page) rows of each.
    """
    model = model_of(
        {
            "full": MLA | {"indexer": {"head_dim": 128}},
            "local": MLA | {"latent_dim": 256, "rope_dim": 32, "window": 128},
        },
        pattern=["full", "local", "local"],
        layers=3,
        cls="Dots3NoteForCausalLM",
        max_context=4096,
    )
    made = started("sglang", model, page_size=64)
    assert made.exactness == "estimate"
    full, swa = (512 + 64) * 2 + 132, 2 * (256 + 32) * 2
    got = made.report(Load(4096), GIB)
    assert got["cell_size"] == full + 0.8 * swa
    # 100 MiB of the budget stay free for images: dots3 is multimodal by name.
    tokens = int((GIB - 100 * 2**20) // (full + 0.8 * swa)) // 64 * 64
    short = int(tokens * 0.8) // 64 * 64
    assert (got["full_max_total_num_tokens"], got["swa_max_total_num_tokens"]) == (tokens, short)
    storage: Any = got["storage"]
    assert storage["kv.full_kv_pool.kv_buffer"] == (tokens + 64) * 576 * 2
    assert storage["kv.swa_kv_pool.kv_buffer"] == 2 * (short + 64) * 288 * 2
    assert storage["kv.swa_kv_pool.data_ptrs"] == 16
    narrow = started("sglang", model, page_size=64, kv_cache_dtype="fp8_e4m3").plan(Load(64))
    assert {(tensor.name, tensor.dtype) for tensor in narrow.ranks[0].tensors} >= {("latent", "fp8_e4m3")}
    for asked, stored in (("mxfp8", "fp8_e4m3"), ("nvfp4", "int8")):
        plan = started("sglang", model, page_size=64, kv_cache_dtype=asked).plan(Load(64))
        assert {tensor.dtype for tensor in plan.ranks[0].tensors if tensor.block == "swa"} == {stored}
    assert any("no recorded cell confirms" in text for text in made.assumptions)


def test_mxfp8_sliding_pools_are_priced_with_their_scales() -> None:
    """One scale byte per 32 elements: 2 heads x (64 + 64) elements are 256 + 8 bytes, in both pools."""
    cell = started("sglang", sliding(), kv_cache_dtype="mxfp8").report(Load(1))["cell_size"]
    assert cell == 264 + 0.8 * 264


def test_a_stage_of_sliding_layers_only() -> None:
    """All SWA: one token is priced at the sliding layers alone, and the pool holds what fits.

    2 layers x 2 heads x (64 + 64) x 2 bytes = 1024 bytes a token.
    """
    model = sliding(pattern=("local", "local"))
    got = report(model, 1, page_size=16)
    assert got["cell_size"] == 1024
    tokens = GIB // 1024 // 16 * 16
    assert (got["full_max_total_num_tokens"], got["swa_max_total_num_tokens"]) == (0, tokens)
    assert f"Use sliding window memory pool (all SWA). swa_layer_tokens={tokens}" in got["log"]
    # gpt-oss counts its window without the token itself: at least 127 + two pages of 16.
    made = started("sglang", model, page_size=16)
    assert made.plan(Load(10)).max_rank_bytes == (127 + 2 * 16) * 1024
    assert made.plan(Load(4096)).max_rank_bytes == 4096 * 1024


CAPPED = {"max_running_requests": 3, "disable_radix_cache": True, "chunked_prefill_size": 512, "page_size": 16}


def test_a_sliding_pool_capped_by_requests() -> None:
    """(127 + 128 + 16 + 16) x 3 requests + 2 chunks of 512 + a page = 1901, in whole pages 1904 tokens.

    The rest of the budget is the full pool's: (1 GiB - 1904 x 512) // 512, whole pages.
    """
    got = report(sliding(), 1, **CAPPED)
    full = (GIB - 1904 * 512) // 512 // 16 * 16
    assert (got["full_max_total_num_tokens"], got["swa_max_total_num_tokens"]) == (full, 1904)
    # max_total_tokens decides again: the cap stays, unless the pool is smaller.
    for limit, swa in ((160000, 1904), (1000, 1000)):
        got = report(sliding(), 1, **CAPPED, max_total_tokens=limit)
        assert (got["full_max_total_num_tokens"], got["swa_max_total_num_tokens"]) == (limit // 16 * 16, swa)
    without_overlap = report(sliding(), 1, **CAPPED, disable_overlap_schedule=True)
    assert without_overlap["swa_max_total_num_tokens"] == 1392  # 861 + one chunk of 512 + 16 = 1389
    made = started("sglang", sliding(), **CAPPED)
    assert made.plan(Load(100)).max_rank_bytes == 1904 * 512 + 112 * 512


def test_a_cap_larger_than_the_budget_is_refused() -> None:
    """1904 tokens of 512 bytes and not one page more."""
    for pool, fits in ((1904 * 512 + 16 * 512, True), (1904 * 512 + 16 * 512 - 1, False)):
        made = started("sglang", sliding(), **CAPPED)
        if fits:
            assert made.report(Load(1), pool)["full_max_total_num_tokens"] == 16
            continue
        with pytest.raises(EngineRefusal) as refused:
            made.report(Load(1), pool)
        assert "SWA pool cap (1904 tokens, 0.00 GiB) leaves no room" in str(refused.value)


def test_a_sliding_pool_too_small_for_one_request_is_refused() -> None:
    """int(full x 0.8) tokens must be more than the window of 127 and a page."""
    made = started("sglang", sliding(), page_size=1)
    for tokens, fits in ((162, True), (161, False)):  # int(162 x 0.8) = 129 > 128 = 127 + 1; int(161 x 0.8) = 128
        pool = int(tokens * (512 + 0.8 * 512)) + 1
        if fits:
            assert made.report(Load(1), pool)["swa_max_total_num_tokens"] == 129
            continue
        with pytest.raises(EngineRefusal) as refused:
            made.report(Load(1), pool)
        assert "SWA pool (128 tokens) cannot hold even one request" in str(refused.value)


@pytest.mark.parametrize("ratio", [0.07, 0.1, 0.29, 0.35, 0.55, 0.57, 0.58, 0.7, 0.8, 0.83, 1.0])
def test_the_planned_pool_serves_every_session(ratio: float) -> None:
    """The sliding pool, int(full x ratio) in whole pages, holds what the sessions keep alive, and no page is wasted.

    Whatever the float product rounds to: 100 x 0.29 is 28.999..., which int() makes 28.
    """
    for page in (1, 16):
        made = started("sglang", sliding(), page_size=page, swa_full_tokens_ratio=ratio)
        for sessions in (1, 2, 3, 7, 50, 100):
            tensors = made.plan(Load(4000, sessions)).ranks[0].tensors
            full = next(tensor.slots for tensor in tensors if tensor.block == "full") - page
            swa = next(tensor.slots for tensor in tensors if tensor.block == "swa") - page
            alive = -(-127 // page) * page + page
            least = -(-(127 + page + 1) // page) * page
            needed = max(sessions * alive, least)
            assert swa == int(full * ratio) // page * page
            assert swa >= needed
            smaller = full - page
            assert smaller < sessions * -(-4000 // page) * page or int(smaller * ratio) // page * page < needed


def test_state_slots_given_outright() -> None:
    """max_mamba_cache_size 10: 10 slots and the padding slot are charged, whatever the sessions.

    A slot: 1536 bytes of convolution and 4096 x 4 of state; a token: 2 heads x 128 x 2 bytes on one layer.
    """
    slot, token = 3 * 256 * 2 + 4096 * 4, 512
    made = started("sglang", hybrid(), max_mamba_cache_size=10)
    assert made.plan(Load(100)).max_rank_bytes == 100 * token + 11 * slot
    got: Any = made.report(Load(1), GIB)
    assert (got["max_mamba_cache_size"], got["max_total_num_tokens"]) == (10, (GIB - 11 * slot) // token)
    grouped = started("sglang", hybrid(), layout=Layout(tp=2), dp_size=2, max_mamba_cache_size=10)
    assert grouped.plan(Load(100)).max_rank_bytes == 100 * token + 6 * slot  # 5 slots per group and the padding one


def test_state_slots_follow_the_requests_without_a_prefix_cache() -> None:
    """disable_radix_cache and 7 requests: 7 slots and the padding slot, one slot per request."""
    slot, token = 3 * 256 * 2 + 4096 * 4, 512
    made = started("sglang", hybrid(), disable_radix_cache=True, max_running_requests=7)
    assert made.plan(Load(100, 2)).max_rank_bytes == 200 * token + 8 * slot
    got: Any = made.report(Load(1), GIB)
    assert (got["max_mamba_cache_size"], got["max_running_requests"]) == (7, 7)
    assert got["max_total_num_tokens"] == (GIB - 8 * slot) // token


def test_too_little_memory_is_refused_at_each_step() -> None:
    """Not one slot; too few slots for one request; nothing left for KV; not one page."""
    slot = 3 * 256 * 2 + 4096 * 4
    cases: list[tuple[Model, dict[str, Any], int, str]] = [
        (hybrid(), {}, slot, "Not enough GPU memory for hybrid"),
        # 0.9 / 1.9 of 8 slots less the padding slot are 2: fewer than the 3 one request takes.
        (hybrid(), {}, 8 * slot, "too small to serve any requests"),
        (hybrid(), {"max_mamba_cache_size": 10}, 11 * slot, "Loaded weights leave no GPU memory"),
        (plain(), {"page_size": 16}, 16 * 1024 - 1, "Not enough memory. Please try to increase"),
    ]
    for model, options, pool, words in cases:
        with pytest.raises(EngineRefusal) as refused:
            started("sglang", model, **options).report(Load(1), pool)
        assert words in str(refused.value)
    assert started("sglang", plain(), page_size=16).report(Load(1), 16 * 1024)["max_total_num_tokens"] == 16


def test_nine_slots_serve_three_requests() -> None:
    """With the prefix cache a request takes 3 slots; 5 with an extra buffer and overlap, 4 without overlap."""
    for options, each in (
        ({}, 3),
        ({"mamba_radix_cache_strategy": "extra_buffer"}, 5),
        ({"mamba_radix_cache_strategy": "extra_buffer", "disable_overlap_schedule": True}, 4),
        ({"mamba_radix_cache_strategy": "extra_buffer_lazy"}, 4),
    ):
        got = report(hybrid(), 1, max_mamba_cache_size=60, **options)
        assert got["max_running_requests"] == 60 // each


def test_equal_groups_share_one_plan() -> None:
    """4 sessions on 2 replicas of 2 attention groups: one each, so all four ranks hold the same."""
    made = started("sglang", plain(), layout=Layout(tp=2, dp=2), dp_size=2)
    plan = made.plan(Load(64, 4))
    assert [sorted(rank.ranks) for rank in plan.ranks] == [[0, 1, 2, 3]]
    uneven = made.plan(Load(64, 5))
    assert sorted(sorted(rank.ranks) for rank in uneven.ranks) == [[0], [1, 2, 3]]


def test_images_keep_memory_back() -> None:
    """100 MiB, or vlm_cache_size_mb; none for classes that are text-only, unless enable_multimodal says so."""
    model = model_of(HEADS, cls="Gemma3ForConditionalGeneration", max_context=4096)
    always = model_of(HEADS, cls="Qwen2VLForConditionalGeneration", max_context=4096)
    for who, options, mib in (
        (model, {}, 0),
        (model, {"enable_multimodal": True}, 100),
        (always, {}, 100),
        (always, {"enable_multimodal": False}, 0),
        (always, {"vlm_cache_size_mb": 0}, 0),
        (always, {"vlm_cache_size_mb": 7}, 7),
        (always, {"language_model_only": True}, 0),
        (plain(), {"enable_multimodal": True}, 0),
    ):
        assert report(who, 1, **options)["budget_bytes"] == GIB - mib * 2**20


def test_one_inkling_pool_has_the_convolutions_of_one_shape() -> None:
    """Without a sliding pool: two convolutions over K and V, two over the hidden state; read, not recorded.

    3 rows x (2 x 2 heads x 64 + 2 x 256 hidden) in bf16.
    """
    conv = {"kind": "short_conv", "dim": 256, "conv_kernel": 4}
    model = model_of(
        {"local": HEADS | {"window": 128}, "full": HEADS, "conv": conv},
        pattern=[["local", "conv"], ["full", "conv"]],
        cls="InklingForConditionalGeneration",
        max_context=4096,
        hidden_size=256,
    )
    one = started("sglang", model, disable_hybrid_swa_memory=True)
    assert one.report(Load(1))["mamba_cache_per_req"] == 2 * 3 * (2 * 2 * 64 + 2 * 256) * 2
    two = started("sglang", model)
    assert two.report(Load(1))["mamba_cache_per_req"] == 2 * 3 * (2 * 2 * 2 * 64 + 2 * 256) * 2
    assert two.exactness == "estimate"


def test_the_reserve_of_attention_groups() -> None:
    """8 groups on 81559 MiB: 512 + 8192 x 1.5 + 1024 + 512 x 2, and 512 x 8 x 4.5 for the groups.

    Batches up to 300 take 3 MiB: 512 + 12288 + 256 + 512, and 256 x 2 x 3.
    Source: memory_hook.py `_handle_gpu_memory_settings`.
    """
    eight = default_mem_fraction_static(81559, tp=8, attn_dp=8, prefill_graph=False)
    assert eight == round((81559 - (512 + 12288 + 1024 + 1024 + 18432)) / 81559, 3)
    two = default_mem_fraction_static(81559, tp=2, attn_dp=2, prefill_graph=False)
    assert two == round((81559 - (512 + 12288 + 256 + 512 + 1536)) / 81559, 3)
    alone = default_mem_fraction_static(81559, tp=8, prefill_graph=False)
    assert alone == round((81559 - (512 + 12288 + 1024 + 1024)) / 81559, 3)
    at_300 = default_mem_fraction_static(81559, tp=8, attn_dp=2, max_running_requests=300, prefill_graph=False)
    assert at_300 == round((81559 - (512 + 12288 + 1024 + 600 + 300 * 2 * 3)) / 81559, 3)


# DeepSeek-V4: one window layer, one CSA, one HCA; pages of 256.
#: Bytes per sliding token: 3 layers of 149760 / 256, and CSA's ring: 8 / 256 x (2048 + 4 x 128) x 4.
SWA_TOKEN = 3 * 149760 / 256 + 8 / 256 * (2048 + 4 * 128) * 4
#: Bytes per full token without a share of the sliding pool: CSA 37440 / 64 / 4 + 132 / 4, HCA 1728 / 2 / 128.
FULL_TOKEN = 37440 / 64 / 4 + 132 / 4 + 1728 / 2 / 128


def test_v4_prefix_tails() -> None:
    """Cap: (128 + 128 + 256 + 256) x 2 requests + 2 chunks of 512 + a page, and 128 + 256 for every tail.

    Four tails per request unless given; none without the prefix cache.
    """
    asked = {"max_running_requests": 2, "chunked_prefill_size": 512}
    base = 768 * 2 + 1024 + 256
    for options, tails in (({}, 8), ({"swa_prefix_tails": 3}, 3), ({"disable_radix_cache": True}, 0)):
        got = report(v4(), 1, **asked, **options)
        cap = -(-(base + tails * 384) // 256) * 256
        assert got["swa_max_total_num_tokens"] == cap
        assert f"mode=cap, swa_tokens={cap}, request_cap+headroom={cap}, prefix_tails={tails}" in got["log"][0]


def test_v4_cap_beyond_the_budget_is_refused() -> None:
    """The capped pool and the open groups of 2 requests leave less than one page."""
    asked = {"max_running_requests": 2, "chunked_prefill_size": 512, "swa_prefix_tails": 0}
    cap = 2816
    states = -(-((2 + 1) * 128 + 128 + 1) // 128) * 128 * 1024 * 4
    least = states + int(cap * SWA_TOKEN) + 256 * FULL_TOKEN
    made = started("sglang", v4(), **asked)
    assert made.report(Load(1), int(least) + 1)["full_max_total_num_tokens"] == 256
    with pytest.raises(EngineRefusal) as refused:
        made.report(Load(1), int(least) - 1)
    assert "The DSV4 SWA pool cap (2816 tokens, 0.01 GB) leaves no room" in str(refused.value)


@pytest.mark.parametrize(
    ("pattern", "change", "words"),
    [
        (("window", "csa"), {"csa": V4["csa"] | {"head_dim": 256}}, "448 + 64 elements, not [256, 512]"),
        (("window", "csa"), {"csa": V4["csa"] | {"tokens_per_slot": 8}}, "unsupported compression ratio"),
    ],
)
def test_v4_pools_of_other_shapes_are_refused(pattern: tuple[str, ...], change: dict[str, Any], words: str) -> None:
    """The pools know 512 elements, and compression by 4 and by 128."""
    blocks = {name: V4[name] for name in pattern} | change
    model = model_of(blocks, cls="DeepseekV4ForCausalLM", pattern=list(pattern), max_context=4096)
    with pytest.raises(EngineRefusal) as refused:
        started("sglang", model)
    assert words in str(refused.value)


def v4_rule(planner: Planner) -> V4Pools:
    assert isinstance(planner, SglangPlanner)
    rule = planner.stages[0].rule
    assert isinstance(rule, V4Pools)
    return rule


def test_v4_states_follow_the_budget_they_are_in() -> None:
    """The least budget for so many tokens gives them back; one byte less does not, unless a page is not full."""
    for context in (4096, 65536, 600_000, 1_048_576):
        rule = v4_rule(started("sglang", v4(max_context=context)))
        for tokens in (16384, 1_000_192, 40_000_000 // 256 * 256):
            budget = rule.priced(tokens)
            assert rule.from_budget(budget).tokens >= tokens - 256
            assert rule.fixed_bytes(rule.requests(budget)) + int(tokens * rule.bytes_per_full_token) <= budget


def test_v4_requests_and_budget_settle_however_slowly() -> None:
    """At a context of 683,520 a request more brings a budget that brings almost one more: 711 rounds of it.

    The result is still the least budget that sizes its own requests, here far below that of 4096 requests.
    """
    rule = v4_rule(started("sglang", v4(max_context=683_520)))
    budget = rule.priced(5120)
    grow = -int(-5120 * rule.bytes_per_full_token // 1)
    assert rule.fixed_bytes(rule.requests(budget)) + grow == budget
    assert budget < 0.75 * (rule.fixed_bytes(4096) + grow)


def test_rules_are_frozen() -> None:
    """A rule is shared by all loads; nothing may change it."""
    rules: tuple[Any, ...] = (TwoPools, V4Pools, Settings)
    for cls in rules:
        assert cls.__dataclass_params__.frozen
