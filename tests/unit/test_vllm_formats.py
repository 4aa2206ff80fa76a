"""The complete cache format of every layer vLLM builds, worked out by hand from the rules of vLLM 0.33.0.

Sources: v1/kv_cache_interface.py, platforms/interface.py, models/deepseek_v2.py, models/deepseek_v4/attention.py,
layers/mamba/mamba_utils.py, as cited in kvcalc/engines/vllm/{layers,blocks,build,deepseek_v4}.py.
"""

from __future__ import annotations

from typing import Any

import pytest
from starting import model_of
from vllm_layers import attn, built, formats, state

from kvcalc.core.plan import Layout
from kvcalc.errors import EngineRefusal

HEADS = {"kind": "gqa", "heads": 8, "groups": 2, "head_dim": 64}
LOCAL = HEADS | {"window": 128}
MLA = {"kind": "mla", "heads": 16, "latent_dim": 512, "rope_dim": 64}
INDEXED = MLA | {"indexer": {"head_dim": 128}}
SHARED = MLA | {"indexer": {"head_dim": 128, "shared": True}}
CROSS = {"kind": "cross", "heads": 8, "groups": 2, "head_dim": 64}
MAMBA = {"kind": "mamba2", "heads": 8, "head_dim": 64, "state_dim": 128, "groups": 2, "conv_kernel": 4}
GDN = {"kind": "gated_deltanet", "key_heads": 2, "value_heads": 4, "key_dim": 64, "value_dim": 64, "conv_kernel": 4}
KDA = {"kind": "kda", "heads": 4, "head_dim": 64, "conv_kernel": 4}
CSA = {"kind": "csa", "heads": 8, "head_dim": 512, "tokens_per_slot": 4, "window": 128, "index_dim": 128}
HCA = {"kind": "hca", "heads": 8, "head_dim": 512, "tokens_per_slot": 128, "window": 128}


BF16 = (2, 64, 64, "bfloat16")
#: 2 heads x (64 + 64) x 2 bytes x 16 tokens
PAGE = 2 * 128 * 2 * 16
#: conv: 3 inputs of 8 x 64 + 2 x 2 x 128; state: 8 x 64 x 128; both bf16
MAMBA_BODY = (("conv_state", 3, 1024), ("ssm_state", 1, 65536), "bfloat16", "bfloat16")
MAMBA_BYTES = 3 * 1024 * 2 + 65536 * 2
#: conv: 3 inputs of 2 x 2 x 64 + 4 x 64; state: 4 x 64 x 64
GDN_BODY = (("conv_state", 3, 512), ("recurrent_state", 1, 16384), "bfloat16", "bfloat16")
GDN_BYTES = 3 * 512 * 2 + 16384 * 2
INDEX = attn("mla", 64, 64 * 132, 64 * 132, (1, 132, "index"), multiple=64)


def latent(size: int, name: str, **stride: int) -> tuple[object, ...]:
    """A latent of 576 in blocks of 64, `size` bytes a token."""
    return attn("mla", 64, 64 * size, 64 * size, (1, 576, name), **stride)


