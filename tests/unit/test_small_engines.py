"""ExLlamaV3, LMDeploy, MLX-LM and TensorRT-LLM: rules that no recorded cell asks about, worked out by hand.

Each figure is computed here from the rule that the engine's source states (cited in kvcalc/engines/<engine>.py).
"""

from __future__ import annotations

from typing import Any

import pytest
from starting import model_of, started

from kvcalc.core.model import Model
from kvcalc.core.plan import Layout, Load, Planner
from kvcalc.engines.mlx_lm import chunked_rows, plain_rows, rotating_rows
from kvcalc.errors import EngineRefusal

GIB, MIB = 2**30, 2**20
HEADS = {"kind": "gqa", "heads": 8, "groups": 4, "head_dim": 64}
LOCAL = HEADS | {"window": 100}
MLA = {"kind": "mla", "heads": 8, "latent_dim": 512, "rope_dim": 64}
DELTA = {"kind": "gated_deltanet", "key_heads": 2, "value_heads": 4, "key_dim": 32, "value_dim": 16, "conv_kernel": 4}
KDA = {"kind": "kda", "heads": 4, "head_dim": 32, "conv_kernel": 4}


def rows(planner: Planner, load: Load, rank: int = 0) -> list[tuple[Any, ...]]:
    """(name, law, layers, count, slots, shape, dtype, bytes) of every tensor."""
    found = []
    for t in planner.plan(load).ranks[rank].tensors:
        found.append((t.name, t.law, t.layers, t.count, t.slots, t.shape, t.dtype, t.bytes))
    return found


def split(first: dict[str, Any], second: dict[str, Any], **more: Any) -> Model:
    return model_of({"a": first, "b": second}, pattern=["a", "b"], **more)


