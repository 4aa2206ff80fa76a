"""A model and a launch as SGLang reads them: every field of the records, by the rules of its model_config.

Source: sglang 0.5.23, srt/configs/model_config.py, srt/configs/mamba_utils.py, srt/server_args.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from starting import model_of, started

from kvcalc.core.model import Model
from kvcalc.core.plan import Layout
from kvcalc.engines.sglang.geometry import Attention, Geometry, Layer, Stage, State, pp_bounds, read_geometry
from kvcalc.engines.sglang.planner import SglangPlanner
from kvcalc.engines.sglang.settings import Settings
from kvcalc.errors import EngineRefusal

HEADS = {"kind": "gqa", "heads": 8, "groups": 2, "head_dim": 64}
MLA = {"kind": "mla", "heads": 8, "latent_dim": 512, "rope_dim": 64}
INDEXED = MLA | {"indexer": {"head_dim": 128}}
DELTA = {"kind": "gated_deltanet", "key_heads": 2, "value_heads": 4, "key_dim": 32, "value_dim": 16, "conv_kernel": 4}
MAMBA2 = {"kind": "mamba2", "heads": 8, "head_dim": 64, "state_dim": 16, "groups": 1, "conv_kernel": 4}
KDA = {"kind": "kda", "heads": 4, "head_dim": 32, "conv_kernel": 4}
SHORT = {"kind": "short_conv", "dim": 256, "conv_kernel": 4}
#: K and V of 2 heads of 64; a latent of 512 and a rotary key of 64.
TWO = Attention(heads=2, key_dim=64, value_dim=64)
LATENT = Attention(latent_dim=512, rope_dim=64)


def read(model: Model, tp: int = 1, pp: int = 1, *, hybrid: bool = True) -> Geometry:
    return read_geometry(model, attn_tp=tp, pp=pp, hybrid_swa=hybrid)


def several(blocks: dict[str, Any], pattern: list[Any], cls: str | None = None, **more: Any) -> Model:
    """The layers of `pattern`; no class where none is named."""
    named = {"cls": cls} if cls else {}
    used = {name: kind for name, kind in blocks.items() if name in str(pattern)}
    return model_of(used, pattern=pattern, layers=len(pattern), **named, **more)


def test_an_attention_layer_stores_nothing_by_default() -> None:
    """No heads, no latent, no window, no index; every token would have an index entry of its own."""
    got = Attention()
    assert (got.shape, got.window, got.index_dim, got.index_group) == ((0, 0, 0, 0, 0), None, 0, 1)
    layer = Layer(attention=(), has_state=False)
    assert (layer.ratio, layer.index_dim) == (0, 0)
    states = read(model_of(MAMBA2, cls="Mamba2ForCausalLM"))
    assert (states.full, states.sliding, states.attention) == (None, None, Attention())


def test_chunks_are_a_sliding_pool() -> None:
    """Llama 4: chunked layers are sliding ones; one stage each."""
    blocks = {"local": HEADS | {"chunk": 256}, "full": HEADS}
    model = several(blocks, ["local", "full"], "Llama4ForConditionalGeneration")
    local = replace(TWO, window=256)
    assert read(model, pp=2) == Geometry(
        name="Llama4ForConditionalGeneration",
        full=TWO,
        sliding=local,
        layers=(Layer(attention=(local,), has_state=False), Layer(attention=(TWO,), has_state=False)),
        state=None,
        state_layers=(),
        stages=(
            Stage(start=0, stop=1, full=(), sliding=(0,), indexed=(), states=(), ratios=(0,)),
            Stage(start=1, stop=2, full=(1,), sliding=(), indexed=(), states=(), ratios=(0,)),
        ),
        latent=False,
        indexed_latent=False,
        indexed_heads=False,
        compressed=False,
    )
    # Switched off, or another class: all layers are full ones.
    other = several(blocks, ["local", "full"], "LlamaForCausalLM")
    for got in (read(model, hybrid=False), read(other)):
        assert (got.full, got.sliding, got.stages[0].full, got.stages[0].sliding) == (TWO, None, (0, 1), ())
    # A class of the list without a sliding layer has one pool.
    assert read(several({"a": HEADS}, ["a"], "GptOssForCausalLM")).sliding is None
    # Two windows of one shape: the first layer's.
    windows = {"a": HEADS | {"window": 128}, "b": HEADS | {"window": 64}}
    both = read(several(windows, ["a", "b"], "GptOssForCausalLM"))
    assert both.sliding == replace(TWO, window=128) == both.attention


def test_latents_and_their_index() -> None:
    """The layer with an index gives the pool its index; which classes keep the index is a list."""
    blocks = {"a": MLA, "b": INDEXED, "c": MLA | {"indexer": {"head_dim": 128, "tokens_per_slot": 4}}}
    indexed = replace(LATENT, index_dim=128)
    bare = Layer(attention=(LATENT,), has_state=False)
    rows = (bare, Layer(attention=(indexed,), has_state=False, index_dim=128))
    got = read(several(blocks, ["a", "b"], "DeepseekV32ForCausalLM"))
    assert (got.layers, got.full) == (rows, indexed)
    assert (got.latent, got.indexed_latent, got.indexed_heads) == (True, True, False)
    assert got.stages == (Stage(start=0, stop=2, full=(0, 1), sliding=(), indexed=(1,), states=(), ratios=(0, 0)),)
    for kind, cls, expected in (
        (INDEXED, "DeepseekV2ForCausalLM", (True, False, False)),
        (INDEXED, None, (True, True, False)),
        (MLA, None, (True, False, False)),
        (MLA, "DeepseekV32ForCausalLM", (True, False, False)),
        (HEADS, None, (False, False, False)),
        (HEADS | {"indexer": {"head_dim": 32}}, None, (False, False, False)),
        (HEADS | {"indexer": {"head_dim": 32}}, "LlamaForCausalLM", (False, False, False)),
        (HEADS | {"indexer": {"head_dim": 32}}, "MiniMaxM3SparseForCausalLM", (False, False, True)),
        (HEADS, "MiniMaxM3SparseForCausalLM", (False, False, False)),
        (DELTA, None, (False, False, False)),
    ):
        made = read(several({"a": kind}, ["a"], cls))
        assert (made.latent, made.indexed_latent, made.indexed_heads) == expected, (kind, cls)
    assert read(several({"c": blocks["c"]}, ["c"], "Glm5NextForConditionalGeneration")).attention.index_group == 4


def test_layers_without_a_cache_of_their_own() -> None:
    """A shared layer gets the buffer of the block it reads, a layer without any the first layer's.

    Beside recurrent layers, only layers with attention have buffers.
    """
    blocks = {"a": HEADS, "s": {"kind": "shared", "of": "a"}, "n": {"kind": "none"}}
    plain = Layer(attention=(TWO,), has_state=False)
    assert read(several(blocks, ["n", "a", "s"], "Gemma3nForCausalLM")).layers == (plain, plain, plain)
    unnamed = blocks | {"s": {"kind": "shared"}}
    assert read(several(unnamed, ["a", "s"], "Gemma3nForCausalLM")).layers == (plain, plain)
    got = read(several({"n": blocks["n"], "d": DELTA, "a": HEADS}, ["n", "d", "a"], "Qwen3NextForCausalLM"))
    nothing = Layer(attention=(), has_state=False)
    assert got.layers == (nothing, Layer(attention=(), has_state=True), plain)
    assert (got.state_layers, got.stages[0].full, got.stages[0].states) == ((1,), (2,), (1,))
    twice = read(several({"a": HEADS, "b": HEADS}, [["a", "b"]], "LlamaForCausalLM"))
    assert (twice.layers, twice.stages[0].full) == ((Layer(attention=(TWO, TWO), has_state=False),), (0, 0))
    beside = read(several({"a": INDEXED, "c": SHORT}, [["a", "c"]], "DeepseekV32ForCausalLM"))
    assert beside.layers == (Layer(attention=(replace(LATENT, index_dim=128),), has_state=True, index_dim=128),)


STATES: list[tuple[str, dict[str, Any], int, State]] = [
    # 2 x 2 x 32 + 4 x 16 channels, 4 heads of 32 x 16.
    ("delta", DELTA, 1, State(conv=((3, 192),), temporal=(4, 512))),
    ("delta on 2", DELTA, 2, State(conv=((3, 96),), temporal=(2, 512))),
    # 2 key heads on 4 ranks are made 4: (4 x 64 + 4 x 16) / 4.
    ("delta on 4", DELTA, 4, State(conv=((3, 80),), temporal=(1, 512))),
    # 8 x 64 and one group of 2 x 16; on 4 ranks 4 groups: (512 + 128) / 4.
    ("mamba2", MAMBA2, 1, State(conv=((3, 544),), temporal=(8, 1024))),
    ("mamba2 on 4", MAMBA2, 4, State(conv=((3, 160),), temporal=(2, 1024))),
    ("short", SHORT, 1, State(conv=((3, 256),), temporal=(0,))),
    ("short on 4", SHORT, 4, State(conv=((3, 64),), temporal=(0,))),
    ("lightning", {"kind": "lightning", "heads": 8, "head_dim": 32}, 2, State(conv=(), temporal=(4, 1024))),
    ("kda", KDA, 2, State(conv=((3, 192),), temporal=(2, 1024))),
]


@pytest.mark.parametrize(("kind", "tp", "expected"), [row[1:] for row in STATES], ids=[row[0] for row in STATES])
def test_states_of_one_rank(kind: dict[str, Any], tp: int, expected: State) -> None:
    """Convolutions keep kernel - 1 inputs; channels and heads are divided, groups that do not divide are copied."""
    got = read(several({"s": kind, "a": HEADS}, ["s", "a"], "Lfm2ForCausalLM"), tp).state
    assert got == expected
    assert got.conv_elements == sum(rows * width for rows, width in expected.conv)


@pytest.mark.parametrize(
    ("kind", "words"),
    [(SHORT | {"dim": 250}, "250 is not divisible by 4"), (KDA | {"heads": 6}, "is not divisible by 4")],
)
def test_states_that_do_not_divide_are_refused(kind: dict[str, Any], words: str) -> None:
    """A single run of channels is never copied, heads neither."""
    with pytest.raises(EngineRefusal) as refused:
        read(several({"s": kind, "a": HEADS}, ["s", "a"], "Lfm2ForCausalLM"), 4)
    assert words in str(refused.value)


def test_inkling_states() -> None:
    """3 rows over K and V of both pools' heads on the rank, at least one, and twice over the hidden state."""
    blocks = {"l": HEADS | {"window": 128, "groups": 4}, "f": HEADS, "c": SHORT}
    pattern = [["l", "c"], ["f", "c"]]
    for tp, full, local in ((1, 128, 256), (2, 64, 128), (4, 64, 64), (8, 64, 64)):
        got = read(several(blocks, pattern, "InklingForConditionalGeneration", hidden_size=256), tp)
        assert got.state == State(conv=((3, full),) * 2 + ((3, local),) * 2 + ((3, 256),) * 2, temporal=(0,))
    unsaid = read(several(blocks, pattern, "InklingForConditionalGeneration"), 1).state
    assert unsaid == State(conv=((3, 128),) * 2 + ((3, 256),) * 2 + ((3, 0),) * 2, temporal=(0,))
    assert read(several({"f": HEADS}, ["f"], "InklingForConditionalGeneration")).state is None


