"""LMDeploy and MLX-LM: every field of a plan, a report and the options as read.

Each figure is worked out here from the rule that the engine's source states (cited in kvcalc/engines/<engine>.py).
"""

from __future__ import annotations

from math import ceil
from typing import Any

import pytest
from starting import model_of, started

from kvcalc.core.plan import Layout, Load, Planner
from kvcalc.errors import EngineRefusal

HEADS = {"kind": "gqa", "heads": 8, "groups": 4, "head_dim": 64}
LOCAL = HEADS | {"window": 100}
MLA = {"kind": "mla", "heads": 8, "latent_dim": 512, "rope_dim": 64}
DELTA = {"kind": "gated_deltanet", "key_heads": 2, "value_heads": 4, "key_dim": 32, "value_dim": 16, "conv_kernel": 4}
HCA = {"kind": "hca", "heads": 8, "head_dim": 512, "tokens_per_slot": 128, "window": 128}
OWN = "attention"  # the block's name where a file names none


def records(planner: Planner, load: Load, part: int = 0) -> list[tuple[Any, ...]]:
    """Every field of every tensor of one group of ranks."""
    return [tuple(tensor) for tensor in planner.plan(load).ranks[part].tensors]


# LMDeploy


def block_of(name: str, count: int, shape: tuple[int, ...], dtype: str, size: int, tokens: int = 64) -> tuple[Any, ...]:
    """A record of `count` blocks in each of two layers; size: bytes of one block of one layer."""
    return name, "block", "kv", "blocks", (0, 1), 2, count * tokens, (count, *shape), dtype, 2 * count * size


#: Attention, options: arrays of two layers for two sessions of 65 tokens, which are 2 blocks of 64 each.
BLOCKS: list[tuple[dict[str, Any], dict[str, Any], list[tuple[Any, ...]]]] = [
    (HEADS, {}, [block_of(name, 4, (64, 4, 64), "bfloat16", 64 * 4 * 64 * 2) for name in ("key", "value")]),
    # fp8: one byte each, no scales.
    (HEADS, {"quant_policy": "16"},
     [block_of(name, 4, (64, 4, 64), "fp8_e4m3", 64 * 4 * 64) for name in ("key", "value")]),
    (HEADS, {"quant_policy": "17"},
     [block_of(name, 4, (64, 4, 64), "fp8_e4m3", 64 * 4 * 64) for name in ("key", "value")]),
    # int8: bytes, and a scale and a zero of 2 bytes per head and token.
    (HEADS, {"quant_policy": "8"}, [
        block_of("key", 4, (16384,), "int8", 16384), block_of("value", 4, (16384,), "int8", 16384),
        block_of("key_scale_zero", 4, (1024,), "int8", 1024), block_of("value_scale_zero", 4, (1024,), "int8", 1024),
    ]),
    # 42: K in 4 bits, V in 2, whose scale alone is 2 bytes.
    (HEADS, {"quant_policy": "42"}, [
        block_of("key", 4, (8192,), "int8", 8192), block_of("value", 4, (4096,), "int8", 4096),
        block_of("key_scale_zero", 4, (1024,), "int8", 1024), block_of("value_scale_zero", 4, (512,), "int8", 512),
    ]),
    # 3 tokens x 4 x 64 x 2 = 1536 bytes are 6 x 256; 3 x 4 x 16 x 2 = 384 are rounded up to 512.
    (HEADS, {"block_size": 3}, [block_of(name, 44, (3, 4, 64), "bfloat16", 1536, 3) for name in ("key", "value")]),
    (HEADS | {"head_dim": 16}, {"block_size": 3},
     [block_of(name, 44, (512,), "int8", 512, 3) for name in ("key", "value")]),
    # A latent is one head on every rank, the rotary key behind it; V lies inside it.
    (MLA, {"layout": Layout(tp=2)}, [block_of("key", 4, (64, 1, 576), "bfloat16", 64 * 576 * 2)]),
    # v_head_dim is not read: V has K's width.
    (HEADS | {"v_head_dim": 32}, {},
     [block_of(name, 4, (64, 4, 64), "bfloat16", 64 * 4 * 64 * 2) for name in ("key", "value")]),
    # Windows save nothing.
    (LOCAL, {}, [block_of(name, 4, (64, 4, 64), "bfloat16", 64 * 4 * 64 * 2) for name in ("key", "value")]),
]  # fmt: skip