ANY: dict[str, Any] = {}
BITS: dict[str, Any] = {"kv_bits": 8}
#: engine, model, how it is started, the engine's own words.
REFUSED: list[tuple[str, Model, dict[str, Any], str]] = [
    (
        "exllamav3",
        model_of(MLA, cls="DeepseekV3ForCausalLM", facts={"n_group": 8}),
        ANY,
        "Group-limited expert routing (n_group = 8)",
    ),
    ("exllamav3", model_of(HEADS), {"layout": Layout(tp=2, dcp=2)}, "no decode context parallelism"),
    ("exllamav3", model_of(HEADS), {"layout": Layout(pp=3)}, "3 stages for 2 layers"),
    ("exllamav3", model_of(HEADS), {"layout": Layout(tp=3)}, "4 heads over tp 3"),
    ("exllamav3", model_of(HEADS), {"k_bits": 1}, "must be from 2 to 8 bits"),
    ("exllamav3", model_of(HEADS), {"k_bits": 9, "v_bits": 8}, "must be from 2 to 8 bits"),
    ("exllamav3", model_of(HEADS), {"k_bits": 8, "v_bits": 1}, "must be from 2 to 8 bits"),
    ("exllamav3", model_of(HEADS), {"v_bits": 9}, "must be from 2 to 8 bits"),
    ("exllamav3", model_of(HEADS), {"types": {"key": "int8", "value": "int8"}}, "cannot keep its cache in int8"),
    ("exllamav3", model_of(HEADS, cls="FalconForCausalLM"), ANY, "has no architecture FalconForCausalLM"),
    ("exllamav3", model_of({"kind": "cross", "heads": 2, "head_dim": 2}), ANY, "has no architecture"),
    ("exllamav3", model_of({"kind": "lightning", "heads": 2, "head_dim": 2}), ANY, "without a convolution"),
    ("exllamav3", model_of(KDA | {"v_head_dim": 16}), ANY, "KDA with keys and values of different width"),
    ("lmdeploy", model_of(HEADS), {"cache_max_entry_count": 0.8}, "vocab_size is needed"),
    ("lmdeploy", model_of(MLA, cls="MiniCPM3ForCausalLM"), ANY, "what the latent expands to"),
    ("lmdeploy", model_of(HEADS), {"layout": Layout(tp=3)}, "8 attention heads cannot be divided over tp 3"),
    (
        "lmdeploy",
        model_of(HEADS | {"heads": 12, "groups": 4}),
        {"layout": Layout(tp=6)},
        "4 KV heads and tp 6: one must divide the other",
    ),
    (
        "lmdeploy",
        model_of(HEADS | {"heads": 12, "groups": 6}),
        {"layout": Layout(tp=4)},
        "6 KV heads and tp 4: one must divide the other",
    ),
    ("lmdeploy", model_of(MLA), {"block_size": 32}, "set block_size to 64 for flash_mla"),
    ("lmdeploy", model_of(HEADS), {"layout": Layout(pp=2)}, "no pipeline or decode context parallelism"),
    ("lmdeploy", model_of(HEADS), {"layout": Layout(tp=2, dcp=2)}, "no pipeline or decode context parallelism"),
    ("lmdeploy", model_of(HEADS), {"types": {"key": "int8", "value": "bfloat16"}}, "one quant_policy for K and V"),
    ("lmdeploy", model_of(HEADS), {"types": {"key": "q4_0", "value": "q4_0"}}, "cannot keep its cache in q4_0"),
    ("lmdeploy", split(HEADS, HEADS | {"head_dim": 32}), ANY, "one block shape for all layers"),
    ("lmdeploy", model_of(HEADS, cls="DeepseekV4ForCausalLM"), ANY, "is not modelled for LMDeploy"),
    ("lmdeploy", model_of(HEADS, cls="FalconForCausalLM"), ANY, "has no model FalconForCausalLM"),
    ("lmdeploy", model_of(MLA | {"indexer": {"head_dim": 128}}), ANY, "has no model"),
    ("mlx-lm", model_of(HEADS), {"kv_bits": 5}, "kv_bits 5: MLX-LM caches have 2, 3, 4 or 8 bits"),
    ("mlx-lm", model_of(HEADS | {"head_dim": 80}), BITS, "kv_group_size 64 does not divide head_dim 80"),
    ("mlx-lm", model_of(MLA, architecture="deepseek_v3"), BITS, "has no attribute 'swapaxes': deepseek_v3"),
    ("mlx-lm", model_of(HEADS, architecture="gemma2"), BITS, "has no attribute 'swapaxes': gemma2"),
    ("mlx-lm", model_of(LOCAL, architecture="gpt_oss"), BITS, "RotatingKVCache Quantization NYI"),
    ("mlx-lm", model_of(HEADS, architecture="rwkv9"), ANY, "Model type rwkv9 not supported"),
    ("mlx-lm", model_of(HEADS), {"types": {"key": "int8", "value": "int8"}}, "cannot keep its cache in int8"),
    ("mlx-lm", model_of({"kind": "cross", "heads": 2, "head_dim": 2}), ANY, "is not modelled for MLX-LM"),
    *(
        ("mlx-lm", model_of(HEADS), {"layout": layout}, "on one device")
        for layout in (Layout(tp=2), Layout(pp=2), Layout(tp=2, dcp=2))
    ),
    ("tensorrt-llm", model_of(HEADS), {"layout": Layout(tp=2, dcp=2)}, "helix (context) parallelism"),
    ("tensorrt-llm", model_of(HEADS), {"layout": Layout(pp=3)}, "3 stages for 2 layers"),
    (
        "tensorrt-llm",
        model_of({"kind": "hca", "heads": 2, "head_dim": 8, "tokens_per_slot": 4, "window": 8}),
        ANY,
        "compressed_kv of block attention is not modelled",
    ),
    ("tensorrt-llm", model_of({"kind": "cross", "heads": 2, "head_dim": 2}), ANY, "cross_key of block attention"),
]


@pytest.mark.parametrize(("engine", "model", "asked", "words"), REFUSED)
def test_what_an_engine_does_not_run_is_refused(engine: str, model: Model, asked: dict[str, Any], words: str) -> None:
    """The refusal says what is wrong."""
    with pytest.raises(EngineRefusal) as refused:
        started(engine, model, **asked)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("engine", "model", "asked"),
    [
        ("exllamav3", model_of(MLA, cls="DeepseekV3ForCausalLM", facts={"n_group": 1}), ANY),
        ("exllamav3", model_of(MLA, cls="Glm4MoeForCausalLM", facts={"n_group": 8}), ANY),
        ("exllamav3", model_of(HEADS), {"layout": Layout(pp=2)}),
        ("exllamav3", model_of(HEADS), {"k_bits": 2, "v_bits": 8}),
        ("lmdeploy", model_of(HEADS), {"layout": Layout(tp=8)}),
        ("lmdeploy", model_of(HEADS, vocab_size=100), {"cache_max_entry_count": 0.8}),
        ("mlx-lm", model_of(HEADS | {"head_dim": 80}), {"kv_bits": 8, "kv_group_size": 16}),
        ("mlx-lm", model_of(HEADS, facts={"wrapper": "gemma3_text"}, architecture="unknown_to_mlx"), ANY),
        ("tensorrt-llm", model_of(HEADS), {"layout": Layout(pp=2)}),
    ],
)
def test_what_is_just_inside_is_not_refused(engine: str, model: Model, asked: dict[str, Any]) -> None:
    """The neighbours of the refused cases have a plan."""
    assert started(engine, model, **asked).plan(Load(1)).total_bytes > 0


