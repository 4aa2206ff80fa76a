"""ExLlamaV3: every field of a plan, a report and the options as read.

Each figure is worked out here from the rule that the engine's source states (cited in kvcalc/engines/exllamav3.py).
"""

from __future__ import annotations

from typing import Any

import pytest
from starting import model_of, started

from kvcalc.core.plan import Layout, Load, Planner
from kvcalc.errors import EngineRefusal

HEADS = {"kind": "gqa", "heads": 8, "groups": 4, "head_dim": 64}
LOCAL = HEADS | {"window": 256}
MLA = {"kind": "mla", "heads": 8, "latent_dim": 512, "rope_dim": 64}
DELTA = {"kind": "gated_deltanet", "key_heads": 2, "value_heads": 4, "key_dim": 32, "value_dim": 16, "conv_kernel": 4}
MAMBA = {"kind": "mamba2", "heads": 8, "head_dim": 64, "state_dim": 128, "groups": 2, "conv_kernel": 4}
CSA = {"kind": "csa", "heads": 8, "head_dim": 512, "tokens_per_slot": 4, "window": 128, "index_dim": 128}
HCA = {"kind": "hca", "heads": 8, "head_dim": 512, "tokens_per_slot": 128, "window": 128}
NONE = {"kind": "none"}
OWN = "attention"  # the block's name where a file names none
SIZE = {"float16": 2, "bfloat16": 2, "float32": 4}


def bytes_of(shape: tuple[int, ...], dtype: str) -> int:
    size = SIZE[dtype]
    for length in shape:
        size *= length
    return size


def records(planner: Planner, load: Load, part: int = 0) -> list[tuple[Any, ...]]:
    """Every field of every tensor of one group of ranks."""
    return [tuple(tensor) for tensor in planner.plan(load).ranks[part].tensors]


def exl(name: str, per: str, shape: tuple[int, ...], dtype: str = "float16", layers: Any = (0,)) -> tuple[Any, ...]:
    """A record: slots are tokens of pages (256 each), or slots."""
    slots = shape[0] * (256 if per == "page" else 1)
    return name, per, OWN, per, layers, len(layers), slots, shape, dtype, len(layers) * bytes_of(shape, dtype)


#: Attention, options: arrays of one layer for one session of 300 tokens, which is 2 pages, and 16 slots.
EXL: list[tuple[dict[str, Any], dict[str, Any], list[tuple[Any, ...]]]] = [
    (HEADS, {}, [exl(name, "page", (2, 256, 4, 64)) for name in ("key", "value")]),
    # A ring of 128 + 512 tokens is 3 pages. Entries of 4 tokens: 64 a page. Open groups: 256 + 4 rows of
    # 2 x (512 + 128). Overlap: 64 groups of a page and 2, two halves of 4 tokens of 512 + 128.
    (CSA, {}, [
        exl("window_kv", "slot", (16, 768, 512)), exl("compressed_kv", "page", (2, 64, 512)),
        exl("index_key", "page", (2, 64, 128)), exl("pending_kv", "slot", (16, 260, 1280)),
        exl("pending_gate", "slot", (16, 260, 1280)), exl("overlap", "slot", (16, 66, 2, 4, 640), "float32"),
    ]),
    # Quantised: 512 - 64 elements are 14 groups of 32, 4 bits each in 4 words; 64 with the position stay fp16.
    (CSA, {"k_bits": 4}, [
        exl("window_kv", "slot", (16, 768, 512)), exl("compressed_kv", "page", (2, 64, 56), "float32"),
        exl("compressed_kv_scale", "page", (2, 64, 14)), exl("compressed_rope", "page", (2, 64, 64)),
        exl("index_key", "page", (2, 64, 128)), exl("pending_kv", "slot", (16, 260, 1280)),
        exl("pending_gate", "slot", (16, 260, 1280)), exl("overlap", "slot", (16, 66, 2, 4, 640), "float32"),
    ]),
    # Entries of 128 tokens: 2 a page; open groups 256 + 128 rows of 512; no indexer, no overlap.
    (HCA, {}, [
        exl("window_kv", "slot", (16, 768, 512)), exl("compressed_kv", "page", (2, 2, 512)),
        exl("pending_kv", "slot", (16, 384, 512)), exl("pending_gate", "slot", (16, 384, 512)),
    ]),
    # DeepSeek-V4's layers without compression: one shared head with a window is a ring alone, whatever the class.
    (MLA | {"rope_dim": 0, "window": 256}, {}, [exl("window_kv", "slot", (16, 768, 512))]),
    (MLA | {"rope_dim": 0, "window": 257}, {}, [exl("window_kv", "slot", (16, 1024, 512))]),
    (MLA | {"rope_dim": 0}, {}, [exl("latent", "page", (2, 256, 512))]),
    (MLA | {"window": 256}, {}, [exl("latent", "page", (2, 256, 512)), exl("rope_key", "page", (2, 256, 64))]),
    (HEADS | {"groups": 2, "tied_kv": True, "window": 256}, {},
     [exl("key", "page", (2, 256, 2, 64)), exl("value", "page", (2, 256, 2, 64))]),
    # Mamba-2 stays float32: 8 x 64 + 2 x 2 x 128 channels, 3 + 1 taps, matrices of 64 x 128, a gate per head.
    (MAMBA, {}, [
        exl("conv_state", "slot", (16, 1024, 4), "bfloat16"),
        exl("recurrent_state", "slot", (16, 2, 8, 8192), "float32"),
        exl("staged_conv", "slot", (16, 1, 1024), "bfloat16"), exl("staged_beta", "slot", (16, 1, 8), "bfloat16"),
        exl("staged_gate", "slot", (16, 1, 8), "float32"),
    ]),
    ({"kind": "mamba1", "inner_dim": 24, "state_dim": 4, "conv_kernel": 4}, {"max_history": 1, "max_batch_size": 2}, [
        exl("conv_state", "slot", (2, 24, 5), "bfloat16"), exl("recurrent_state", "slot", (2, 2, 24, 4), "float32"),
        exl("staged_conv", "slot", (2, 2, 24), "bfloat16"), exl("staged_beta", "slot", (2, 2, 24), "bfloat16"),
        exl("staged_gate", "slot", (2, 2, 24), "float32"),
    ]),
    # On 2 ranks: 1 x 2 x 32 + 2 x 16 channels and 2 heads of 32 x 16 each.
    (DELTA, {"layout": Layout(tp=2)}, [
        exl("conv_state", "slot", (16, 96, 4), "bfloat16"), exl("recurrent_state", "slot", (16, 2, 2, 512)),
        exl("staged_conv", "slot", (16, 1, 96), "bfloat16"), exl("staged_beta", "slot", (16, 1, 2), "bfloat16"),
        exl("staged_gate", "slot", (16, 1, 2), "float32"),
    ]),
    ({"kind": "short_conv", "dim": 24, "conv_kernel": 3}, {}, [exl("conv_state", "slot", (16, 24, 3))]),
    (NONE, {}, []),
]  # fmt: skip


