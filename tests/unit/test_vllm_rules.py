"""vLLM's rules that no recorded cell asks about: grouping by hand-made formats, refusals, drafts, unusual types.

Figures follow vLLM 0.33.0's functions cited in kvcalc/engines/vllm, worked out here with small numbers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from starting import model_of, started

from kvcalc.core.model import Model
from kvcalc.core.plan import Layout, Load
from kvcalc.engines.vllm.backends import Backend, common_block, common_layout
from kvcalc.engines.vllm.cachedtypes import head_bytes, latent_bytes
from kvcalc.engines.vllm.grouping import Group, Layer, group_layers, pool_bytes_per_block
from kvcalc.engines.vllm.memory import available_bytes, requested_bytes
from kvcalc.engines.vllm.spec import Limits, Spec, SpecKind, mergeable, uniform
from kvcalc.engines.vllm.versions import RULES
from kvcalc.errors import EngineRefusal, UsageError

HEADS = {"kind": "gqa", "heads": 8, "groups": 2, "head_dim": 64}
LOCAL = HEADS | {"window": 128}
MLA = {"kind": "mla", "heads": 16, "latent_dim": 512, "rope_dim": 64}
MAMBA = {"kind": "mamba2", "heads": 8, "head_dim": 64, "state_dim": 128, "groups": 2, "conv_kernel": 4}
INDEXED = MLA | {"indexer": {"head_dim": 128}}
V4 = {
    "csa": {"kind": "csa", "heads": 8, "head_dim": 512, "tokens_per_slot": 4, "window": 128, "index_dim": 128},
    "hca": {"kind": "hca", "heads": 8, "head_dim": 512, "tokens_per_slot": 128, "window": 128},
}
#: K and V of 2 heads of 64 in bf16; a block of 16 tokens.
TOKEN, PAGE = 2 * 128 * 2, 16 * 2 * 128 * 2


def report(model: Model, load: Load | None = None, pool: int | None = None, **asked: Any) -> dict[str, Any]:
    return started("vllm", model, **asked).report(load or Load(4096), pool)


def mixed(**more: Any) -> Model:
    return model_of({"local": LOCAL, "full": HEADS}, pattern=["local", "full"], **more)


def v4(change: dict[str, Any], **more: Any) -> Model:
    return model_of(change, architecture="deepseek_v4", **more)


REFUSED: list[tuple[str, Model, dict[str, Any], str]] = [
    ("dropped", model_of(HEADS, cls="Grok1ForCausalLM"), {}, "vLLM dropped Grok1ForCausalLM after 0.24.0"),
    ("own formats", model_of(HEADS, architecture="inkling2"), {}, "no rules for the cache formats of inkling"),
    (
        "encoder-decoder",
        model_of({"kind": "cross", "heads": 2, "head_dim": 64}, architecture="bart"),
        {},
        "no encoder-decoder model bart",
    ),
    ("v4 in int8", v4(V4["hca"]), {"kv_cache_dtype": "int8_per_token_head"}, "in fp8_ds_mla only, not int8_per_token"),
    ("v4 on an A100", v4(V4["hca"]), {"gpu": "sm80"}, "kernels need sm90"),
    ("v4 of 256", v4(V4["hca"] | {"head_dim": 256}), {}, "need a window of latents of 512"),
    ("v4 without window", v4(HEADS), {}, "need a window of latents of 512"),
    ("v4 by 8", v4(V4["hca"] | {"tokens_per_slot": 8}), {}, "compresses 4 or 128 tokens, not 1 slot per 8 tokens"),
    ("v4 short blocks", v4(V4["hca"]), {"block_size": 64}, "a block must hold one group of 128 tokens"),
    ("drafts", model_of(HEADS), {"num_speculative_tokens": 1}, "has no draft layers of its own"),
    ("stages", model_of(HEADS), {"layout": Layout(pp=3)}, "3 pipeline stages for 2 layers"),
    ("nvfp4", model_of(HEADS | {"v_head_dim": 128}), {"kv_cache_dtype": "nvfp4", "gpu": "sm100"}, "equal K and V head"),
    ("sinks", model_of(LOCAL | {"sinks": 4}), {}, "keeps no sink tokens beside a window"),
    ("tied", model_of(HEADS | {"tied_kv": True}), {}, "K and V in one array"),
    ("indexer", model_of(INDEXED), {}, "no rule for the indexer of this model"),
    (
        "pooled indexer",
        model_of(MLA | {"indexer": {"head_dim": 128, "tokens_per_slot": 4}}, architecture="deepseek_v32"),
        {},
        "no rule for the indexer of deepseek_v32",
    ),
    ("hca elsewhere", model_of(V4["hca"]), {}, "the vllm engine has no rule for"),
    ("8 heads on 3", model_of(HEADS), {"layout": Layout(tp=3)}, "(8) must be divisible by tensor parallel size (3)"),
    (
        "6 KV heads on 4",
        model_of(HEADS | {"heads": 12, "groups": 6}),
        {"layout": Layout(tp=4)},
        "6 KV heads divide over neither 4 ranks nor the other way round",
    ),
    (
        "3 groups on 2",
        model_of(MAMBA | {"heads": 12, "groups": 3}, architecture="mamba2"),
        {"layout": Layout(tp=2)},
        "tensor parallel size 2 must divide the 3 groups or heads of conv_state",
    ),
    ("tp 3 dcp 2", model_of(HEADS), {"layout": Layout(tp=3, dcp=2)}, "tp 3 must be divisible by dcp 2"),
    ("dcp of a window", model_of(LOCAL), {"layout": Layout(tp=4, dcp=2)}, "does not divide windows over decode"),
    ("dcp without copies", model_of(HEADS), {"layout": Layout(tp=2, dcp=2)}, "dcp 2 needs tp >= dcp x 2 KV heads"),
    ("dcp beyond copies", model_of(HEADS), {"layout": Layout(tp=4, dcp=4)}, "dcp 4 needs tp >= dcp x 2 KV heads"),
    (
        "dcp and query heads",
        model_of(HEADS | {"heads": 12, "groups": 3}),
        {"layout": Layout(tp=12, dcp=3)},
        "4 query heads per KV head must divide by dcp",
    ),
    ("states in fp8", model_of(MAMBA), {"types": {"state": "fp8_e4m3"}}, "no recurrent states in fp8_e4m3"),
    ("two types", model_of(HEADS), {"types": {"key": "fp8_e4m3", "value": "bfloat16"}}, "K and V in one type"),
    ("int8", model_of(HEADS), {"types": {"key": "int8", "value": "int8"}}, "no KV cache dtype int8"),
    ("AMD", model_of(HEADS), {"gpu": "gfx942"}, "knows NVIDIA GPUs"),
    ("sm75", model_of(HEADS), {"gpu": "sm75"}, "knows NVIDIA GPUs"),
    ("sm130", model_of(HEADS), {"gpu": "sm130"}, "knows NVIDIA GPUs"),
]


@pytest.mark.parametrize(("model", "asked", "words"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_vllm_does_not_start_is_refused(model: Model, asked: dict[str, Any], words: str) -> None:
    """The refusal says why."""
    with pytest.raises(EngineRefusal) as refused:
        started("vllm", model, **asked)
    assert words in str(refused.value)


@pytest.mark.parametrize("skipped", ["2", "-1", "x", "0,2", "sliding"])
def test_skipped_layers_must_exist(skipped: str) -> None:
    """Layer numbers below 2, or sliding_window."""
    with pytest.raises(UsageError):
        started("vllm", model_of(HEADS), kv_cache_dtype_skip_layers=skipped)


def test_a_layout_of_latents_is_no_layout_of_heads() -> None:
    """fp8_ds_mla is a row of 656 bytes for a latent; heads have no such row."""
    assert latent_bytes("fp8_ds_mla", 576, 2) == 656
    assert latent_bytes("nvfp4_ds_mla", 576, 2) == 352
    assert latent_bytes("fp8", 576, 2) == 576
    assert latent_bytes("auto", 576, 2) == 1152
    with pytest.raises(UsageError):
        head_bytes("fp8_ds_mla", 64, 64, 2)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("auto", 512), ("fp8", 256), ("fp8_e5m2", 256),
        ("turboquant_k8v4", 128 + 64 + 4),  # fp8 keys; packed values with scale and zero
        ("turboquant_4bit_nc", 64 + 2 + 64 + 4), ("turboquant_k3v4_nc", 48 + 2 + 64 + 4),
        ("turboquant_3bit_nc", 48 + 2 + 48 + 4), ("nvfp4", 2 * (64 + 8)),
        ("int8_per_token_head", 256 + 8), ("fp8_per_token_head", 256 + 8), ("int4_per_token_head", 128 + 8),
    ],
)  # fmt: skip
def test_bytes_of_one_head(name: str, size: int) -> None:
    """K and V of 128 elements with their scales."""
    assert head_bytes(name, 128, 128, 2) == size


def test_odd_turboquant_slots_are_even() -> None:
    """3 bits, K and V of 72: 27 + 2 + 27 + 4 = 60 bytes; of 80: 30 + 2 + 30 + 4 = 66; of 72 and 80: 63, so 64."""
    assert [head_bytes("turboquant_3bit_nc", *dims, 2) for dims in ((72, 72), (80, 80), (72, 80))] == [60, 66, 64]


# Grouping


def spec(kind: SpecKind = "full", page: int = 1600, *, block: int = 16, **more: Any) -> Spec:
    return Spec(kind=kind, block_tokens=block, page_bytes=page, content_bytes=more.pop("content", page), **more)


def grouped(specs: list[Spec], *, version: str = "0.33", hybrid: bool = True, outer: bool = False) -> list[list[int]]:
    """Layer numbers of each group; a group whose pages are summed ends in -1."""
    layers = [Layer(number, "b", each) for number, each in enumerate(specs)]
    groups = group_layers(layers, RULES[version], hybrid_manager=hybrid, block_outermost=outer)
    return [[layer.number for layer in group.layers] + [-1] * group.mixed for group in groups]


def pages(specs: list[Spec], **how: Any) -> list[int]:
    layers = [Layer(number, "b", each) for number, each in enumerate(specs)]
    groups = group_layers(layers, RULES[how.pop("version", "0.33")], hybrid_manager=True, block_outermost=False)
    return [group.page_bytes for group in groups]


FULL, SLIDING, STATE = spec(), spec("sliding", span=8), spec("mamba", 700, block=0, state_blocks=(2, 1))


def test_layers_alike_are_one_group() -> None:
    """Equal formats share a table; pages that differ are summed where all layers keep the same tokens."""
    assert grouped([FULL] * 3) == [[0, 1, 2]]
    assert grouped([FULL, spec(page=500)]) == [[0, 1, -1]]
    assert pages([FULL, spec(page=500)]) == [2100]
    assert grouped([FULL, spec("mla", 500)]) == [[0, 1, -1]]
    assert grouped([]) == []


def test_groups_of_equal_pages_have_about_equally_many_layers() -> None:
    """5 sliding and 1 full layer: groups of 1 layer each; within the ratio of 1.5 the smaller set is padded."""
    assert grouped([SLIDING] * 5 + [FULL]) == [[0], [1], [2], [3], [4], [5]]
    assert grouped([SLIDING] * 5 + [FULL] * 4) == [[0, 1, 2, 3, 4], [5, 6, 7, 8]]
    assert grouped([SLIDING] * 6 + [FULL] * 4) == [[0, 2, 4], [1, 3, 5], [6, 7, 8, 9]]
    # Full layers that compute with a window are one set with the others.
    assert grouped([FULL, replace(FULL, span=8), SLIDING, SLIDING]) == [[0, 1], [2, 3]]
    # Up to 0.11 the smaller set decides unless they are equal; up to 0.17 the ratio is 1.25.
    assert grouped([SLIDING] * 5 + [FULL] * 4, version="0.11") == [[0, 2, 4], [1, 3], [5, 6, 7, 8]]
    assert grouped([SLIDING] * 5 + [FULL] * 4, version="0.17") == [[0, 2, 4], [1, 3], [5, 6, 7, 8]]
    assert grouped([SLIDING] * 6 + [FULL] * 5, version="0.17") == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]


def test_pages_are_brought_to_the_largest() -> None:
    """By longer blocks where it divides, by padding where it does not; states are always padded."""
    half, odd = spec("sliding", 800, span=8), spec("sliding", 480, span=8)
    assert pages([FULL, half]) == [1600, 1600]
    assert pages([FULL, odd]) == [1600, 1600]
    assert pages([FULL, STATE]) == [1600, 1600]
    layers = [Layer(0, "b", FULL), Layer(1, "b", half), Layer(2, "b", odd)]
    made = group_layers(layers, RULES["0.33"], hybrid_manager=True, block_outermost=False)
    blocks = {layer.number: (layer.spec.block_tokens, layer.spec.content_bytes) for g in made for layer in g.layers}
    assert blocks == {0: (16, 1600), 1: (32, 1600), 2: (16, 480)}


def test_pages_without_a_common_size_are_refused() -> None:
    """Up to 0.23 attention is not padded; a latent never is; a padded page cannot grow."""
    odd = spec("sliding", 480, span=8)
    with pytest.raises(EngineRefusal, match="pages of 480 and 1,600 bytes to one size"):
        grouped([FULL, odd], version="0.23")
    with pytest.raises(EngineRefusal, match="pages of 480 and 1,600 bytes to one size"):
        grouped([spec("sliding", span=8), spec("mla", 480), spec("chunked", span=8)])
    with pytest.raises(EngineRefusal, match="a padded page cannot be scaled"):
        grouped([FULL, spec("sliding", 800, content=320, span=8)])
    with pytest.raises(EngineRefusal, match="cannot hold blocks of 32 tokens"):
        grouped([FULL, spec("sliding", 800, content=480, span=8)])


def test_latents_beside_windows_that_do_not_fit_are_all_stored_in_full() -> None:
    """MLA pages of 480 and windows of 1600: windows become full layers, pages are summed in one group."""
    assert grouped([spec("mla", 480), SLIDING, SLIDING]) == [[0, 1, 2, -1]]
    assert pages([spec("mla", 480), SLIDING, SLIDING]) == [3680]
    for others in (
        [spec("chunked", span=8), SLIDING],
        [spec("sliding_mla", span=8), SLIDING],
        [SLIDING, spec("sliding", 1600, block=32, span=8, dcp_sharded=False)],
    ):
        with pytest.raises(EngineRefusal, match="to one size"):
            grouped([spec("mla", 480), *others])
    with pytest.raises(EngineRefusal, match="to one size"):  # no window at all
        grouped([spec("mla", 480), replace(STATE, page_bytes=1600, content_bytes=1600), spec("cross")])
    with pytest.raises(EngineRefusal, match="to one size"):  # the promoted windows differ from the state
        grouped([spec("mla", 480), SLIDING, replace(STATE, page_bytes=600)])


def test_without_the_hybrid_manager_windows_are_full_layers() -> None:
    """Windowed and chunked layers are stored like the full ones beside them, in the full layers' blocks."""
    assert grouped([FULL, SLIDING], hybrid=False) == [[0, 1]]
    assert grouped([FULL, spec("chunked", span=8)], hybrid=False) == [[0, 1]]
    layers = [Layer(0, "b", spec(block=32, page=3200)), Layer(1, "b", SLIDING)]
    (group,) = group_layers(layers, RULES["0.33"], hybrid_manager=False, block_outermost=False)
    assert [(each.kind, each.block_tokens, each.page_bytes) for each in group.specs] == [
        ("full", 32, 3200), ("full", 32, 3200),
    ]  # fmt: skip
    assert grouped([SLIDING, SLIDING], hybrid=False) == [[0, 1]]
    with pytest.raises(EngineRefusal, match="as one type of attention"):  # a state is none
        grouped([FULL, STATE], hybrid=False)
    with pytest.raises(EngineRefusal, match="MLAAttentionSpec takes no bounded_replay"):
        grouped([spec("mla"), spec("sliding_mla", span=8)], hybrid=False)
    with pytest.raises(EngineRefusal, match=r"one window size, not \[8, 9\]"):
        grouped([FULL, SLIDING, spec("sliding", span=9)], hybrid=False)
    with pytest.raises(EngineRefusal, match="as one type of attention"):
        grouped([SLIDING, spec("sliding", span=9)], hybrid=False)