def test_stages() -> None:
    """Layers left over go to the last stages; as many stages as layers are fine, one more is not."""
    assert pp_bounds(7, 3) == [(0, 2), (2, 4), (4, 7)]
    assert pp_bounds(8, 3) == [(0, 2), (2, 5), (5, 8)]
    assert pp_bounds(6, 3) == [(0, 2), (2, 4), (4, 6)]
    model = several({"a": HEADS}, ["a", "a"], "LlamaForCausalLM")
    assert [stage.full for stage in read(model, pp=2).stages] == [(0,), (1,)]
    with pytest.raises(EngineRefusal):
        read(model, pp=3)


def settings(model: Model, **asked: Any) -> Settings:
    made = started("sglang", model, **asked)
    assert isinstance(made, SglangPlanner)
    return made.settings


def llama(**more: Any) -> Model:
    return model_of(HEADS, cls=more.pop("cls", "LlamaForCausalLM"), **more)


DEFAULT = Settings(
    kv="bfloat16", model_dtype="bfloat16", state_dtype="float32", page=1, attn_tp=1, attn_dp=1, pp=1, context_len=2048,
    radix=True, overlap=True, strategy="no_buffer", mamba_ratio=0.9, swa_ratio=None, hybrid_swa=True, eviction=128,
    reserve_mib=0, max_running=None, max_total=None, chunk=None, mamba_slots=None, prefix_tails=None,
    attention_backend=None, dsa_prefill=None, dsa_decode=None,
)  # fmt: skip