@pytest.mark.parametrize("engine", ["exllamav3", "lmdeploy", "mlx-lm", "tensorrt-llm"])
def test_replicas_share_the_sessions(engine: str) -> None:
    """5 sessions on 3 replicas: two hold 2, the last holds 1; 6 sessions: 2 each, one plan for all."""
    made = started(engine, model_of(HEADS), layout=Layout(dp=3))
    one, two = (started(engine, model_of(HEADS)).plan(Load(300, count)).total_bytes for count in (1, 2))
    assert made.plan(Load(300, 5)).by_rank() == {0: two, 1: two, 2: one}
    assert [sorted(part.ranks) for part in made.plan(Load(300, 5)).ranks] == [[0, 1], [2]]
    assert [sorted(part.ranks) for part in made.plan(Load(300, 6)).ranks] == [[0, 1, 2]]


# ExLlamaV3


def test_exllamav3_pages_rings_and_slots() -> None:
    """gpt-oss: full layers in pages of 256 tokens; a ring of 100 - 1 + 512 tokens is 3 pages, for 16 slots."""
    made = started("exllamav3", split(LOCAL, HEADS, cls="GptOssForCausalLM"))
    ring, page = (16, 768, 4, 64), (6, 256, 4, 64)  # 2 sessions of 600 tokens: 3 pages each
    assert rows(made, Load(600, 2)) == [
        ("key", "slot", (0,), 1, 16, ring, "float16", 16 * 768 * 256 * 2),
        ("value", "slot", (0,), 1, 16, ring, "float16", 16 * 768 * 256 * 2),
        ("key", "page", (1,), 1, 6 * 256, page, "float16", 6 * 256 * 256 * 2),
        ("value", "page", (1,), 1, 6 * 256, page, "float16", 6 * 256 * 256 * 2),
    ]
    got = made.report(Load(600, 2), 16 * 768 * 256 * 4 + 5 * 256 * 256 * 4 + 1)
    assert got == {
        "page_size": 256,
        "max_batch_size": 16,
        "page_bytes": 256 * 256 * 4,
        "recurrent_bytes": 16 * 768 * 256 * 4,
        "storage_size": 16 * 768 * 256 * 4 + 6 * 256 * 256 * 4,
        "max_num_tokens": 5 * 256,
    }
    assert made.report(Load(600, 2), 0)["max_num_tokens"] == 0
    assert made.report(Load(600, 17))["max_batch_size"] == 17
    assert started("exllamav3", model_of(HEADS), max_batch_size=3).report(Load(600, 2))["max_batch_size"] == 3


@pytest.mark.parametrize(("cls", "window", "pages"), [
    ("GptOssForCausalLM", 257, 3), ("GptOssForCausalLM", 258, 4), ("AfmoeForCausalLM", 256, 3),
    ("AfmoeForCausalLM", 257, 4),
])  # fmt: skip
def test_exllamav3_ring_lengths(cls: str, window: int, pages: int) -> None:
    """window + 512 in whole pages; some classes leave the token itself out of the window."""
    made = started("exllamav3", split(HEADS | {"window": window}, HEADS, cls=cls))
    assert made.plan(Load(1)).ranks[0].tensors[0].shape == (16, pages * 256, 4, 64)