def test_one_window_and_one_chunk_do_not_merge() -> None:
    """Full layers that compute with a window and with a chunk are not one format, though their tables are one."""
    windowed, chunked = replace(FULL, span=8), replace(FULL, chunk=8)
    assert mergeable([FULL, windowed])
    assert mergeable([FULL, chunked])
    assert not mergeable([windowed, chunked])
    assert not mergeable([FULL, spec(page=500)])
    assert not mergeable([FULL, SLIDING])
    assert not mergeable([SLIDING, FULL])
    with pytest.raises(EngineRefusal):
        mergeable([chunked, replace(FULL, chunk=9)])


def test_uniform_layers_keep_the_same_tokens() -> None:
    """Same class of growth, block and span; a window of latents joins a window, not the other way round."""
    assert uniform([FULL, spec("mla", 300)])
    assert uniform([SLIDING, spec("sliding", 300, span=8)])
    assert uniform([SLIDING, spec("sliding_mla", span=8)])
    assert not uniform([spec("sliding_mla", span=8), SLIDING])
    assert not uniform([SLIDING, spec("sliding", span=9)])
    assert not uniform([FULL, SLIDING])
    assert not uniform([FULL, spec(block=32)])
    assert not uniform([FULL, replace(FULL, dcp_sharded=False)])
    assert uniform([STATE, replace(STATE, body=("other",))])
    assert not uniform([STATE, replace(STATE, page_bytes=701)])
    assert not uniform([STATE, replace(STATE, state_blocks=(3, 1))])
    assert not uniform([STATE, replace(FULL, block_tokens=0, page_bytes=700)])


