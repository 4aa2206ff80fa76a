"""The caches of Hugging Face transformers: every field of a plan, worked out by hand from its modelling code.

Rules: kvcalc/engines/transformers/slabs.py and rules.py, which name the lines of transformers 5.23 they were read from.
"""

from __future__ import annotations

from typing import Any

import pytest
from starting import model_of, started

from kvcalc.core.plan import Layout, Load
from kvcalc.engines import get_engine
from kvcalc.engines.base import read_options
from kvcalc.errors import EngineRefusal, UsageError

HEADS = {"kind": "gqa", "heads": 8, "groups": 4, "head_dim": 64}
LOCAL = HEADS | {"window": 7}
CHUNK = HEADS | {"chunk": 7}
ONE = HEADS | {"window": 1}
MLA = {"kind": "mla", "heads": 8, "latent_dim": 512, "rope_dim": 64}
INDEXED = HEADS | {"indexer": {"head_dim": 16}}
POOLED = HEADS | {"indexer": {"head_dim": 16, "tokens_per_slot": 4}}
DELTA = {"kind": "gated_deltanet", "key_heads": 2, "value_heads": 4, "key_dim": 32, "value_dim": 16, "conv_kernel": 4}
CONV = {"kind": "short_conv", "dim": 24, "conv_kernel": 4}
LRU = {"kind": "rglru", "width": 64, "conv_kernel": 4}
LIGHT = {"kind": "lightning", "heads": 2, "head_dim": 8}
CSA = {"kind": "csa", "heads": 8, "head_dim": 32, "tokens_per_slot": 4, "window": 7, "index_dim": 8}
HCA = {"kind": "hca", "heads": 8, "head_dim": 32, "tokens_per_slot": 4, "window": 7}
STATIC, FP8 = {"cache": "static"}, {"cache": "fp8"}
RESIDENT, PREFILL = {"view": "resident"}, {"view": "prefill"}
SIZE = {"bfloat16": 2, "float16": 2, "float32": 4, "int64": 8, "fp8_e4m3": 1}

#: name, law, slots, widths, dtype, and sessions: 3 unless the batch shares one.
Short = tuple[Any, ...]


def pair(law: str, slots: int, heads: int = 4, dtype: str = "bfloat16") -> list[Short]:
    """K and V."""
    return [(name, law, slots, (heads, 64), dtype) for name in ("key", "value")]