def test_exllamav3_quantised_pages() -> None:
    """K in 6 and V in 5 bits: 8 groups of 32 a token, words of 32 bits and a 2-byte scale per group."""
    made = started("exllamav3", model_of(HEADS), k_bits=6, v_bits=5)
    assert rows(made, Load(256)) == [
        ("key", "page", (0, 1), 2, 256, (1, 256, 48), "float32", 2 * 256 * 48 * 4),
        ("key_scale", "page", (0, 1), 2, 256, (1, 256, 8), "float16", 2 * 256 * 8 * 2),
        ("value", "page", (0, 1), 2, 256, (1, 256, 40), "float32", 2 * 256 * 40 * 4),
        ("value_scale", "page", (0, 1), 2, 256, (1, 256, 8), "float16", 2 * 256 * 8 * 2),
    ]
    for options in ({"k_bits": 4}, {"v_bits": 4}):
        one = started("exllamav3", model_of(HEADS), **options)
        assert {row[5] for row in rows(one, Load(1))} == {(1, 256, 32), (1, 256, 8)}


def test_exllamav3_latents() -> None:
    """Latent 512, packed when quantised; rotary and indexer keys stay fp16; pooled indexers keep scores and pools."""
    model = model_of(MLA | {"indexer": {"head_dim": 128, "tokens_per_slot": 4}}, layers=1)
    plain, packed = started("exllamav3", model), started("exllamav3", model, k_bits=4)
    side = [
        ("rope_key", "page", (0,), 1, 256, (1, 256, 64), "float16", 256 * 64 * 2),
        ("index_key", "page", (0,), 1, 256, (1, 256, 256), "float16", 256 * 256 * 2),
        ("index_pool", "page", (0,), 1, 256, (1, 64, 128), "float16", 64 * 128 * 2),
    ]
    assert rows(plain, Load(1)) == [("latent", "page", (0,), 1, 256, (1, 256, 512), "float16", 256 * 512 * 2), *side]
    assert rows(packed, Load(1)) == [
        ("latent", "page", (0,), 1, 256, (1, 256, 64), "float32", 256 * 64 * 4),
        ("latent_scale", "page", (0,), 1, 256, (1, 256, 16), "float16", 256 * 16 * 2),
        *side,
    ]
    bare = started("exllamav3", model_of(MLA | {"rope_dim": 0, "indexer": {"head_dim": 128}}, layers=1))
    assert [(row[0], row[5]) for row in rows(bare, Load(1))] == [
        ("latent", (1, 256, 512)),
        ("index_key", (1, 256, 128)),
    ]


def test_exllamav3_states() -> None:
    """Conv with all taps, two rows of state, and what one pass of 1 + max_history tokens stages.

    Gated DeltaNet: 2 x 2 x 32 + 4 x 16 channels, 4 gates; KDA: 4 x 96 channels, a gate per key channel.
    """
    made = started("exllamav3", model_of(DELTA, layers=1), max_history=2, max_batch_size=5)
    assert [(row[0], row[5], row[6]) for row in rows(made, Load(1))] == [
        ("conv_state", (5, 192, 6), "bfloat16"),
        ("recurrent_state", (5, 2, 4, 512), "float16"),
        ("staged_conv", (5, 3, 192), "bfloat16"),
        ("staged_beta", (5, 3, 4), "bfloat16"),
        ("staged_gate", (5, 3, 4), "float32"),
    ]
    kda = started("exllamav3", model_of(KDA, layers=1), recurrent_dtype="float", max_batch_size=5)
    assert [(row[0], row[5], row[6]) for row in rows(kda, Load(1))] == [
        ("conv_state", (5, 384, 4), "bfloat16"),
        ("recurrent_state", (5, 2, 4, 1024), "float32"),
        ("staged_conv", (5, 1, 384), "bfloat16"),
        ("staged_beta", (5, 1, 4), "bfloat16"),
        ("staged_gate", (5, 1, 128), "float32"),
    ]
    bare = started("exllamav3", model_of({"kind": "short_conv", "dim": 24, "conv_kernel": 3}, layers=1), max_history=2)
    assert [(row[0], row[5], row[6]) for row in rows(bare, Load(1))] == [("conv_state", (16, 24, 5), "float16")]


def test_exllamav3_says_what_it_assumes() -> None:
    """Slots, architectures and splits that were not given; a split is an estimate."""
    bare = started("exllamav3", model_of(HEADS))
    assert any("max_batch_size 16" in text for text in bare.assumptions)
    assert any("names no architectures" in text for text in bare.assumptions)
    assert not any("equal shares" in text for text in bare.assumptions)
    full = started("exllamav3", model_of(HEADS, cls="LlamaForCausalLM"), max_batch_size=2, layout=Layout(tp=2))
    assert not any("max_batch_size" in text or "architectures" in text for text in full.assumptions)
    assert any("equal shares" in text for text in full.assumptions)
    assert (bare.exactness, full.exactness) == ("exact", "estimate")
    assert started("exllamav3", model_of(HEADS), layout=Layout(pp=2)).exactness == "estimate"