@pytest.mark.parametrize(("attention", "options", "expected"), BLOCKS)
def test_lmdeploy_arrays(attention: dict[str, Any], options: dict[str, Any], expected: list[tuple[Any, ...]]) -> None:
    """Every field of every array; without a ratio the pool pays for the blocks and nothing else."""
    made = started("lmdeploy", model_of(attention), **options)
    plan = made.plan(Load(65, 2)).ranks[0]
    assert [tuple(tensor) for tensor in plan.tensors] == expected
    assert plan.ranks == tuple(range(options.get("layout", Layout()).tp))
    assert plan.charged_bytes == plan.bytes == sum(record[-1] for record in expected)


def test_lmdeploy_expanded_latents() -> None:
    """MiniCPM3: 8 heads of 32 + 64 elements, V padded to K's width; half of the heads on each of two ranks."""
    model = model_of(MLA | {"nope_dim": 32, "v_head_dim": 48}, cls="MiniCPM3ForCausalLM")
    for tp, heads in ((1, 8), (2, 4)):
        made = started("lmdeploy", model, layout=Layout(tp=tp))
        size = 64 * heads * 96 * 2
        assert records(made, Load(1)) == [
            block_of(name, 1, (64, heads, 96), "bfloat16", size) for name in ("key", "value")
        ]


def test_lmdeploy_layers_with_two_parts() -> None:
    """A layer of a state and attention side by side has both; one without a cache of its own has neither.

    On 2 ranks: 1 x 2 x 32 + 2 x 16 = 96 channels of 4 taps and 2 matrices of 32 x 16, of 2 layers; 1 + 2 slots.
    """
    blocks = {"d": DELTA, "h": HEADS, "n": {"kind": "none"}}
    made: Any = started(
        "lmdeploy", model_of(blocks, pattern=[["d", "h"], ["n", "h"], "d"], layers=3), layout=Layout(tp=2)
    )
    state = ("state", "state", "slots", (0, 2), 1, 3)
    assert records(made, Load(64)) == [
        ("key", "block", "kv", "blocks", (0, 1), 2, 64, (1, 64, 2, 64), "bfloat16", 2 * 64 * 2 * 64 * 2),
        ("value", "block", "kv", "blocks", (0, 1), 2, 64, (1, 64, 2, 64), "bfloat16", 2 * 64 * 2 * 64 * 2),
        ("conv_state", *state, (3, 2, 96, 4), "bfloat16", 3 * 2 * 96 * 4 * 2),
        ("recurrent_state", *state, (3, 2, 2, 512), "bfloat16", 3 * 2 * 2 * 512 * 2),
    ]
    plan = made.plan(Load(64)).ranks[0]
    assert plan.charged_bytes == plan.bytes
    bare: Any = started("lmdeploy", model_of(HEADS))
    assert (made.slots(1), made.slots(5), bare.slots(5)) == (3, 7, 0)
    given: Any = started(
        "lmdeploy", model_of(blocks, pattern=["d", "h", "n"], layers=3), max_batch_size=4, prefix_cache_state_budget=3
    )
    assert (given.slots(1), given.slots(4), given.slots(5)) == (9, 9, 10)