#: Architecture, attention, facts, options: arrays for three sessions of 11 tokens.
CASES: list[tuple[str | None, dict[str, Any], dict[str, Any], dict[str, Any], list[Short]]] = [
    ("llama", HEADS, {}, {}, pair("linear", 11)),
    ("llama", HEADS, {}, STATIC, pair("linear", 11)),
    ("llama", MLA, {}, {}, [("latent", "linear", 11, (1, 512), "bfloat16"),
                            ("rope_key", "linear", 11, (1, 64), "bfloat16")]),
    # keys[..., -window + 1:, :]: one less than the window; its storage has the new token, or the whole prompt.
    ("mistral", LOCAL, {}, {}, pair("window 6", 6)),
    ("mistral", LOCAL, {}, RESIDENT, pair("window 7", 7)),
    ("mistral", LOCAL, {}, PREFILL, pair("linear", 11)),
    ("mistral", LOCAL, {}, STATIC, pair("window 7", 7)),
    ("mistral", LOCAL, {}, STATIC | RESIDENT, pair("window 7", 7)),
    ("mistral", LOCAL, {}, STATIC | PREFILL, pair("window 7", 7)),
    # Chunks are cached as windows; a window of one is never cut.
    ("llama4_text", CHUNK, {}, {}, pair("window 6", 6)),
    ("llama4_text", CHUNK, {}, STATIC, pair("window 7", 7)),
    ("mistral", ONE, {}, {}, pair("linear", 11)),
    ("mistral", ONE, {}, RESIDENT, pair("linear", 11)),
    ("mistral", ONE, {}, STATIC, pair("window 1", 1)),
    ("gpt_oss", HEADS | {"window": 2}, {}, {}, pair("window 1", 1)),
    # fp8: one scale for the whole batch.
    ("llama", HEADS, {}, FP8, [
        ("key", "linear", 11, (4, 64), "fp8_e4m3"), ("key_scale", "constant", 1, (1,), "float32", 1),
        ("value", "linear", 11, (4, 64), "fp8_e4m3"), ("value_scale", "constant", 1, (1,), "float32", 1)]),
    # The newest input of a convolution is stored too; kernels hand back float32 states.
    ("qwen3_next", DELTA, {}, {}, [("conv_state", "constant", 4, (192,), "bfloat16"),
                                   ("recurrent_state", "constant", 1, (4, 512), "float32")]),
    ("lfm2", CONV, {}, {}, [("conv_state", "constant", 4, (24, 1), "bfloat16")]),
    # Architectures whose code keeps something else.
    ("zaya", CONV, {}, {}, [("conv_state", "constant", 3, (24, 1), "bfloat16")]),
    ("rwkv", CONV, {}, {}, [("conv_state", "constant", 3, (24, 1), "bfloat16")]),
    ("zaya", HEADS, {}, {}, pair("linear", 11)),
    ("inkling_text", CONV, {}, {}, [("conv_state", "constant", 4, (24, 1), "float32")]),
    ("inkling2_text", CONV, {}, {}, [("conv_state", "constant", 4, (24, 1), "float32")]),
    ("inkling2_text", HEADS, {}, {}, pair("linear", 11)),
    ("recurrent_gemma", LRU, {}, {}, [("lru_conv_state", "constant", 3, (64, 1), "bfloat16"),
                                      ("lru_state", "constant", 1, (64, 1), "float32")]),
    ("recurrent_gemma", LRU, {}, RESIDENT, [("lru_conv_state", "constant", 4, (64, 1), "bfloat16"),
                                            ("lru_state", "constant", 1, (64, 1), "float32")]),
    ("minimax", LIGHT, {}, {}, [("recurrent_state", "constant", 1, (2, 64), "bfloat16")]),
    ("xlstm", LIGHT, {}, {}, [("recurrent_state", "constant", 1, (2, 64), "bfloat16")]),
    ("llama", LIGHT, {}, {}, [("recurrent_state", "constant", 1, (2, 64), "float32")]),
    ("minimax", HEADS, {}, {}, pair("linear", 11)),
    ("falcon", HEADS, {}, {}, pair("linear", 11)),
    ("falcon", HEADS, {"new_decoder_architecture": True}, {}, pair("linear", 11, 8)),
    ("falcon", HEADS, {"new_decoder_architecture": False}, {}, pair("linear", 11)),
    ("cpmant", HEADS, {"prompt_length": 1000}, {}, pair("linear + 1,000", 1011)),
    ("cpmant", HEADS, {"prompt_length": "x"}, {}, pair("linear", 11)),
    ("cpmant", LOCAL, {"prompt_length": 32}, {}, pair("window 6", 6)),
    ("llama", INDEXED, {}, {}, [*pair("linear", 11), ("index_key", "linear", 11, (1, 16), "bfloat16")]),
    *((kind, INDEXED, {}, {}, [*pair("linear", 11), ("index_key", "linear", 11, (1, 16), "float32")])
      for kind in ("dots3_note", "dots3_note_text")),
    # Key, gate score and flag of every token, none pooled.
    ("glm5_next_text", POOLED, {}, {}, [*pair("linear", 11), ("index_key", "linear", 11, (33,), "bfloat16")]),
    ("llama", POOLED, {}, {}, [*pair("linear", 11),
                               ("index_key", "1 slot per 4 tokens", 2, (1, 16), "bfloat16")]),
    # Raw index keys; layers with embeddings per layer keep past inputs and token ids.
    *((kind, CONV, {"ngram_size": 3}, {}, [("conv_state", "constant", 3, (24, 1), "bfloat16"),
                                           ("token_ids", "constant", 2, (1,), "int64")])
      for kind in ("qwen4_exp", "qwen4_exp_text")),
    ("qwen4_exp", CONV, {}, {}, [("conv_state", "constant", 4, (24, 1), "bfloat16")]),
    ("qwen4_exp", HEADS, {"ngram_size": 3}, {}, pair("linear", 11)),
    # DeepSeek-V4: windows without compression keep K and V apart; groups of 4: two closed, 3 tokens open.
    ("deepseek_v4", HEADS | {"window": 7, "tied_kv": True}, {}, {}, pair("window 6", 6)),
    ("deepseek_v4", HCA, {}, {}, [
        ("window_kv", "window 6", 6, (1, 32), "bfloat16"),
        ("compressed_kv", "1 slot per 4 tokens", 2, (1, 32), "bfloat16"),
        *((name, "open group of 4 tokens", 3, (1, 32), "bfloat16") for name in ("pending_kv", "pending_gate"))]),
    ("deepseek_v4", HCA, {}, RESIDENT, [
        ("window_kv", "window 7", 7, (1, 32), "bfloat16"),
        ("compressed_kv", "1 slot per 4 tokens", 2, (1, 32), "bfloat16"),
        *((name, "storage of the open group of 4 tokens", 3, (1, 32), "bfloat16")
          for name in ("pending_kv", "pending_gate"))]),
    ("deepseek_v4", HCA, {}, PREFILL, [
        ("window_kv", "linear", 11, (1, 32), "bfloat16"),
        ("compressed_kv", "1 slot per 4 tokens", 2, (1, 32), "bfloat16"),
        *((name, "linear", 11, (1, 32), "bfloat16") for name in ("pending_kv", "pending_gate"))]),
    # Overlapping groups: inputs of 2 x (32 + 8), of which the first half of the last closed group is read again.
    ("deepseek_v4", CSA, {}, {}, [
        ("window_kv", "window 6", 6, (1, 32), "bfloat16"),
        ("compressed_kv", "1 slot per 4 tokens", 2, (1, 32), "bfloat16"),
        ("index_key", "1 slot per 4 tokens", 2, (1, 8), "bfloat16"),
        ("pending_kv", "open group of 4 tokens", 3, (1, 80), "bfloat16"),
        ("overlap_kv", "last closed group of 4 tokens", 4, (40,), "bfloat16"),
        ("pending_gate", "open group of 4 tokens", 3, (1, 80), "bfloat16"),
        ("overlap_gate", "last closed group of 4 tokens", 4, (40,), "float32")]),
]  # fmt: skip