LIMITS = Limits(in_flight_tokens=100, encoder_tokens=50, dcp=2, align_states=True)


def test_blocks_one_request_may_hold() -> None:
    """Per class, in blocks of 16: growing layers divide over dcp; windows hold what is in flight and one block more."""
    assert FULL.blocks(1000, LIMITS) == 32  # 500 tokens
    assert replace(FULL, dcp_sharded=False).blocks(1000, LIMITS) == 63
    assert SLIDING.blocks(1000, LIMITS) == 8  # 8 - 1 + 100 = 107 tokens: 7, and one
    assert replace(SLIDING, extra_tokens=6).blocks(1000, LIMITS) == 9  # 113 tokens: 8, and one
    assert SLIDING.blocks(20, LIMITS) == 3
    assert spec("chunked", span=8).blocks(1000, LIMITS) == 7  # 108 tokens
    assert spec("cross").blocks(1000, LIMITS) == 4
    assert STATE.blocks(1000, LIMITS) == 2
    assert STATE.blocks(1000, LIMITS._replace(align_states=False)) == 1


def test_blocks_one_request_holds_while_it_decodes() -> None:
    """Whole blocks before the window, or of closed chunks, are given back."""
    assert FULL.steady_blocks(100) == 7
    assert SLIDING.steady_blocks(100) == 7 - 92 // 16
    assert SLIDING.steady_blocks(8) == 1
    assert spec("chunked", span=32).steady_blocks(100) == 7 - 96 // 16
    assert spec("chunked", span=32).steady_blocks(96) == 6 - 64 // 16