def test_lmdeploy_bare_convolutions() -> None:
    """A layer of a convolution alone has a slot too: 24 channels of 2 + 1 taps; 1 + 2 slots."""
    blocks = {"c": {"kind": "short_conv", "dim": 24, "conv_kernel": 3}, "h": HEADS}
    made = started("lmdeploy", model_of(blocks, pattern=["c", "h"]))
    size = 3 * 24 * 3 * 2
    expected = ("conv_state", "state", "state", "slots", (0,), 1, 3, (3, 1, 24, 3), "bfloat16", size)
    assert records(made, Load(1))[2:] == [expected]


def test_lmdeploy_reports() -> None:
    """Every field, with and without states, with the pool as cache and as free memory to be divided.

    Blocks of 64 tokens: 64 x 4 x 64 x 2 x 2 bytes. States: (2 x 2 x 32 + 4 x 16) x 4 x 2 + 4 x 512 x 2 bytes.
    """
    block, slot = 64 * 4 * 64 * 2 * 2, 192 * 4 * 2 + 4 * 512 * 2
    basic = {"block_size": 64, "block_bytes": block, "quant_policy": 0}
    model = model_of(HEADS, layers=1, vocab_size=1000)
    assert started("lmdeploy", model).report(Load(1)) == basic
    assert started("lmdeploy", model).report(Load(1), 7 * block - 1) == basic | {
        "num_gpu_blocks": 6, "kv_cache_tokens": 384, "max_prefill_token_num": 8192, "allocated_bytes": 6 * block,
    }  # fmt: skip
    hybrid = model_of({"d": DELTA, "h": HEADS}, pattern=["d", "h"], vocab_size=1000)
    # 2 requests, 2 spare slots; logits of 100 + 2 x 2 tokens x 1000 x 2 bytes; half of the rest is 20 blocks.
    made = started("lmdeploy", hybrid, max_batch_size=2, max_prefill_token_num=100, cache_max_entry_count=0.5)
    assert made.report(Load(1), 4 * slot + 104 * 2000 + 40 * block) == basic | {
        "state_slot_bytes": slot, "num_gpu_blocks": 20, "kv_cache_tokens": 1280, "max_prefill_token_num": 100,
        "allocated_bytes": 20 * block, "num_state_caches": 4, "state_bytes": 4 * slot,
    }  # fmt: skip
    # Charged: what surely gives as many blocks, 16 at least: blocks / ratio, logits, states, and one byte.
    for tokens, blocks in ((64, 16), (64 * 16, 16), (64 * 16 + 1, 17)):
        charged = made.plan(Load(tokens)).ranks[0].charged_bytes
        assert charged == ceil(blocks * block / 0.5) + 104 * 2000 + 4 * slot + 1
    assert (made.saturation_tokens, made.warnings, made.exactness) == (0, (), "exact")


def test_lmdeploy_prefill_shrinks_to_one_token() -> None:
    """Halved from 3 to 1 and no further: logits of 3 + 2 or 1 + 2 tokens x 1000 x 2 bytes before 16 blocks."""
    block = 64 * 4 * 64 * 2 * 2
    model = model_of(HEADS, layers=1, vocab_size=1000)
    made = started("lmdeploy", model, cache_max_entry_count=1.0, max_batch_size=1, max_prefill_token_num=3)
    for logits, prefill in ((5, 3), (3, 1)):
        assert made.report(Load(1), logits * 2000 + 16 * block)["max_prefill_token_num"] == prefill
    with pytest.raises(EngineRefusal, match="for runtime") as refused:
        made.report(Load(1), 3 * 2000 + 16 * block - 1)
    assert refused.value.field == "pool"


@pytest.mark.parametrize(
    "cls",
    ["DeepseekV32ForCausalLM", "GlmMoeDsaForCausalLM", "DeepseekV4ForCausalLM", "MllamaForConditionalGeneration"],
)
def test_lmdeploy_models_with_arrays_of_their_own(cls: str) -> None:
    """Known to LMDeploy, not modelled here. Source: pytorch/models/module_map.py, pytorch/configurations/*.py."""
    with pytest.raises(EngineRefusal, match="its cache has arrays of its own"):
        started("lmdeploy", model_of(HEADS, cls=cls))


