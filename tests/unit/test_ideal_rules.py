"""The ideal engine's layouts and words, and what other engines say or refuse on unusual models; figures by hand."""

from __future__ import annotations

from typing import Any

import pytest
from starting import model_of, started

from kvcalc.core.plan import Layout, Load
from kvcalc.errors import EngineRefusal

HEADS = {"kind": "gqa", "heads": 8, "groups": 2, "head_dim": 64}
MLA = {"kind": "mla", "heads": 8, "latent_dim": 512, "rope_dim": 64}
MAMBA = {"kind": "mamba2", "heads": 8, "head_dim": 64, "state_dim": 128, "groups": 2, "conv_kernel": 4}


def tensors(model: Any, load: Load, **asked: Any) -> list[tuple[str, tuple[int, ...], int, int]]:
    plan = started("ideal", model, **asked).plan(load)
    return [(t.name, t.shape, t.count, t.bytes) for t in plan.ranks[0].tensors]


def test_arrays_of_one_device() -> None:
    """[sessions, slots, heads, width] of each layer; channels of a convolution lie in one row."""
    assert tensors(model_of(HEADS), Load(10, 3)) == [
        ("key", (3, 10, 2, 64), 2, 2 * 3 * 10 * 128 * 2),
        ("value", (3, 10, 2, 64), 2, 2 * 3 * 10 * 128 * 2),
    ]
    assert tensors(model_of(MAMBA, layers=1), Load(10, 3)) == [
        ("conv_state", (3, 3, 512 + 512), 1, 3 * 3 * 1024 * 2),
        ("ssm_state", (3, 1, 8, 8192), 1, 3 * 65536 * 4),
    ]
    lru = {"kind": "rglru", "width": 64, "conv_kernel": 4}
    assert tensors(model_of(lru, layers=1), Load(10))[0] == ("lru_conv_state", (1, 3, 64), 1, 3 * 64 * 2)
    # A block format packs whole rows: 64 channels are two blocks of 32 in 34 bytes each.
    packed = tensors(model_of(lru, layers=1), Load(10), types={"conv": "q8_0"})
    assert packed[0] == ("lru_conv_state", (1, 3, 64), 1, 3 * 68)


def test_decode_context_parallel_divides_tokens() -> None:
    """An MLA latent of 11 tokens over dcp 2: 6 on the fuller rank; states and windows are not divided."""
    layout = Layout(tp=2, dcp=2)
    assert tensors(model_of(MLA), Load(11), layout=layout)[0] == ("latent", (1, 6, 1, 512), 2, 2 * 6 * 512 * 2)
    windowed = tensors(model_of(MLA | {"window": 5}), Load(11), layout=layout)
    assert windowed[0] == ("latent", (1, 5, 1, 512), 2, 2 * 5 * 512 * 2)
    indexed = tensors(model_of(MLA | {"indexer": {"head_dim": 16}}), Load(11), layout=layout)
    assert indexed[2] == ("index_key", (1, 11, 1, 16), 2, 2 * 11 * 16 * 2)
    assert started("ideal", model_of(MLA), layout=layout).period_tokens == 2


def test_layouts_that_cannot_exist() -> None:
    """More stages than layers, dcp that does not divide tp, dcp over ranks that hold different heads."""
    for model, layout, field in (
        (model_of(HEADS), Layout(pp=3), "pp"),
        (model_of(MLA), Layout(tp=3, dcp=2), "dcp"),
        (model_of(HEADS), Layout(tp=2, dcp=2), "dcp"),
        (model_of(HEADS), Layout(tp=4, dcp=4), "dcp"),
    ):
        with pytest.raises(EngineRefusal) as refused:
            started("ideal", model, layout=layout)
        assert refused.value.field == field
    started("ideal", model_of(HEADS), layout=Layout(tp=4, dcp=2))
    started("ideal", model_of(HEADS), layout=Layout(pp=2))


def test_what_ideal_says() -> None:
    """Uneven shares warn; states and open groups are said."""
    uneven = started("ideal", model_of(HEADS | {"groups": 4}), layout=Layout(tp=3))
    assert any("does not divide key, value evenly" in text for text in uneven.warnings)
    assert started("ideal", model_of(HEADS), layout=Layout(tp=2)).warnings == ()
    states = started("ideal", model_of(MAMBA))
    assert states.assumptions[0] == "recurrent states in float32, convolution tails in bfloat16"
    open_groups = {"kind": "hca", "heads": 2, "head_dim": 16, "tokens_per_slot": 4, "window": 8}
    assert any("open compression group" in text for text in started("ideal", model_of(open_groups)).assumptions)
    assert len(started("ideal", model_of(HEADS)).assumptions) == 1
    assert started("ideal", model_of(open_groups)).saturation_tokens == 8