def test_strides_keep_kernel_blocks_whole() -> None:
    """A page is rounded up to whole kernel blocks; entries of 4 tokens count as entries."""
    plain = spec(page=1600, stride_bytes=300)
    assert (plain.stride_alignment, plain.stride_page_bytes) == (300, 1800)
    kernel = spec(page=3200, block=32, stride_multiple=16)
    assert (kernel.stride_alignment, kernel.stride_page_bytes) == (1600, 3200)
    assert spec(page=1600, stride_multiple=64).stride_alignment == 1
    entries = spec("mla", 640, block=64, tokens_per_state=4)
    assert entries.entry_bytes == 40
    assert entries.with_block(128).page_bytes == 1280
    assert spec("mla", 40, block=2, tokens_per_state=4).entry_bytes == 40


def test_packed_groups_round_up_to_every_stride() -> None:
    """Block-outermost: the widest group's pages, up to a multiple of all alignments."""
    groups = [
        Group((Layer(0, "b", spec(page=700, stride_bytes=300)), Layer(1, "b", spec(page=500))), mixed=True),
        Group((Layer(2, "b", spec(page=1000, stride_bytes=200)),), mixed=True),
    ]
    assert pool_bytes_per_block(groups, None, block_outermost=True) == 1200
    assert pool_bytes_per_block(groups, None, block_outermost=False) == 1400  # 900 + 500
    assert pool_bytes_per_block(groups, range(2, 3), block_outermost=True) == 1000
    assert pool_bytes_per_block(groups, range(3, 4), block_outermost=False) == 0