@pytest.mark.parametrize(
    "attention",
    [
        MLA | {"indexer": {"head_dim": 128}},
        HCA,
        {"kind": "cross", "heads": 2, "head_dim": 2},
        {"kind": "mamba2", "heads": 8, "head_dim": 64, "state_dim": 128, "groups": 2, "conv_kernel": 4},
    ],
)
def test_lmdeploy_arrays_it_does_not_have(attention: dict[str, Any]) -> None:
    """Index keys, compressed entries, cross attention and Mamba states."""
    with pytest.raises(EngineRefusal, match=r"0\.18 has no model m_type") as refused:
        started("lmdeploy", model_of(attention, architecture="m_type"))
    assert refused.value.field == "model"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # block, policy, ratio, batches, prefill, budget, vocab, flash
        ({}, (64, 0, None, None, 8192, 0, 9, True)),
        ({"quant_policy": "42"}, (64, 42, None, None, 8192, 0, 9, True)),
        ({"block_size": 16, "cache_max_entry_count": 0.5}, (16, 0, 0.5, None, 8192, 0, 9, True)),
        ({"max_batch_size": 5, "max_prefill_token_num": 7}, (64, 0, None, 5, 7, 0, 9, True)),
        ({"prefix_cache_state_budget": 6}, (64, 0, None, None, 8192, 6, 9, True)),
        ({"gpu": "sm89"}, (64, 0, None, None, 8192, 0, 9, False)),
        ({"gpu": "sm90"}, (64, 0, None, None, 8192, 0, 9, True)),
        ({"gpu": "smx0"}, (64, 0, None, None, 8192, 0, 9, True)),
        ({"gpu": "sm"}, (64, 0, None, None, 8192, 0, 9, True)),
        ({"gpu": "gf80"}, (64, 0, None, None, 8192, 0, 9, True)),
        *(
            ({"types": {"key": key, "value": key}}, (64, policy, None, None, 8192, 0, 9, True))
            for key, policy in (("bfloat16", 0), ("float16", 0), ("float32", 0), ("int4", 4), ("fp8_e5m2", 17))
        ),
    ],
)
def test_lmdeploy_options(options: dict[str, Any], expected: tuple[Any, ...]) -> None:
    """As read, and what is taken where nothing was said; a model's own type is policy 0."""
    made: Any = started("lmdeploy", model_of(HEADS, vocab_size=9, dtype="float32", cache_dtype="bfloat16"), **options)
    got = made.launch
    assert (got.block, got.policy, got.ratio, got.batches, got.prefill, got.state_budget, got.vocab, got.flash) == (
        expected
    )


@pytest.mark.parametrize(("heads", "groups", "tp", "each"), [(8, 4, 4, 1), (8, 4, 8, 1), (8, 8, 2, 4), (8, 1, 8, 1)])
def test_lmdeploy_heads_of_a_rank(heads: int, groups: int, tp: int, each: int) -> None:
    """Shares of whole heads, one copied where ranks outnumber them."""
    made = started("lmdeploy", model_of(HEADS | {"heads": heads, "groups": groups}), layout=Layout(tp=tp))
    assert records(made, Load(1))[0][7] == (1, 64, each, 64)


# MLX-LM


def grown(
    name: str, role: str, law: str, shape: tuple[int, ...], dtype: str, size: int, layers: Any = (0,), block: str = OWN
) -> tuple[Any, ...]:
    """A record; shape: sessions x rows x widths; size: bytes of one layer."""
    return name, role, block, law, layers, len(layers), shape[1], shape, dtype, len(layers) * size