def test_every_setting() -> None:
    """The defaults of a config that names no length, and every option in its place."""
    assert settings(llama()) == DEFAULT
    assert settings(llama(max_context=512)) == replace(DEFAULT, context_len=512)
    asked: dict[str, Any] = {
        "page_size": 16, "context_length": 100, "kv_cache_dtype": "fp8_e5m2", "max_running_requests": 9,
        "max_total_tokens": 640, "chunked_prefill_size": 64, "disable_radix_cache": True,
        "disable_overlap_schedule": True, "swa_full_tokens_ratio": 0.25, "swa_prefix_tails": 5,
        "disable_hybrid_swa_memory": True, "mamba_full_memory_ratio": 0.5, "max_mamba_cache_size": 11,
        "mamba_ssm_dtype": "float16", "mamba_radix_cache_strategy": "extra_buffer", "dp_size": 2,
        "attention_backend": "triton", "dsa_prefill_backend": "fa3", "dsa_decode_backend": "tilelang",
        "swa_eviction_interval": 7,
    }  # fmt: skip
    assert settings(llama(), layout=Layout(tp=4, pp=2), **asked) == Settings(
        kv="fp8_e5m2", model_dtype="bfloat16", state_dtype="float16", page=16, attn_tp=2, attn_dp=2, pp=2,
        context_len=100, radix=False, overlap=False, strategy="extra_buffer", mamba_ratio=0.5, swa_ratio=0.25,
        hybrid_swa=False, eviction=7, reserve_mib=0, max_running=9, max_total=640, chunk=64, mamba_slots=11,
        prefix_tails=5, attention_backend="triton", dsa_prefill="fa3", dsa_decode="tilelang",
    )  # fmt: skip
    for interval, tokens in ((0, 128), (1, 1), (2, 2), (128, 128)):
        assert settings(llama(), swa_eviction_interval=interval).eviction == tokens
    for running, groups, each in ((9, 2, 4), (1, 2, 1), (0, 1, 1), (2, 2, 1), (4, 2, 2)):
        made = settings(llama(), layout=Layout(tp=2), dp_size=groups, max_running_requests=running)
        assert made.running_per_group == each
    assert DEFAULT.running_per_group is None