def test_packed_layers_split_by_the_least_padding() -> None:
    """Latents with pages of two sizes and windows: rounds of one layer of each page size."""
    a, b, window = spec("mla", 400), spec("mla", 100), spec("sliding_mla", 250, span=8)
    assert grouped([a, b, window] * 4, outer=True) == [
        [0, 1, 3, 4, 6, 7, 9, 10, -1], [2, 5, 8, 11, -1],
    ]  # fmt: skip
    assert grouped([a, b] * 2 + [window] * 4, outer=True) == [[0, 1, 2, 3, -1], [4, 6, -1], [5, 7, -1]]
    with pytest.raises(EngineRefusal, match="its groups miss layers"):
        grouped([a, a, b, window, window, window, window, spec("sliding_mla", 50, span=8)], outer=True)


# Models


def test_drafted_layers_are_more_layers() -> None:
    """mtp: one more layer of the named block; drafts of ngram add none."""
    model = model_of(HEADS, mtp={"layers": 1, "block": "attention"})
    for options, layers in (
        ({}, 2), ({"num_speculative_tokens": 2}, 3), ({"num_speculative_tokens": 2, "speculative_method": "ngram"}, 2),
    ):  # fmt: skip
        got = report(model, **options)
        assert got["pool_bytes_per_block"] == [layers * PAGE]
        assert got["groups"][0]["layer_indices"] == list(range(layers))
    staged = report(model, layout=Layout(pp=2), num_speculative_tokens=1)
    assert staged["groups"][0]["layers_per_stage"] == [1, 2]