@pytest.mark.parametrize(("architecture", "attention", "facts", "options", "expected"), CASES)
def test_arrays(
    architecture: str | None,
    attention: dict[str, Any],
    facts: dict[str, Any],
    options: dict[str, Any],
    expected: list[Short],
) -> None:
    """Every field of every array of two layers, three sessions of 11 tokens."""
    model = model_of(attention, architecture=architecture, facts=facts)
    plan = started("transformers", model, **options).plan(Load(11, 3)).ranks[0]
    written = []
    for name, law, slots, widths, dtype, *shared in expected:
        shape = (*(shared or [3]), slots, *widths)
        size = 2 * SIZE[dtype]
        for length in shape:
            size *= length
        written.append((name, attention["kind"], "attention", law, (0, 1), 2, slots, shape, dtype, size))
    got = [tuple(tensor) for tensor in plan.tensors if tensor.name != "position_ids"]
    assert got == written
    assert plan.bytes == sum(tensor.bytes for tensor in plan.tensors)


def test_positions_of_qwen4_exp() -> None:
    """Three int64 positions per token and session; in a prefill one row for all axes and sessions."""
    for architecture in ("qwen4_exp", "qwen4_exp_text"):
        model = model_of(INDEXED, architecture=architecture)
        for options, shape in (({}, (3, 11, 3)), (RESIDENT, (3, 11, 3)), (PREFILL, (1, 11, 1))):
            tensors = started("transformers", model, **options).plan(Load(11, 3)).ranks[0].tensors
            size = 8 * shape[0] * shape[1] * shape[2]
            expected = ("position_ids", "gqa", "attention", "linear", (0,), 1, 11, shape, "int64", size)
            assert tuple(tensors[-1]) == expected


def test_groups_open_and_close() -> None:
    """Storage after a step holds the closing token; the last closed group is there from its last token on."""
    model = model_of(CSA, layers=1, architecture="deepseek_v4")
    made = started("transformers", model, **RESIDENT)
    for tokens, open_rows, closed in ((1, 1, 0), (3, 3, 0), (4, 4, 4), (5, 1, 4), (8, 4, 4)):
        slots = {tensor.name: tensor.slots for tensor in made.plan(Load(tokens)).ranks[0].tensors}
        assert (slots["pending_kv"], slots["overlap_kv"]) == (open_rows, closed)
    assert (made.period_tokens, made.saturation_tokens) == (4, 7)
    wide = started("transformers", model_of(CSA | {"tokens_per_slot": 9}, layers=1, architecture="deepseek_v4"))
    assert (wide.period_tokens, wide.saturation_tokens) == (9, 9)
    prompt = started("transformers", model_of(HEADS, architecture="cpmant", facts={"prompt_length": 32}))
    assert (prompt.period_tokens, prompt.saturation_tokens) == (1, 0)
    empty = started("transformers", model_of({"kind": "none"}))
    assert (empty.period_tokens, empty.saturation_tokens) == (1, 0)