ONE: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], tuple[tuple[object, ...], ...]]] = {
    "heads": (HEADS, {}, {}, (attn("full", 16, PAGE, PAGE, BF16),)),
    "heads on 2 ranks": (
        HEADS, {}, {"layout": Layout(tp=2)}, (attn("full", 16, PAGE // 2, PAGE // 2, (1, 64, 64, "bfloat16")),),
    ),
    "heads in fp8": (
        HEADS, {}, {"kv_cache_dtype": "fp8_e4m3"}, (attn("full", 16, PAGE // 2, PAGE // 2, (2, 64, 64, "fp8")),),
    ),
    # FlashInfer's sm100 kernels take fixed sizes: up to 1,024 where query heads share a KV head, else up to 64.
    "groups on Blackwell": (HEADS, {}, {"gpu": "sm100"}, (attn("full", 16, PAGE, PAGE, BF16, multiple=1024),)),
    "MHA on Blackwell": (
        HEADS | {"groups": 8}, {}, {"gpu": "sm100"},
        (attn("full", 16, 4 * PAGE, 4 * PAGE, (8, 64, 64, "bfloat16"), multiple=64),),
    ),
    "unequal widths": (
        HEADS | {"v_head_dim": 32}, {}, {},
        (attn("full", 16, PAGE * 3 // 4, PAGE * 3 // 4, (2, 64, 32, "bfloat16")),),
    ),
    "window": (LOCAL, {}, {}, (attn("sliding", 16, PAGE, PAGE, BF16, span=128),)),
    "window plus one": (
        LOCAL, {"architecture": "cohere2"}, {}, (attn("sliding", 16, PAGE, PAGE, BF16, span=129),),
    ),
    "chunk": (HEADS | {"chunk": 64}, {}, {}, (attn("chunked", 16, PAGE, PAGE, BF16, span=64),)),
    "longer blocks": (HEADS, {}, {"block_size": 48}, (attn("full", 48, 3 * PAGE, 3 * PAGE, BF16),)),
    "latent": (MLA, {}, {}, (attn("mla", 16, 16 * 1152, 16 * 1152, (1, 576, "bfloat16")),)),
    "latent on 4 ranks": (
        MLA, {}, {"layout": Layout(tp=4)}, (attn("mla", 16, 16 * 1152, 16 * 1152, (1, 576, "bfloat16")),),
    ),
    "latent in fp8": (MLA, {}, {"kv_cache_dtype": "fp8"}, (latent(576, "fp8", multiple=64),)),
    "window of latents": (
        MLA | {"window": 128}, {}, {},
        (attn("sliding_mla", 16, 16 * 1152, 16 * 1152, (1, 576, "bfloat16"), span=128),),
    ),
    # Sparse latents: FlashAttention's reads single rows, Hopper's FlashMLA pages of 64 tokens of 656 bytes.
    "sparse": (INDEXED, {"architecture": "deepseek_v32"}, {}, (INDEX, latent(1152, "bfloat16", stride=1152))),
    "sparse fp8": (
        INDEXED, {"architecture": "deepseek_v32"}, {"kv_cache_dtype": "fp8"},
        (INDEX, latent(656, "fp8_ds_mla", multiple=64)),
    ),
    "sparse sm100": (
        INDEXED, {"architecture": "deepseek_v32"}, {"gpu": "sm100"},
        (INDEX, latent(1152, "bfloat16", stride=64 * 1152)),
    ),
    "sparse sm100, 17 heads and more": (
        INDEXED | {"heads": 32}, {"architecture": "deepseek_v32"}, {"gpu": "sm100"},
        (INDEX, latent(1152, "bfloat16", stride=1152)),
    ),
    "sparse sm100 fp8": (
        INDEXED, {"architecture": "deepseek_v32"}, {"gpu": "sm100", "kv_cache_dtype": "fp8"},
        (INDEX, latent(576, "fp8", stride=32 * 576)),
    ),
    "sparse sm100 fp8_ds_mla": (
        INDEXED, {"architecture": "deepseek_v32"}, {"gpu": "sm100", "kv_cache_dtype": "fp8_ds_mla"},
        (INDEX, latent(656, "fp8_ds_mla", stride=656)),
    ),
    "sparse sm100 nvfp4": (
        INDEXED, {"architecture": "deepseek_v32"}, {"gpu": "sm100", "kv_cache_dtype": "nvfp4_ds_mla"},
        (INDEX, latent(352, "nvfp4_ds_mla", stride=352)),
    ),
    "selection of another layer": (
        SHARED, {"architecture": "glm_moe_dsa"}, {}, (latent(1152, "bfloat16", stride=1152),),
    ),
    # States without attention: one block for the whole length, no padding; blocks with and without prefix caching.
    "mamba2": (MAMBA, {}, {}, (state(0, MAMBA_BYTES, MAMBA_BYTES, MAMBA_BODY, (3, 1)),)),
    "mamba2 on 2 ranks": (
        MAMBA, {}, {"layout": Layout(tp=2)},
        (state(0, MAMBA_BYTES // 2, MAMBA_BYTES // 2,
               (("conv_state", 3, 512), ("ssm_state", 1, 32768), "bfloat16", "bfloat16"), (3, 1)),),
    ),
    "one group is kept by both ranks": (
        MAMBA | {"groups": 1}, {}, {"layout": Layout(tp=2)},
        (state(0, 3 * 512 * 2 + 65536, 3 * 512 * 2 + 65536,
               (("conv_state", 3, 512), ("ssm_state", 1, 32768), "bfloat16", "bfloat16"), (3, 1)),),
    ),
    "drafts lengthen the tail": (
        MAMBA, {}, {"num_speculative_tokens": 2, "speculative_method": "ngram"},
        (state(0, 5 * 1024 * 2 + 131072, 5 * 1024 * 2 + 131072,
               (("conv_state", 5, 1024), ("ssm_state", 1, 65536), "bfloat16", "bfloat16"), (5, 3)),),
    ),
    "states in float32": (
        MAMBA, {}, {"mamba_ssm_cache_dtype": "float32"},
        (state(0, 3 * 1024 * 2 + 65536 * 4, 3 * 1024 * 2 + 65536 * 4, (*MAMBA_BODY[:3], "float32"), (3, 1)),),
    ),
    "all in float32": (
        MAMBA, {}, {"mamba_cache_dtype": "float32"},
        (state(0, MAMBA_BYTES * 2, MAMBA_BYTES * 2, (*MAMBA_BODY[:2], "float32", "float32"), (3, 1)),),
    ),
    "mamba1 keeps no checkpoint, its tail no drafts": (
        {"kind": "mamba1", "inner_dim": 256, "state_dim": 16, "conv_kernel": 4}, {},
        {"num_speculative_tokens": 1, "speculative_method": "ngram"},
        (state(0, 3 * 256 * 2 + 4096 * 2, 3 * 256 * 2 + 4096 * 2,
               (("conv_state", 3, 256), ("ssm_state", 1, 4096), "bfloat16", "bfloat16"), (3, 2)),),
    ),
    "gdn on Hopper": (GDN, {}, {}, (state(0, GDN_BYTES, GDN_BYTES, GDN_BODY, (3, 1)),)),
    "gdn on Blackwell, keys of 64": (GDN, {}, {"gpu": "sm100"}, (state(0, GDN_BYTES, GDN_BYTES, GDN_BODY, (2, 1)),)),
    "gdn on Blackwell, keys of 128": (
        GDN | {"key_dim": 128}, {}, {"gpu": "sm100"},
        (state(0, 3 * 768 * 2 + 32768 * 2, 3 * 768 * 2 + 32768 * 2,
               (("conv_state", 3, 768), ("recurrent_state", 1, 32768), "bfloat16", "bfloat16"), (3, 1)),),
    ),
    "gdn of an olmo": (
        GDN, {"architecture": "olmo_hybrid"}, {}, (state(0, GDN_BYTES, GDN_BYTES, GDN_BODY, (2, 1)),),
    ),
    "kda in float32": (
        KDA, {}, {},
        (state(0, 3 * 768 * 2 + 16384 * 4, 3 * 768 * 2 + 16384 * 4,
               (("conv_state", 3, 768), ("recurrent_state", 1, 16384), "bfloat16", "float32"), (2, 1)),),
    ),
    "lightning": (
        {"kind": "lightning", "heads": 4, "head_dim": 64}, {}, {},
        (state(0, 32768, 32768, (("recurrent_state", 1, 16384), "bfloat16", "bfloat16"), (2, 1)),),
    ),
    "short convolution": (
        {"kind": "short_conv", "dim": 256, "conv_kernel": 4}, {}, {},
        (state(0, 1536, 1536, (("conv_state", 3, 256), "bfloat16", "bfloat16"), (2, 1)),),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "more", "asked", "expected"), list(ONE.values()), ids=list(ONE))
def test_formats_of_one_kind_of_layer(
    kind: dict[str, Any], more: dict[str, Any], asked: dict[str, Any], expected: tuple[tuple[object, ...], ...]
) -> None:
    """Both layers have the caches that vLLM's class builds, in its order, with every field it compares."""
    got = formats(model_of(kind, **more), **asked)
    assert got == [(number, "attention", *each) for number in (0, 1) for each in expected]


def test_block_sizes_and_layouts() -> None:
    """cache_config.block_size: the backend's, or as asked; without attention 16. sm100 kernels read LBHNC."""
    cases: list[tuple[Any, dict[str, Any], int, str]] = [
        (HEADS, {}, 16, "LBNHC"), (HEADS, {"block_size": 64}, 64, "LBNHC"), (HEADS, {"gpu": "sm100"}, 16, "LBHNC"),
        (MLA, {"kv_cache_dtype": "fp8"}, 64, "LBNHC"), (MAMBA, {}, 16, "LBNHC"),
        (MAMBA, {"block_size": 48}, 48, "LBNHC"), ({"kind": "none"}, {}, 16, "LBNHC"),
    ]  # fmt: skip
    for kind, asked, block, layout in cases:
        made = built(model_of(kind), **asked)
        assert (made.block_tokens, made.layout) == (block, layout)


def test_windows_take_the_largest_kernel_block_of_the_page() -> None:
    """Blocks of 48 on sm100: full layers take them (16 divides), windows need one kernel block: 32, padded."""
    got = formats(model_of({"local": LOCAL, "full": HEADS}, pattern=["local", "full"]), block_size=48, gpu="sm100")
    assert got == [
        (0, "local", *attn("sliding", 32, 3 * PAGE, 2 * PAGE, BF16, span=128, multiple=1024)),
        (1, "full", *attn("full", 48, 3 * PAGE, 3 * PAGE, BF16, multiple=1024)),
    ]


def test_cross_attention_beside_self_attention() -> None:
    """whisper: each layer has its own past and the encoder's; the query heads of one layer serve both."""
    model = model_of({"self": HEADS, "cross": CROSS}, pattern=[["self", "cross"]], architecture="whisper")
    assert formats(model) == [
        (number, name, *attn(kind, 16, PAGE, PAGE, BF16))
        for number in (0, 1)
        for name, kind in (("self", "full"), ("cross", "cross"))
    ]


def test_attention_pages_hold_a_state() -> None:
    """Blocks grow until an attention page covers the state (512 bytes a token), the state is padded to it."""
    model = model_of({"mamba": MAMBA, "full": HEADS}, pattern=["mamba", "full"])
    # 137,216 bytes / (16 x 512) = 16.75: 17 kernel blocks, 272 tokens.
    full = (1, "full", *attn("full", 272, 272 * 512, 272 * 512, BF16))
    assert formats(model) == [(0, "mamba", *state(272, 272 * 512, MAMBA_BYTES, MAMBA_BODY, (3, 1))), full]
    assert formats(model, enable_prefix_caching=False) == [
        (0, "mamba", *state(0, 272 * 512, MAMBA_BYTES, MAMBA_BODY, (3, 1))), full,
    ]  # fmt: skip
    # block_size 160: a kernel block itself; one is too small (81,920), two are 320 tokens.
    assert built(model, block_size=160).block_tokens == 320
    assert built(model, block_size=512).block_tokens == 512


def test_checkpoints_every_64_tokens() -> None:
    """Gated DeltaNet on Hopper with prefix caching: 35,840 / (64 x 512) = 1.1, so 128 tokens; without: 80."""
    model = model_of({"delta": GDN, "full": HEADS}, pattern=["delta", "full"])
    assert formats(model) == [
        (0, "delta", *state(128, 65536, GDN_BYTES, GDN_BODY, (3, 1))),
        (1, "full", *attn("full", 128, 65536, 65536, BF16)),
    ]
    assert built(model, enable_prefix_caching=False).block_tokens == 80
    assert built(model, gpu="sm100").block_tokens == 80


def test_latents_beside_states_come_in_128_tokens() -> None:
    """Kimi Linear: 70,144 bytes of state fit one kernel block of 128 tokens of 1,152 bytes."""
    got = formats(model_of({"kda": KDA, "mla": MLA}, pattern=["kda", "mla"], architecture="kimi_linear"))
    body = (("conv_state", 3, 768), ("recurrent_state", 1, 16384), "bfloat16", "float32")
    assert got == [
        (0, "kda", *state(128, 128 * 1152, 4608 + 65536, body, (2, 1))),
        (1, "mla", *attn("mla", 128, 128 * 1152, 128 * 1152, (1, 576, "bfloat16"))),
    ]
    asked = built(model_of({"kda": KDA, "mla": MLA}, pattern=["kda", "mla"]), block_size=256)
    assert asked.block_tokens == 256
    windowed = built(model_of({"kda": KDA, "mla": MLA | {"window": 128}}, pattern=["kda", "mla"]))
    assert windowed.block_tokens == 128


def test_a_stage_of_states_alone_aligns_nothing() -> None:
    """Each stage settles its own sizes: states in blocks of 16, padded at last to the other stage's pages."""
    blocks = {"mamba": MAMBA, "full": HEADS}
    for pattern in (["mamba", "full"], ["full", "mamba"]):
        made = built(model_of(blocks, pattern=pattern), layout=Layout(pp=2))
        assert made.block_tokens == 272
        assert [(stage.layers, stage.pool_bytes) for stage in made.stages] == [
            (range(1), 272 * 512), (range(1, 2), 272 * 512),
        ]  # fmt: skip
        specs = {spec.kind: spec for group in made.groups for spec in group.specs}
        assert (specs["mamba"].block_tokens, specs["full"].block_tokens) == (16, 272)
    late = built(model_of(blocks, pattern=["mamba", "mamba", "mamba", "full"], layers=4), layout=Layout(pp=2))
    assert late.block_tokens == 272


def test_layers_that_keep_the_models_type() -> None:
    """Windows in bf16 beside fp8: the fp8 block doubles to 32 tokens, windows fill the same 8 KiB with 16."""
    model = model_of({"local": LOCAL, "full": HEADS}, pattern=["local", "full"])
    asked = {"kv_cache_dtype": "fp8", "kv_cache_dtype_skip_layers": "sliding_window"}
    assert formats(model, **asked) == [
        (0, "local", *attn("sliding", 16, PAGE, PAGE, BF16, span=128)),
        (1, "full", *attn("full", 32, PAGE, PAGE, (2, 64, 64, "fp8"))),
    ]
    # 272 bytes a token in int8 with scales: 32 tokens make 8,704, to which the windows of 8,192 are padded.
    model = model_of({"full": HEADS, "local": LOCAL}, pattern=["full", "local"])
    assert formats(model, **asked | {"kv_cache_dtype": "int8_per_token_head"}) == [
        (0, "full", *attn("full", 32, 8704, 8704, (2, 64, 64, "int8_per_token_head"))),
        (1, "local", *attn("sliding", 16, 8704, PAGE, BF16, span=128)),
    ]


def test_a_packed_format_is_counted_with_its_scales() -> None:
    """int4: 2 heads of 64 + 8 bytes; four blocks of 16 tokens cover the 8,192 bytes of a block in bf16."""
    asked = {"kv_cache_dtype": "int4_per_token_head", "kv_cache_dtype_skip_layers": "1"}
    assert formats(model_of(HEADS), **asked) == [
        (0, "attention", *attn("full", 64, 64 * 144, 64 * 144, (2, 64, 64, "int4_per_token_head"))),
        (1, "attention", *attn("full", 64, 4 * PAGE, 4 * PAGE, BF16)),
    ]
    # A first layer in bf16 knows no int4: a byte per element, so two blocks are enough.
    assert built(model_of(HEADS), **asked | {"kv_cache_dtype_skip_layers": "0"}).block_tokens == 32


def test_a_first_layer_that_does_not_know_the_packed_format_counts_a_byte_per_element() -> None:
    """Layer 0 in bf16, a state, int8: 512 tokens cover the state at 272 bytes, 1,024 at 256."""
    model = model_of({"mamba": MAMBA, "full": HEADS}, pattern=["full", "mamba", "full"], layers=3)
    got = formats(model, kv_cache_dtype="int8_per_token_head", kv_cache_dtype_skip_layers="0")
    page = 1024 * 512  # the widest: layer 0
    assert got == [
        (0, "full", *attn("full", 1024, page, page, BF16)),
        (1, "mamba", *state(1024, page, MAMBA_BYTES, MAMBA_BODY, (3, 1))),
        (2, "full", *attn("full", 1024, page, 1024 * 272, (2, 64, 64, "int8_per_token_head"))),
    ]


def test_the_widest_key_decides_how_hopper_reads_fp8() -> None:
    """FlashAttention reads fp8 keys of 512 in tiles of 64 tokens, on every layer then; values of 512 do not count."""
    asked = {"kv_cache_dtype": "fp8"}
    assert built(model_of(HEADS | {"head_dim": 256, "v_head_dim": 512}), **asked).block_tokens == 16
    blocks = {"wide": HEADS | {"head_dim": 512}, "full": HEADS}
    assert built(model_of(blocks, pattern=["wide", "full"]), **asked).block_tokens == 64
    # Block and stride of both layers.
    assert {(each[3], each[11]) for each in formats(model_of(blocks, pattern=["full", "wide"]), **asked)} == {(64, 64)}
    assert built(model_of(blocks, pattern=["wide", "full"])).block_tokens == 16


def test_attention_first_or_in_the_models_order() -> None:
    """zamba2 builds its shared attention before the states; the others as the layers come."""
    for architecture, kinds in (("zamba2", ["full", "mamba"]), ("bamba", ["mamba", "full"])):
        model = model_of({"mamba": MAMBA, "full": HEADS}, pattern=["mamba", "full"], architecture=architecture)
        assert [group.specs[0].kind for group in built(model).groups] == kinds


def test_latents_divide_their_query_heads() -> None:
    """16 query heads do not divide over 3 ranks, though each rank keeps the whole latent."""
    for model in (model_of(MLA), model_of(INDEXED, architecture="deepseek_v32")):
        with pytest.raises(EngineRefusal, match=r"\(16\) must be divisible by tensor parallel size \(3\)"):
            built(model, layout=Layout(tp=3))


def test_skipping_changes_no_index_and_no_native_latent() -> None:
    """The index key is what it is, and `auto` is the model's type already: blocks stay at 64 tokens."""
    model = model_of(INDEXED, architecture="deepseek_v32")
    assert built(model, kv_cache_dtype_skip_layers="0").block_tokens == 64
    got = formats(model, kv_cache_dtype_skip_layers="0")
    assert got == formats(model)
    hybrid = model_of({"mamba": MAMBA, "full": HEADS}, pattern=["mamba", "full", "full"], layers=3)
    assert formats(hybrid, kv_cache_dtype_skip_layers="1") == formats(hybrid)


def test_a_draft_block_without_drafts_is_not_read() -> None:
    """A block only mtp names may be of a kind vLLM has no rule for; with drafts it is refused."""
    model = model_of({"full": HEADS, "draft": HEADS | {"tied_kv": True}}, pattern=["full"],
                     mtp={"layers": 1, "block": "draft"})  # fmt: skip
    assert len(formats(model)) == 2
    with pytest.raises(EngineRefusal, match="K and V in one array"):
        formats(model, num_speculative_tokens=1)


V4_WINDOW = attn("sliding_mla", 64, 65 * 576, 64 * 584, ("window",), span=128)
#: ratio 4: an index entry of 128 + 4 bytes, buffers of 2 x 2 x width float32, 4 tokens a block.
V4_CSA = (
    attn("mla", 256, 15 * 576, 64 * 132, ("index", 132), states=4, multiple=256),
    attn("sliding_mla", 4, 15 * 576, 4 * 2048, ("buffer", 2048), span=8),
    attn("mla", 256, 65 * 576, 64 * 584, ("latent", 584), states=4, multiple=256),
    attn("sliding_mla", 4, 57 * 576, 4 * 8192, ("buffer", 8192), span=8),
)
#: ratio 128: 2 entries a block, buffers of 2 x width float32, 8 tokens a block.
V4_HCA = (
    attn("mla", 256, 3 * 576, 2 * 584, ("latent", 584), states=128, multiple=256),
    attn("sliding_mla", 8, 57 * 576, 8 * 4096, ("buffer", 4096), span=128),
)


def both(specs: list[tuple[object, ...]]) -> list[tuple[object, ...]]:
    return sorted(specs, key=str)


def test_deepseek_v4_packs_its_caches() -> None:
    """Window, index and latents with buffers of what they compress; pages are multiples of 576 bytes."""
    model = model_of({"csa": CSA, "hca": HCA}, pattern=["csa", "hca"], architecture="deepseek_v4",
                     mtp={"layers": 1, "block": "csa"})  # fmt: skip
    expected = [
        *((0, "csa", *each) for each in (V4_WINDOW, *V4_CSA)), *((1, "hca", *each) for each in (V4_WINDOW, *V4_HCA)),
    ]  # fmt: skip
    assert both(formats(model)) == both(expected)
    assert both(formats(model, num_speculative_tokens=1)) == both([*expected, (2, "csa", *V4_WINDOW)])
    made = built(model)
    assert (made.block_tokens, made.layout) == (256, "BLHNC")
    assert built(model, block_size=128).block_tokens == 128
    short = (1, "hca", *attn("mla", 128, 3 * 576 - 576, 584, ("latent", 584), states=128, multiple=256))
    assert short in formats(model, block_size=128)
    longer = (1, "hca", *attn("mla", 512, 5 * 576, 4 * 584, ("latent", 584), states=128, multiple=256))
    assert longer in formats(model, block_size=512)


def test_several_drafts_keep_tokens_below_windows_of_latents() -> None:
    """Two mtp layers that draft 3 tokens keep 2 more of every window; one layer none."""
    for layers, extra in ((2, 2), (1, 0)):
        model = model_of({"hca": HCA}, architecture="deepseek_v4", mtp={"layers": layers, "block": "hca"})
        rows = formats(model, num_speculative_tokens=3)
        assert {(each[2], each[10]) for each in rows} == {("mla", 0), ("sliding_mla", extra)}
        assert {each[0] for each in rows} == set(range(2 + layers))


def test_drafts_of_another_source_keep_nothing_below_windows() -> None:
    """ngram drafts are not read by the model's own two draft modules."""
    model = model_of({"hca": HCA}, architecture="deepseek_v4", mtp={"layers": 2, "block": "hca"})
    rows = formats(model, num_speculative_tokens=3, speculative_method="ngram")
    assert {each[10] for each in rows} == {0}