def test_several_draft_modules_read_below_the_window() -> None:
    """Two mtp layers drafting 3 tokens keep 2 tokens more of a window: 128 - 1 + 2 + in flight."""
    model = model_of({"local": LOCAL, "full": HEADS}, pattern=["local", "full"], mtp={"layers": 2, "block": "full"})
    asked = {"max_num_batched_tokens": 16, "async_scheduling": False}
    windows = [
        report(model, Load(4096), **asked, num_speculative_tokens=drafts)["groups"][0]["blocks_per_request"]
        for drafts in (1, 2, 3)
    ]
    assert windows == [10, 10, 11]  # 143, 144 and 145 tokens in blocks of 16, and one more


def test_windows_that_vllm_stores_in_full() -> None:
    """qwen2 ignores windows of some layers; where all layers slide, they do."""
    assert [group["kind"] for group in report(mixed(architecture="qwen2"))["groups"]] == ["FullAttentionSpec"]
    assert len(report(mixed(architecture="llama"))["groups"]) == 2
    alone = report(model_of(LOCAL, architecture="qwen2"))
    assert [group["kind"] for group in alone["groups"]] == ["SlidingWindowSpec"]


def test_gpt_oss_slides_on_even_layers() -> None:
    """Whatever the pattern says; without both kinds of layers the pattern stands."""
    blocks = {"local": LOCAL, "full": HEADS}
    odd = report(model_of(blocks, pattern=["full", "local"], layers=4, architecture="gpt_oss"))
    kinds = {group["kind"]: group["layer_indices"] for group in odd["groups"]}
    assert kinds == {"SlidingWindowSpec": [0, 2], "FullAttentionSpec": [1, 3]}
    assert len(report(model_of(HEADS, architecture="gpt_oss"))["groups"]) == 1


def test_types_that_architectures_choose() -> None:
    """GLM-5 caches fp8 on Blackwell, DeepSeek-V3.2 takes bfloat16 as its own, Falcon ignores the cache type."""
    glm = model_of(INDEXED, architecture="glm_moe_dsa")
    assert report(glm, gpu="sm100")["kv_cache_dtype"] == "fp8_e4m3"
    assert report(glm, gpu="sm90")["kv_cache_dtype"] == "auto"
    assert report(glm, gpu="sm100", kv_cache_dtype="bfloat16")["kv_cache_dtype"] == "bfloat16"
    deepseek = model_of(INDEXED, architecture="deepseek_v32")
    assert report(deepseek, kv_cache_dtype="bfloat16")["kv_cache_dtype"] == "auto"
    falcon = report(model_of(HEADS, architecture="falcon"), kv_cache_dtype="fp8")
    assert falcon["pool_bytes_per_block"] == [2 * PAGE]
    assert report(model_of(HEADS), kv_cache_dtype="fp8")["pool_bytes_per_block"] == [PAGE]
    for asked in ("auto", "fp8", "fp8_e4m3", "fp8_ds_mla"):
        assert report(v4(V4["hca"]), kv_cache_dtype=asked)["kv_cache_dtype"] == "fp8_ds_mla"