# LMDeploy


def test_lmdeploy_blocks_and_states() -> None:
    """64 tokens x 4 heads x 64 x 2 bytes of K and of V; 3 + 2 slots of 2 x 2 x 32 + 4 x 16 channels x 4 taps."""
    model = split(DELTA, HEADS, cls="Qwen3NextForCausalLM")
    made = started("lmdeploy", model)
    block = 64 * 4 * 64
    assert rows(made, Load(65, 3)) == [
        ("key", "blocks", (1,), 1, 6 * 64, (6, 64, 4, 64), "bfloat16", 6 * block * 2),
        ("value", "blocks", (1,), 1, 6 * 64, (6, 64, 4, 64), "bfloat16", 6 * block * 2),
        ("conv_state", "slots", (0,), 1, 5, (5, 1, 192, 4), "bfloat16", 5 * 192 * 4 * 2),
        ("recurrent_state", "slots", (0,), 1, 5, (5, 1, 4, 512), "bfloat16", 5 * 2048 * 2),
    ]
    slot = 192 * 4 * 2 + 4096
    assert made.report(Load(1)) == {
        "block_size": 64, "block_bytes": block * 4, "quant_policy": 0, "state_slot_bytes": slot,
    }  # fmt: skip
    # With a pool: 128 requests unless given, two spare slots and the prefix cache's.
    got = started("lmdeploy", model, prefix_cache_state_budget=4).report(Load(1), GIB)
    assert (got["num_state_caches"], got["state_bytes"]) == (134, 134 * slot)
    assert got["num_gpu_blocks"] == (GIB - 134 * slot) // (block * 4)
    assert got["kv_cache_tokens"] == (GIB - 134 * slot) // (block * 4) * 64
    assert started("lmdeploy", model, max_batch_size=7).plan(Load(1, 3)).ranks[0].tensors[-1].slots == 9