@pytest.mark.parametrize(("attention", "options", "expected"), EXL)
def test_exllamav3_arrays(attention: dict[str, Any], options: dict[str, Any], expected: list[tuple[Any, ...]]) -> None:
    """Every field of every array."""
    assert records(started("exllamav3", model_of(attention, layers=1), **options), Load(300)) == expected


def test_exllamav3_stages() -> None:
    """Two full layers on the first stage, a ring on the second: pages of the one, slots of the other.

    A page of two layers: 2 x 256 x 4 x 64 x 2 x 2 bytes. The ring: 16 x 768 x 4 x 64 x 2 x 2 bytes.
    """
    model = model_of({"f": HEADS, "w": LOCAL}, pattern=["f", "f", "w"], layers=3, cls="GptOssForCausalLM")
    made = started("exllamav3", model, layout=Layout(pp=2, tp=2, dp=2))
    plan = made.plan(Load(300, 3))
    assert [part.ranks for part in plan.ranks] == [(0, 1), (2, 3), (4, 5), (6, 7)]
    made = started("exllamav3", model, layout=Layout(pp=2))
    page, ring = 2 * 256 * 4 * 64 * 4, 16 * 768 * 4 * 64 * 4
    assert made.report(Load(300, 3), 30 * page + 1) == {
        "page_size": 256,
        "max_batch_size": 16,
        "page_bytes": page,
        "recurrent_bytes": ring,
        "storage_size": 6 * page + ring,
        "max_num_tokens": 30 * 256,
    }
    assert "max_num_tokens" not in started("exllamav3", model_of(DELTA)).report(Load(1), 10**9)
    assert (made.saturation_tokens, made.period_tokens, made.warnings) == (0, 256, ())