def test_stages_and_replicas() -> None:
    """3 layers on 2 stages: 2 and 1; 3 sessions on 2 replicas: 2 and 1."""
    made = started("ideal", model_of(HEADS, layers=3), layout=Layout(pp=2, dp=2))
    layer = 10 * 2 * 128 * 2
    assert made.plan(Load(10, 3)).by_rank() == {0: 4 * layer, 1: 2 * layer, 2: 2 * layer, 3: layer}


@pytest.mark.parametrize(
    ("engine", "model", "words"),
    [
        (
            "exllamav3",
            model_of({"a": HEADS, "b": {"kind": "shared", "of": "a"}}, pattern=["a", "b"],
                     cls="Gemma4ForConditionalGeneration"),
            "Gemma4 per-layer inputs are not implemented yet",
        ),
        ("sglang", model_of({"kind": "cross", "heads": 2, "head_dim": 2}), "cross attention is not modelled"),
        (
            "sglang",
            model_of({"a": HEADS, "b": HEADS | {"head_dim": 32}}, pattern=["a", "b"], cls="LlamaForCausalLM"),
            r"Variable GQA \(VGQA\) is not yet supported",
        ),
        ("sglang", model_of(MLA, cls="LlamaForCausalLM"), "keeps no latent cache for LlamaForCausalLM"),
        ("sglang", model_of(HEADS, cls="DeepseekV3ForCausalLM"), "DeepseekV3ForCausalLM caches a latent in SGLang"),
        ("vllm", model_of({"kind": "rwkv", "hidden_dim": 64}), "vLLM has no layer for rwkv"),
    ],
)  # fmt: skip
def test_models_an_engine_does_not_have(engine: str, model: Any, words: str) -> None:
    """Refused in words."""
    with pytest.raises(EngineRefusal, match=words):
        started(engine, model)


def test_unusual_models() -> None:
    """Chunks in MLX-LM, layers without a cache in LMDeploy, float32 checkpoints, convolutions without a state."""
    chunked = started("mlx-lm", model_of(HEADS | {"chunk": 1000}, architecture="llama4_text"))
    assert {t.slots for t in chunked.plan(Load(5000)).ranks[0].tensors} == {1256}
    plain = model_of({"a": HEADS, "b": {"kind": "none"}}, pattern=["a", "b"])
    assert started("lmdeploy", plain).plan(Load(64)).total_bytes == 64 * 2 * 128 * 2
    wide = model_of(HEADS, dtype="float32", cls="LlamaForCausalLM", max_context=4096)
    types = {"key": "float32", "value": "float32"}
    assert started("sglang", wide).report(Load(1))["cell_size"] == 2 * 2 * 128 * 2
    assert started("vllm", wide, types=types).report(Load(1))["pool_bytes_per_block"] == [2 * 16 * 2 * 128 * 2]
    conv = {"kind": "short_conv", "dim": 64, "conv_kernel": 4}
    hybrid = model_of({"c": conv, "f": HEADS}, pattern=["c", "f"], cls="Lfm2ForCausalLM", max_context=4096)
    names = [t.name for t in started("sglang", hybrid).plan(Load(16)).ranks[0].tensors]
    assert names == ["key_value", "conv_state"]
    unnamed = started("sglang", model_of(HEADS))
    assert any("names no architectures" in text for text in unnamed.assumptions)
    server: Any = started("ollama", model_of(HEADS, architecture="llama"))
    assert (server.exactness, server.warnings) == ("exact", ())


def test_vllm_types_of_states() -> None:
    """Lightning attention follows the convolution's type; states that were not compared are estimates."""
    light = {"kind": "lightning", "heads": 8, "head_dim": 64}
    model = model_of({"l": light, "f": HEADS}, pattern=["l", "f"], architecture="minimax_m1_like")
    for asked, item in ((None, 2), ("float32", 4)):
        options = {} if asked is None else {"mamba_cache_dtype": asked}
        made: Any = started("vllm", model, **options)
        groups = made.report(Load(4096))["groups"]
        state = next(group for group in groups if group["kind"] == "MambaSpec")
        content = state["page_bytes"] - state["padding_bytes_per_block"]
        assert content == 8 * 64 * 64 * item
        assert made.exactness == "estimate"
        assert any("were not compared" in text for text in made.warnings)


def test_transformers_window_of_one() -> None:
    """keys[..., -1 + 1 :, :] is everything, so a window of one token is never cut; a static cache keeps the one."""
    model = model_of(HEADS | {"window": 1}, architecture="mistral")
    row = 2 * 2 * 128 * 2
    for options, tokens in (({}, 10), ({"view": "prefill"}, 10), ({"view": "resident"}, 10), ({"cache": "static"}, 1)):
        made = started("transformers", model, **options)
        assert made.plan(Load(10)).total_bytes == tokens * row
        assert made.report(Load(10)) == {}