@pytest.mark.parametrize(("policy", "stored"), [
    # K and V bytes per head and token, then scale and zero: 2 bytes each.
    ("0", [("key", 128), ("value", 128)]),
    ("4", [("key", 32), ("value", 32), ("key_scale_zero", 4), ("value_scale_zero", 4)]),
    ("8", [("key", 64), ("value", 64), ("key_scale_zero", 4), ("value_scale_zero", 4)]),
    ("16", [("key", 64), ("value", 64)]),
    ("17", [("key", 64), ("value", 64)]),
    ("42", [("key", 32), ("value", 16), ("key_scale_zero", 4), ("value_scale_zero", 2)]),
])  # fmt: skip
def test_lmdeploy_quantised_blocks(policy: str, stored: list[tuple[str, int]]) -> None:
    """Bytes of each array of one block of 64 tokens and 4 heads, rounded up to 256 bytes."""
    made = started("lmdeploy", model_of(HEADS, layers=1), quant_policy=policy)
    assert [(row[0], row[7]) for row in rows(made, Load(64))] == [(name, 64 * 4 * each) for name, each in stored]
    odd = started("lmdeploy", model_of(HEADS, layers=1), quant_policy=policy, block_size=5)
    assert [row[7] for row in rows(odd, Load(5))] == [-(-5 * 4 * each // 256) * 256 for _, each in stored]


def test_lmdeploy_cache_types_are_policies() -> None:
    """int4, int8, fp8 and fp8 e5m2 are policies 4, 8, 16 and 17; the model's own type is 0."""
    for dtype, policy in (("int4", 4), ("int8", 8), ("fp8_e4m3", 16), ("fp8_e5m2", 17), ("float16", 0)):
        made = started("lmdeploy", model_of(HEADS), types={"key": dtype, "value": dtype})
        assert made.report(Load(1))["quant_policy"] == policy


def test_lmdeploy_older_gpus_have_shorter_blocks_for_wide_latents() -> None:
    """FlashMLA needs sm90; without it rows of 512 elements have blocks of at most 32 tokens."""
    for gpu, latent, asked, block in (
        ("sm80", 512, {}, 32), ("sm80", 511, {}, 64), ("sm89", 512, {"block_size": 16}, 16), ("sm90", 512, {}, 64),
        ("gfx942", 512, {}, 64), (None, 512, {}, 64),
    ):  # fmt: skip
        made = started("lmdeploy", model_of(MLA | {"latent_dim": latent}), gpu=gpu, **asked)
        assert made.report(Load(1))["block_size"] == block


def test_lmdeploy_halves_the_prefill_until_16_blocks_fit() -> None:
    """Logits: (prefill + 2 x 128) x 1000 x 2 bytes come off first, then 0.5 of the rest is blocks of 64 KiB.

    At 8192 tokens 16.896 MB; at 4096 8.704 MB; at 2048 4.608 MB. 16 blocks need 2 MiB of what is left.
    """
    model = model_of(HEADS, layers=1, vocab_size=1000)
    made = started("lmdeploy", model, cache_max_entry_count=0.5)
    block = 64 * 4 * 64 * 2 * 2
    for left, prefill in ((32 * block, 8192), (32 * block - 1, 4096)):
        got = made.report(Load(1), (8192 + 256) * 2000 + left)
        assert got["max_prefill_token_num"] == prefill
        logits = (prefill + 256) * 2000
        assert got["num_gpu_blocks"] == int(((8192 + 256) * 2000 + left - logits) * 0.5) // block
        assert got["allocated_bytes"] == got["num_gpu_blocks"] * block
    charged = made.plan(Load(64 * 40)).max_rank_bytes
    assert made.report(Load(1), charged)["num_gpu_blocks"] == 40
    few = started("lmdeploy", model, cache_max_entry_count=0.5, max_batch_size=2, max_prefill_token_num=64)
    assert few.report(Load(1), (64 + 4) * 2000 + 32 * block)["num_gpu_blocks"] == 16


def test_lmdeploy_stops_where_memory_is_short() -> None:
    """Fewer than 3 blocks; states alone too many; never 16 blocks however short the prefill."""
    block = 64 * 4 * 64 * 2 * 2
    plain = model_of(HEADS, layers=1, vocab_size=1)
    slot = 192 * 4 * 2 + 4096
    states = split(DELTA, HEADS, cls="Qwen3NextForCausalLM")
    cases: list[tuple[Model, dict[str, Any], int, str]] = [
        (plain, {}, 3 * block - 1, "No enough gpu memory for kv cache."),
        (states, {"max_batch_size": 1}, 3 * slot, "No enough gpu memory for state cache."),
        (plain, {"cache_max_entry_count": 1.0}, 15 * block + 20000, "No enough gpu memory for runtime."),
    ]
    for model, options, pool, words in cases:
        with pytest.raises(EngineRefusal) as refused:
            started("lmdeploy", model, **options).report(Load(1), pool)
        assert words in str(refused.value)
    assert started("lmdeploy", plain).report(Load(1), 3 * block)["num_gpu_blocks"] == 3
    assert started("lmdeploy", states, max_batch_size=1).report(Load(1), 3 * slot + 3 * block)["num_gpu_blocks"] == 3


def test_lmdeploy_copies_heads_up_to_tp() -> None:
    """4 KV heads on 8 ranks: one each; on 2 ranks: two each."""
    for tp, heads in ((8, 1), (4, 1), (2, 2)):
        made = started("lmdeploy", model_of(HEADS), layout=Layout(tp=tp))
        assert rows(made, Load(64))[0][5] == (1, 64, heads, 64)


# MLX-LM


def test_mlx_rows_of_each_cache() -> None:
    """Steps of 256; a rotating cache adds a step after the prompt, up to its limit; a full chunk adds one."""
    assert [plain_rows(n) for n in (1, 256, 257)] == [256, 256, 512]
    assert [chunked_rows(n, 1000) for n in (1000, 1001, 1002)] == [1024, 1024, 1256]
    # prompt less its last token concatenated, then single tokens: the first adds 256 rows, the 257th again.
    assert [rotating_rows(n, 1, 4096) for n in (1, 2, 3)] == [256, 256, 257]
    assert [rotating_rows(100 + n, n, 4096) for n in (1, 255, 256)] == [355, 355, 611]
    assert [rotating_rows(n, 1, 500) for n in (400, 501, 502, 900)] == [500, 500, 500, 500]
    assert rotating_rows(200, 1, 300) == 300


def test_mlx_quantised_rows() -> None:
    """8 bits from 5000 tokens on: 64 elements are 16 words, with a scale and a bias per 64 in the model's type."""
    made = started("mlx-lm", model_of(HEADS, layers=1), kv_bits=8)
    assert [row[0] for row in rows(made, Load(4999))] == ["key", "value"]
    expected = []
    for name in ("key", "value"):
        expected += [(name, (2, 5120, 4, 16), "float32"), (f"{name}_scales", (2, 5120, 4, 1), "bfloat16"),
                     (f"{name}_biases", (2, 5120, 4, 1), "bfloat16")]  # fmt: skip
    assert [(row[0], row[5], row[6]) for row in rows(made, Load(5000, 2))] == expected
    early = started("mlx-lm", model_of(HEADS, layers=1), kv_bits=4, kv_group_size=32, quantized_kv_start=0)
    assert [row[5] for row in rows(early, Load(1))] == [(1, 256, 4, 8), (1, 256, 4, 2), (1, 256, 4, 2)] * 2


def test_mlx_rotates_where_the_module_does() -> None:
    """Listed modules rotate sliding layers; max_kv_size rotates the others, except those with caches of their own."""
    rotating = started("mlx-lm", split(LOCAL, HEADS, architecture="gpt_oss"), max_kv_size=300)
    assert [row[1] for row in rows(rotating, Load(1000))] == ["rotating", "rotating", "plain", "plain"]
    assert rotating.report(Load(1000))["rotating_max_size"] == 100
    assert any("max_kv_size is ignored" in text for text in rotating.warnings)
    plain = started("mlx-lm", split(LOCAL, HEADS, architecture="qwen2"), max_kv_size=300)
    assert [row[1] for row in rows(plain, Load(1000))] == ["rotating"] * 4
    assert {row[4] for row in rows(plain, Load(1000))} == {300}
    assert plain.warnings == ()
    every = started("mlx-lm", split(LOCAL, HEADS, architecture="qwen2"))
    assert {row[4] for row in rows(every, Load(1000))} == {1024}
    assert any("keeps every token in the sliding layers" in text for text in every.warnings)
    assert "rotating_max_size" not in every.report(Load(1000))


def test_mlx_indexers_are_cached_twice_and_never_quantised() -> None:
    """DeepSeek-V3.2: the indexer's key as keys and as values; a list of caches ignores kv_bits."""
    model = model_of(MLA | {"indexer": {"head_dim": 128}}, layers=1, architecture="deepseek_v32")
    made = started("mlx-lm", model, kv_bits=8, quantized_kv_start=0)
    assert [(row[0], row[5]) for row in rows(made, Load(1))] == [
        ("latent", (1, 256, 1, 512)), ("rope_key", (1, 256, 1, 64)), ("index_key", (1, 256, 1, 128)),
        ("index_key_again", (1, 256, 1, 128)),
    ]  # fmt: skip
    assert any("kv_bits is ignored" in text for text in made.warnings)


def test_mlx_expands_some_latents() -> None:
    """DeepSeek-V2: K of 128 + 64 and V of 128 elements for each of 8 heads; states float32 but in some modules."""
    latent = MLA | {"nope_dim": 128, "v_head_dim": 96}
    wide = started("mlx-lm", model_of(latent, layers=1, architecture="deepseek_v2"))
    assert [(row[0], row[5]) for row in rows(wide, Load(1))] == [("key", (1, 256, 8, 192)), ("value", (1, 256, 8, 96))]
    mamba = {"kind": "mamba1", "inner_dim": 24, "state_dim": 4, "conv_kernel": 4}
    for module, dtype in (("mamba", "bfloat16"), ("jamba", "bfloat16"), ("falcon_h1", "float32")):
        made = started("mlx-lm", model_of(mamba, layers=1, architecture=module))
        assert [(row[0], row[5], row[6]) for row in rows(made, Load(9, 2))] == [
            ("conv_state", (2, 1, 3, 24), "bfloat16"),
            ("ssm_state", (2, 1, 96), dtype),
        ]


# TensorRT-LLM


def test_trt_blocks_and_windows() -> None:
    """V1 keeps windows in full; V2 a pool per window; blocks of 32 tokens; 512 elements of 2 bytes a token."""
    model = split(LOCAL, HEADS)
    v1 = started("tensorrt-llm", model)
    v2 = started("tensorrt-llm", model, use_kv_cache_manager_v2="true")
    row = 2 * 4 * 64 * 2
    assert rows(v1, Load(1000, 2)) == [
        ("key_value", "linear", (layer,), 1, 2048, (2048 * row,), "int8", 2048 * row) for layer in (0, 1)
    ]
    assert [(found[1], found[4]) for found in rows(v2, Load(1000, 2))] == [("window 100", 256), ("linear", 2048)]
    assert v1.report(Load(1), 33 * 32 * 2 * row - 1) == {
        "kv_cache_manager": "V1", "tokens_per_block": 32, "cache_bytes_per_token": 2 * row,
        "block_bytes": 64 * row, "max_num_blocks": 32, "max_tokens": 1024, "allocated_bytes": 32 * 64 * row,
    }  # fmt: skip
    assert (v1.saturation_tokens, v2.saturation_tokens) == (0, 100)
    assert v1.exactness == "estimate"
    assert any("max_attention_window is not set" in text for text in v1.assumptions)
    assert any("V2 splits its grains" in text for text in v2.assumptions)


def test_trt_limits_of_the_pool() -> None:
    """max_tokens in whole blocks; the fraction of the pool; never below zero."""
    block = 32 * 2 * 4 * 64 * 2
    made: dict[str, tuple[dict[str, Any], int, int]] = {
        "plain": ({}, 10 * block, 10),
        "limited": ({"max_tokens": 100}, 10 * block, 3),
        "limit above": ({"max_tokens": 1000}, 10 * block, 10),
        "fraction": ({"free_gpu_memory_fraction": 0.5}, 10 * block, 5),
        "nothing": ({}, 0, 0),
    }
    for options, pool, blocks in made.values():
        got = started("tensorrt-llm", model_of(HEADS, layers=1), **options).report(Load(1), pool)
        assert (got["max_num_blocks"], got["max_tokens"]) == (blocks, blocks * 32)


def test_trt_grains() -> None:
    """V2, 100 MiB: 50 grains of 2 MiB, split as a session of 320 tokens needs: 4 blocks of the window, 10 full ones.

    50 x 4 // 14 = 14 grains and 50 x 10 // 14 = 35; a block is 32 x 1024 bytes.
    """
    made = started("tensorrt-llm", split(LOCAL, HEADS), use_kv_cache_manager_v2="true")
    got = made.report(Load(320), 100 * MIB)
    assert got["grain_bytes"] == 2 * MIB
    assert got["pools"] == [
        {"block": "a", "window": 100, "slots": 14 * 2 * MIB // 32768, "bytes": 28 * MIB},
        {"block": "b", "window": None, "slots": 35 * 2 * MIB // 32768, "bytes": 70 * MIB},
    ]
    assert (got["max_num_blocks"], got["max_tokens"]) == (2240, 2240 * 32)
    assert got["allocated_bytes"] == 98 * MIB
    empty = made.report(Load(320), 0)
    assert (empty["max_num_blocks"], empty["max_tokens"], empty["allocated_bytes"], empty["pools"]) == (0, 0, 0, [])
    sliding = started("tensorrt-llm", model_of(LOCAL, layers=1), use_kv_cache_manager_v2="true").report(
        Load(9), 4 * MIB
    )
    assert sliding["max_num_blocks"] == 128


def test_trt_states_indexers_and_attention_dp() -> None:
    """One slot more than requests; indexer keys fp8 with 4 bytes per 128; attention DP keeps all heads on a rank."""
    made = started("tensorrt-llm", split(DELTA, HEADS))
    state = 3 * 192 * 2 + 2048 * 4
    assert rows(made, Load(1, 3))[1] == ("state", "constant", (0,), 1, 4, (4 * state,), "int8", 4 * state)
    got = made.report(Load(1, 3), 4 * state + 64 * MIB)
    assert (got["kv_cache_manager"], got["allocated_bytes"]) == ("V2", 64 * MIB)
    indexed = started("tensorrt-llm", model_of(MLA | {"indexer": {"head_dim": 128}}, layers=1))
    assert indexed.report(Load(1))["cache_bytes_per_token"] == 576 * 2 + 132
    for options, ranks, heads in (({}, 2, 2), ({}, 8, 1), ({"enable_attention_dp": True}, 2, 4)):
        tp = started("tensorrt-llm", model_of(HEADS, layers=1), layout=Layout(tp=ranks), **options)
        assert tp.report(Load(1))["cache_bytes_per_token"] == heads * 64 * 2 * 2