def test_stages_and_sessions() -> None:
    """3 layers on 2 stages, 3 sessions on 2 copies; an idle copy shares no scale with anybody."""
    layer = 11 * 2 * 256 * 2
    made = started("transformers", model_of(HEADS, layers=3), layout=Layout(pp=2, dp=2))
    plan = made.plan(Load(11, 3))
    assert [part.ranks for part in plan.ranks] == [(0,), (1,), (2,), (3,)]
    assert plan.by_rank() == {0: 4 * layer, 1: 2 * layer, 2: 2 * layer, 3: layer}
    even = made.plan(Load(11, 2))
    assert [part.ranks for part in even.ranks] == [(0, 2), (1, 3)]
    idle = started("transformers", model_of(HEADS, layers=1), layout=Layout(dp=2), **FP8).plan(Load(11))
    assert idle.by_rank() == {0: 11 * 2 * 256 + 2 * 4, 1: 0}
    assert any("divided evenly" in text for text in made.assumptions)
    assert not any("divided evenly" in text for text in started("transformers", model_of(HEADS)).assumptions)


@pytest.mark.parametrize(
    ("attention", "architecture", "asked", "field"),
    [
        *(
            (HEADS, kind, STATIC, "cache")
            for kind in ("cpmant", "deepseek_v4", "inkling2_text", "inkling_text", "minimax", "prophetnet",
                         "recurrent_gemma", "rwkv", "xlstm")
        ),
        (LOCAL, "mistral", FP8, "cache"),
        (DELTA, "qwen3_next", FP8, "cache"),
        (INDEXED, "llama", FP8, "cache"),
        (HEADS, "llama", {"types": {"key": "float16"}}, "kv-dtype"),
        (HEADS, "llama", {"types": {"key": "int8", "value": "int8"}}, "kv-dtype"),
        (HEADS, "deepseek_v4", {"types": {"key": "float16", "value": "float16"}}, "kv-dtype"),
        (HEADS, "llama", {"layout": Layout(tp=2)}, "tp"),
        (HEADS, "llama", {"layout": Layout(dcp=2)}, "dcp"),
        (HEADS, "llama", {"layout": Layout(pp=3)}, "pp"),
    ],
)  # fmt: skip
def test_what_is_refused(attention: dict[str, Any], architecture: str, asked: dict[str, Any], field: str) -> None:
    """Cache classes, types and layouts that transformers does not run."""
    with pytest.raises(EngineRefusal) as refused:
        started("transformers", model_of(attention, architecture=architecture), **asked)
    assert refused.value.field == field


def test_options() -> None:
    """The cache class and the view, by name."""
    engine = get_engine("transformers")[0]
    for name, values in (("cache", ("dynamic", "static", "fp8")), ("view", ("logical", "resident", "prefill"))):
        for value in values:
            assert read_options(engine, [f"{name}={value}"]) == {name: value}
        with pytest.raises(UsageError):
            read_options(engine, [f"{name}=on"])
    assert [(option.name, option.default) for option in engine.options] == [("cache", "dynamic"), ("view", "logical")]


def test_types() -> None:
    """K and V as the model computes them; a checkpoint's narrow cache type is for other engines."""
    for dtype in ("float16", "float32", "bfloat16"):
        made = started("transformers", model_of(HEADS), types={"key": dtype, "value": dtype})
        assert {tensor.dtype for tensor in made.plan(Load(1)).ranks[0].tensors} == {dtype}
    narrow = model_of(HEADS, cache_dtype="fp8_e4m3")
    asked = {"key": "fp8_e4m3", "value": "fp8_e4m3"}
    made = started("transformers", narrow, types=asked)
    assert {tensor.dtype for tensor in made.plan(Load(1)).ranks[0].tensors} == {"bfloat16"}
    ignored = "the checkpoint's cache type fp8_e4m3 is ignored"
    assert any(ignored in text for text in made.assumptions)
    assert not any(ignored in text for text in started("transformers", narrow, types=asked, **FP8).assumptions)
    wide = model_of(HEADS, cache_dtype="float32")
    kept = started("transformers", wide, types={"key": "float32", "value": "float32"})
    assert {tensor.dtype for tensor in kept.plan(Load(1)).ranks[0].tensors} == {"float32"}