#: Module, attention, options: arrays of two sessions of 1300 tokens, which are 6 steps of 256 rows = 1536.
GROWN: list[tuple[str, dict[str, Any], dict[str, Any], list[tuple[Any, ...]]]] = [
    ("qwen2", HEADS, {}, [
        grown(name, "quantisable", "plain", (2, 1536, 4, 64), "bfloat16", 2 * 1536 * 256 * 2)
        for name in ("key", "value")]),
    ("gpt_oss", LOCAL, {}, [
        grown(name, "quantisable", "rotating", (2, 100, 4, 64), "bfloat16", 2 * 100 * 256 * 2)
        for name in ("key", "value")]),
    # A chunk of 1000: the step that drops the oldest token adds 256 rows; bits do not touch it.
    ("llama4_text", HEADS | {"chunk": 1000}, {"kv_bits": 8, "quantized_kv_start": 0}, [
        grown(name, "quantisable", "chunked", (2, 1256, 4, 64), "bfloat16", 2 * 1256 * 256 * 2)
        for name in ("key", "value")]),
    # Only Llama 4's module has such a cache.
    ("qwen2", HEADS | {"chunk": 1000}, {}, [
        grown(name, "quantisable", "plain", (2, 1536, 4, 64), "bfloat16", 2 * 1536 * 256 * 2)
        for name in ("key", "value")]),
    ("deepseek_v3", MLA, {}, [
        grown("latent", "quantisable", "plain", (2, 1536, 1, 512), "bfloat16", 2 * 1536 * 512 * 2),
        grown("rope_key", "quantisable", "plain", (2, 1536, 1, 64), "bfloat16", 2 * 1536 * 64 * 2)]),
    ("deepseek_v32", MLA | {"indexer": {"head_dim": 128}}, {}, [
        grown("latent", "list", "plain", (2, 1536, 1, 512), "bfloat16", 2 * 1536 * 512 * 2),
        grown("rope_key", "list", "plain", (2, 1536, 1, 64), "bfloat16", 2 * 1536 * 64 * 2),
        grown("index_key", "list", "plain", (2, 1536, 1, 128), "bfloat16", 2 * 1536 * 128 * 2),
        grown("index_key_again", "list", "plain", (2, 1536, 1, 128), "bfloat16", 2 * 1536 * 128 * 2)]),
    # Expanded: 8 heads of 32 + 64 and of 48 elements.
    ("minicpm3", MLA | {"nope_dim": 32, "v_head_dim": 48}, {}, [
        grown("key", "quantisable", "plain", (2, 1536, 8, 96), "bfloat16", 2 * 1536 * 768 * 2),
        grown("value", "quantisable", "plain", (2, 1536, 8, 48), "bfloat16", 2 * 1536 * 384 * 2)]),
    # States in float32: 2 x 2 x 32 + 4 x 16 channels of 3 taps, 4 matrices of 32 x 16.
    ("qwen3_next", DELTA, {}, [
        grown("conv_state", "state", "state", (2, 1, 3, 192), "bfloat16", 2 * 3 * 192 * 2),
        grown("recurrent_state", "state", "state", (2, 1, 2048), "float32", 2 * 2048 * 4)]),
    ("recurrent_gemma", {"kind": "rglru", "width": 64, "conv_kernel": 4}, {}, [
        grown("lru_conv_state", "state", "state", (2, 1, 3, 64), "bfloat16", 2 * 3 * 64 * 2),
        grown("lru_state", "state", "state", (2, 1, 64), "bfloat16", 2 * 64 * 2)]),
    # 2 bits: 64 elements in 4 words of 32 bits, a scale and a bias.
    *(("qwen2", HEADS, {"kv_bits": bits, "quantized_kv_start": 1300}, [
        grown(f"{name}{end}", "quantisable", "plain", (2, 1536, 4, width), dtype, 2 * 1536 * 4 * width * item)
        for name in ("key", "value")
        for end, width, dtype, item in (
            ("", words, "float32", 4), ("_scales", 1, "bfloat16", 2), ("_biases", 1, "bfloat16", 2))])
      for bits, words in ((2, 4), (3, 6), (4, 8), (8, 16))),
    ("qwen2", {"kind": "none"}, {}, []),
]  # fmt: skip