def test_the_type_of_the_cache() -> None:
    """auto and the model's own type are the model's; float32 runs in float16, Gemma in bfloat16; bf16 is bfloat16."""
    gemma, v4 = {"architecture": "gemma2"}, {"cls": "DeepseekV4ForCausalLM"}
    four = model_of({"kind": "hca", "heads": 8, "head_dim": 512, "tokens_per_slot": 128, "window": 128}, **v4)
    cases: list[tuple[Model, dict[str, Any], str, str]] = [
        (llama(), {"kv_cache_dtype": "auto"}, "bfloat16", "bfloat16"),
        (llama(), {"kv_cache_dtype": "bf16"}, "bfloat16", "bfloat16"),
        (llama(dtype="float16"), {"kv_cache_dtype": "bf16"}, "bfloat16", "float16"),
        (llama(dtype="float16"), {"kv_cache_dtype": "auto"}, "float16", "float16"),
        (llama(dtype="float16"), {}, "float16", "float16"),
        (llama(dtype="float32"), {}, "float16", "float16"),
        (llama(dtype="float32", **gemma), {}, "bfloat16", "bfloat16"),
        (llama(dtype="float16", **gemma), {}, "float16", "float16"),
        (llama(dtype="float32", architecture="llama"), {}, "float16", "float16"),
        (llama(), {"types": {"key": "fp8_e5m2", "value": "fp8_e5m2"}}, "fp8_e5m2", "bfloat16"),
        (llama(), {"types": {"key": "float16", "value": "float16"}}, "float16", "bfloat16"),
        (four, {}, "fp8_e4m3", "bfloat16"),
        (four, {"kv_cache_dtype": "auto"}, "fp8_e4m3", "bfloat16"),
    ]
    for model, asked, kv, own in cases:
        got = settings(model, **asked)
        assert (got.kv, got.model_dtype) == (kv, own), asked
    for kv, item, packed in (("float16", 2, False), ("fp8_e5m2", 1, False), ("mxfp8", 1, False), ("nvfp4", 1, True),
                             ("fp4_mx_block16", 1, True), ("float32", 4, False)):  # fmt: skip
        made = replace(DEFAULT, kv=kv)
        assert (made.element_bytes, made.is_fp4) == (item, packed)