def test_missing_state_types_are_said() -> None:
    """Qwen3.5 configs state mamba_ssm_dtype; a file that does not gets a warning, unless a type is asked for."""
    delta = {"kind": "gated_deltanet", "key_heads": 2, "value_heads": 4, "key_dim": 64, "value_dim": 64,
             "conv_kernel": 4}  # fmt: skip
    hybrid: dict[str, Any] = {"pattern": ["delta", "full"], "architecture": "qwen3_5_text"}
    blocks = {"delta": delta, "full": HEADS}
    warned: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
        "plain": ({}, {}, True),
        "fact": ({"facts": {"mamba_ssm_dtype": "float32"}}, {}, False),
        "file": ({"state_dtype": "float32"}, {}, False),
        "asked": ({}, {"mamba_ssm_cache_dtype": "float32"}, False),
        "asked in our words": ({}, {"types": {"state": "float32"}}, False),
        "auto": ({}, {"mamba_ssm_cache_dtype": "auto"}, True),
    }
    for more, asked, expected in warned.values():
        made = started("vllm", model_of(blocks, **hybrid, **more), **asked)
        assert any("does not state mamba_ssm_dtype" in text for text in made.warnings) == expected


def test_skipped_layers_keep_the_models_type() -> None:
    """Layer 0 in bf16 beside fp8: the fp8 page doubles its block, so that both pages are 16 KiB."""
    got = report(model_of(HEADS), kv_cache_dtype="fp8", kv_cache_dtype_skip_layers="0")
    assert [sorted(group["pages"]) for group in got["groups"]] == [
        ["FullAttentionSpec:16384", "FullAttentionSpec:8192"]
    ]
    assert got["block_size"] == 32
    same = report(model_of(HEADS), kv_cache_dtype="bfloat16", kv_cache_dtype_skip_layers="0")
    assert (same["block_size"], same["pool_bytes_per_block"]) == (16, [2 * PAGE])


def test_advice_names_what_speculation_costs() -> None:
    """Without drafts more sessions fit; a change that vLLM refuses is not advised."""
    model = model_of(HEADS, mtp={"layers": 2, "block": "attention"})
    got = report(model, Load(1024), 2**30, num_speculative_tokens=1)
    flags = {change["flag"]: change for change in got["changes"]}
    assert flags["without speculative decoding"]["saved_bytes_per_session"] == 64 * 2 * PAGE
    wide = report(model_of(HEADS | {"head_dim": 520}), Load(1024), 2**30, gpu="sm80", flashinfer=False)
    assert "--kv-cache-dtype fp8" not in {change["flag"] for change in wide["changes"]}


def test_a_model_without_cache_has_the_null_block_alone() -> None:
    """No attention, no state: one block, no bytes; a stage of such layers is left out of the check."""
    got = report(model_of({"kind": "none"}), Load(10), 1000)
    assert (got["num_gpu_blocks"], got["starts"]) == (1, True)
    staged = model_of({"a": HEADS, "b": {"kind": "none"}}, pattern=["a", "b"])
    made = report(staged, Load(16), 100 * PAGE, layout=Layout(pp=2))
    assert (made["pool_bytes_per_block"], made["num_gpu_blocks"]) == ([PAGE, 0], 100)


def test_memory_vllm_claims() -> None:
    """The fraction rounded up; refused where less is free; what remains after weights, peak, the rest and graphs."""
    assert requested_bytes(1001, 0.9) == 901
    parts = {"weights": 500, "activation_peak": 100, "non_torch": 50, "cuda_graphs": 7}
    assert available_bytes(requested=901, **parts) == 244
    assert available_bytes(requested=901, free=901, **parts) == 244
    with pytest.raises(EngineRefusal):
        available_bytes(requested=901, free=900, **parts)


def test_backends_agree_on_a_block_and_a_layout() -> None:
    """The smallest multiple both take, the first layout all read."""
    one = Backend(name="A", dtypes=(), sizes=(64, 48), layouts=("X", "Y"))
    two = Backend(name="B", dtypes=(), multiple_of=32, layouts=("Y", "X"))
    assert common_block([one, two]) == 64
    assert common_block([one]) == 48
    assert common_block([Backend(name="C", dtypes=(), sizes=(8,)), Backend(name="D", dtypes=(), sizes=(16, 3))]) == 16
    assert common_layout([one, two]) == "X"
    assert common_layout([]) == "LBNHC"
    with pytest.raises(EngineRefusal, match="A X/Y, E Z"):
        common_layout([one, Backend(name="E", dtypes=(), layouts=("Z",))])