def test_exllamav3_rings_of_each_class() -> None:
    """A window of 257: 256 + 512 tokens are 3 pages where the token itself is left out, 257 + 512 are 4.

    Source: architecture/*.py, which pass `sliding_window - 1` or `sliding_window` to `SlidingAttention`.
    """
    rows = {
        "GptOssForCausalLM": 768,
        "Gemma4ForConditionalGeneration": 768,
        "Gemma4UnifiedForConditionalGeneration": 768,
        "MiMoV2ForCausalLM": 768,
        "MuseGlimmerForConditionalGeneration": 768,
        "AfmoeForCausalLM": 1024,
        "LagunaForCausalLM": 1024,
        "Step3p5ForCausalLM": 1024,
        "Step3p7ForConditionalGeneration": 1024,
        "Spark2_5ForCausalLM": 1024,
    }
    for cls, length in rows.items():
        made = started("exllamav3", model_of(HEADS | {"window": 257}, layers=1, cls=cls))
        assert records(made, Load(1)) == [exl(name, "slot", (16, length, 4, 64)) for name in ("key", "value")], cls
    for cls in ("Gemma2ForCausalLM", "Gemma3ForCausalLM", "Olmo3ForCausalLM", "Exaone4ForCausalLM"):
        made = started("exllamav3", model_of(HEADS | {"window": 257}, layers=1, cls=cls))
        assert records(made, Load(1))[0] == exl("key", "page", (1, 256, 4, 64)), cls
    chunked = started("exllamav3", model_of(HEADS | {"chunk": 300}, layers=1, cls="LagunaForCausalLM"))
    assert records(chunked, Load(1))[0] == exl("key", "slot", (16, 1024, 4, 64))


@pytest.mark.parametrize("cls", ["DeepseekV3ForCausalLM", "Glm4MoeLiteForCausalLM", "GlmMoeDsaForCausalLM"])
def test_exllamav3_refuses_groups_of_experts(cls: str) -> None:
    """More than one group; one group, or none said, is as good as no groups."""
    with pytest.raises(EngineRefusal, match=r"n_group = 2"):
        started("exllamav3", model_of(MLA, cls=cls, facts={"n_group": 2}))
    for facts in ({"n_group": 1}, {"n_group": "8"}, {}):
        started("exllamav3", model_of(MLA, cls=cls, facts=facts))


def test_exllamav3_refuses_other_states() -> None:
    """RG-LRU and RWKV are in none of its architectures; shared layers only fail for Gemma 4."""
    for attention in (
        {"kind": "rglru", "width": 64, "conv_kernel": 4},
        {"kind": "rwkv", "hidden_dim": 64, "head_dim": 16},
        {"kind": "cross", "heads": 2, "head_dim": 2},
    ):
        with pytest.raises(EngineRefusal, match=r"has no architecture m_type"):
            started("exllamav3", model_of(attention, architecture="m_type"))
    shared = {"a": HEADS, "b": {"kind": "shared", "of": "a"}}
    made = started("exllamav3", model_of(shared, pattern=["a", "b"], cls="LlamaForCausalLM"))
    assert [(record[2], record[4]) for record in records(made, Load(1))] == [("a", (0,))] * 2 + [("b", (1,))] * 2
    started("exllamav3", model_of(HEADS, cls="Gemma4ForConditionalGeneration"))
    for options, field in (({"layout": Layout(tp=2, dcp=2)}, "dcp"), ({"layout": Layout(pp=3)}, "pp"),
                           ({"types": {"key": "int8"}}, "kv-dtype")):  # fmt: skip
        with pytest.raises(EngineRefusal) as refused:
            started("exllamav3", model_of(HEADS), **options)
        assert refused.value.field == field


@pytest.mark.parametrize(
    ("options", "launch"),
    [
        ({}, (0, 0, None, 0, "float16")),
        ({"k_bits": 2}, (2, 2, None, 0, "float16")),
        ({"v_bits": 8}, (8, 8, None, 0, "float16")),
        ({"k_bits": 8, "v_bits": 2, "types": {"key": "int8"}}, (8, 2, None, 0, "float16")),
        ({"k_bits": 3, "types": {"key": "int8"}}, (3, 3, None, 0, "float16")),
        ({"v_bits": 3, "types": {"key": "int8"}}, (3, 3, None, 0, "float16")),
        ({"max_batch_size": 4, "max_history": 3, "recurrent_dtype": "float"}, (0, 0, 4, 3, "float32")),
        ({"recurrent_dtype": "half"}, (0, 0, None, 0, "float16")),
        *(({"types": {"key": key}}, (0, 0, None, 0, "float16")) for key in ("float16", "bfloat16")),
    ],
)
def test_exllamav3_options(options: dict[str, Any], launch: tuple[Any, ...]) -> None:
    """One width given is both; fp16 without; the model's own cache type is no wish for another."""
    made: Any = started("exllamav3", model_of(HEADS, cache_dtype="fp8_e4m3"), **options)
    assert tuple(made.launch) == launch


@pytest.mark.parametrize(("k_bits", "v_bits"), [(1, 8), (9, 8), (8, 1), (8, 9), (0, None), (None, 9)])
def test_exllamav3_bits(k_bits: int | None, v_bits: int | None) -> None:
    """From 2 to 8, each of them."""
    options = {name: bits for name, bits in (("k_bits", k_bits), ("v_bits", v_bits)) if bits is not None}
    with pytest.raises(EngineRefusal, match="from 2 to 8 bits"):
        started("exllamav3", model_of(HEADS), **options)