@pytest.mark.parametrize(("module", "attention", "options", "expected"), GROWN)
def test_mlx_arrays(
    module: str, attention: dict[str, Any], options: dict[str, Any], expected: list[tuple[Any, ...]]
) -> None:
    """Every field of every array, and their sum."""
    made = started("mlx-lm", model_of(attention, layers=1, architecture=module), **options)
    assert records(made, Load(1300, 2)) == expected
    report = made.report(Load(1300, 2))
    assert (report["nbytes"], report["step"]) == (sum(record[-1] for record in expected), 256)
    assert ("rotating_max_size" in report) == any(record[3] == "rotating" for record in expected)


def test_mlx_layers_with_several_caches() -> None:
    """A state beside attention is a list of caches, whose attention ignores kv_bits; other layers do not."""
    model = model_of({"d": DELTA, "h": HEADS, "f": HEADS}, pattern=[["d", "h"], "f"], architecture="falcon_h1")
    made = started("mlx-lm", model, kv_bits=8, quantized_kv_start=0)
    assert [(record[0], record[1], record[2], record[4]) for record in records(made, Load(1))] == [
        ("conv_state", "state", "d", (0,)),
        ("recurrent_state", "state", "d", (0,)),
        ("key", "list", "h", (0,)),
        ("value", "list", "h", (0,)),
        *(
            (f"{name}{end}", "quantisable", "f", (1,))
            for name in ("key", "value")
            for end in ("", "_scales", "_biases")
        ),
    ]
    assert made.warnings == ("kv_bits is ignored where a layer has several caches",)


@pytest.mark.parametrize(
    ("options", "launch"),
    [
        ({}, (0, 64, 5000, None, 1)),
        ({"kv_bits": 2, "kv_group_size": 32, "quantized_kv_start": 0}, (2, 32, 0, None, 1)),
        ({"kv_bits": 3}, (3, 64, 5000, None, 1)),
        ({"max_kv_size": 77, "max_tokens": 9}, (0, 64, 5000, 77, 9)),
        *(({"types": {"key": key}}, (0, 64, 5000, None, 1)) for key in ("float16", "bfloat16")),
    ],
)
def test_mlx_options(options: dict[str, Any], launch: tuple[Any, ...]) -> None:
    """As read, and what is taken where nothing was said."""
    made: Any = started("mlx-lm", model_of(HEADS, cache_dtype="fp8_e4m3"), **options)
    assert tuple(made.launch) == launch


def test_mlx_saturation_and_what_is_refused() -> None:
    """A rotating cache is full one prefill step after its window; without one nothing saturates."""
    local = model_of({"a": LOCAL, "b": HEADS | {"window": 300}}, pattern=["a", "b"], architecture="gpt_oss")
    made = started("mlx-lm", local)
    assert (made.saturation_tokens, made.report(Load(1))["rotating_max_size"]) == (300 + 2048, 300)
    assert started("mlx-lm", model_of({"kind": "none"}, architecture="qwen2")).saturation_tokens == 0
    for attention in (HCA, {"kind": "cross", "heads": 2, "head_dim": 2}):
        with pytest.raises(EngineRefusal, match="block attention is not modelled for MLX-LM") as refused:
            started("mlx-lm", model_of(attention))
        assert refused.value.field == "attention"
    # Without kv_bits the cache stays as it is however long.
    long = started("mlx-lm", model_of(HEADS, architecture="qwen2"))
    assert [record[0] for record in records(long, Load(6000))] == ["key", "value"]
    # 7 generated tokens of 260 were single steps: 252 rows of the prompt, then 256 more, the limit at most.
    last = started("mlx-lm", model_of(HEADS, architecture="qwen2"), max_kv_size=4096, max_tokens=7)
    assert records(last, Load(260))[0][6] == 252 + 256
    assert records(last, Load(3))[0][6] == 256