def test_the_type_of_states() -> None:
    """mamba_ssm_dtype of the config counts for listed classes and where no class is named; else float32."""
    for cls, stated, expected in (
        ("Qwen3NextForCausalLM", "bfloat16", "bfloat16"),
        ("Qwen3NextForCausalLM", "float16", "float16"),
        ("Qwen3NextForCausalLM", "float32", "float32"),
        ("Qwen3NextForCausalLM", "fp8_e4m3", "float32"),
        ("GraniteMoeHybridForCausalLM", "bfloat16", "float32"),
        (None, "bfloat16", "bfloat16"),
    ):
        model = several({"d": DELTA, "a": HEADS}, ["d", "a"], cls, facts={"mamba_ssm_dtype": stated})
        assert settings(model).state_dtype == expected, (cls, stated)
        assert settings(model, mamba_ssm_dtype="float16").state_dtype == "float16"
        assert settings(model, types={"state": "bfloat16"}).state_dtype == "bfloat16"


def test_default_pages() -> None:
    """1, or what the pool demands: 64 physical tokens of the indexer times its group, 256 for DeepSeek-V4."""
    pooled = MLA | {"indexer": {"head_dim": 128, "tokens_per_slot": 4}}
    four = {"kind": "hca", "heads": 8, "head_dim": 512, "tokens_per_slot": 128, "window": 128}
    for kind, cls, page in (
        (HEADS, "LlamaForCausalLM", 1),
        (INDEXED, "DeepseekV32ForCausalLM", 64),
        (INDEXED, "DeepseekV2ForCausalLM", 1),
        (pooled, "Glm5NextForConditionalGeneration", 256),
        (four, "DeepseekV4ForCausalLM", 256),
    ):
        assert settings(model_of(kind, cls=cls)).page == page, cls
    for page in (64, 128, 255, 257, 258, 512):
        with pytest.raises(EngineRefusal) as refused:
            started("sglang", model_of(pooled, cls="Glm5NextForConditionalGeneration"), page_size=page)
        assert f"got page_size={page} with index_kpool=4" in str(refused.value)
        assert refused.value.fix == "use page_size=256"
