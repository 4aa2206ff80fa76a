"""vLLM's rules for one architecture (the config's model_type), each on both sides of its condition.

Source: vLLM 0.33.0 model_executor/models and layers/mamba, at the places kvcalc/engines/vllm/archs.py cites.
"""

from __future__ import annotations

from typing import Any

import pytest
from starting import model_of, started

from kvcalc.core.model import Model
from kvcalc.core.plan import Load
from kvcalc.engines.vllm import archs
from kvcalc.engines.vllm.archs import StateClass, state_class
from kvcalc.engines.vllm.versions import RULES
from kvcalc.errors import EngineRefusal

HEADS = {"kind": "gqa", "heads": 8, "groups": 2, "head_dim": 64}
LOCAL = HEADS | {"window": 128}


def plain(architecture: str | None = None, **more: Any) -> Model:
    made: Model = model_of(HEADS, architecture=architecture, **more)
    return made


def test_layers_of_recurrences() -> None:
    """Which keep a prefill checkpoint, where, and whose conv tail grows with drafts (all but mamba1's)."""
    new, old = RULES["0.33"], RULES["0.28"]
    simple = StateClass(checkpoint=False, checkpoint_multiple=1, drafts_in_conv=True)
    every_64 = StateClass(checkpoint=True, checkpoint_multiple=64, drafts_in_conv=True)
    assert StateClass() == simple
    assert state_class("mamba1", plain(), new, 90, 0) == StateClass(drafts_in_conv=False)
    assert state_class("mamba2", plain(), new, 90, 0) == StateClass(checkpoint=True, checkpoint_multiple=1)
    assert state_class("mamba2", plain(), old, 90, 0) == simple
    for kind in ("kda", "short_conv", "lightning"):
        assert state_class(kind, plain(), new, 90, 128) == simple
    for capability, width, expected in (
        (90, 128, every_64), (90, 64, every_64), (89, 128, simple), (80, 128, simple), (100, 128, every_64),
        (103, 128, every_64), (120, 128, every_64), (100, 64, simple), (120, 64, simple), (110, 128, simple),
        (130, 128, simple),
    ):  # fmt: skip
        assert state_class("gated_deltanet", plain(), new, capability, width) == expected, (capability, width)
    assert state_class("gated_deltanet", plain(), RULES["0.32"], 90, 128) == simple
    assert state_class("gated_deltanet", plain("olmo_hybrid"), new, 90, 128) == simple
    with pytest.raises(EngineRefusal, match="no layer for rwkv7"):
        state_class("rwkv7", plain(), new, 90, 64)


@pytest.mark.parametrize(
    ("architecture", "one", "several"),
    [
        (None, False, False), ("llama", False, False), ("gpt_oss", True, True), ("mimo_v2_flash", True, True),
        ("granite", False, True), ("granitemoe", False, True), ("granitemoehybrid", False, False),
        ("my_gpt_oss", False, False),
    ],
)  # fmt: skip
def test_who_has_sinks(architecture: str | None, one: bool, several: bool) -> None:
    """gpt-oss and MiMo-V2 always; Granite where its layers differ."""
    both = model_of({"a": LOCAL, "b": HEADS}, pattern=["a", "b"], architecture=architecture)
    assert (archs.has_sinks(plain(architecture)), archs.has_sinks(both)) == (one, several)


def test_own_cache_formats_are_refused() -> None:
    """By the beginning of the model type: these seven, and nothing else."""
    for name in ("inkling", "minimax_m3", "glm5_next", "qwen4_exp", "deepseek_v41", "step5", "dots3_note"):
        for architecture in (name, f"{name}_text"):
            with pytest.raises(EngineRefusal, match=f"no rules for the cache formats of {name}$"):
                archs.check_supported(plain(architecture), crosses=False)
    archs.check_supported(plain(), crosses=False)
    for fine in ("minimax_m2", "glm5", "step3", "my_step5", "qwen3"):
        archs.check_supported(plain(fine), crosses=False)
    crossing: tuple[tuple[bool, str | None], ...] = ((True, "whisper"), (True, None), (False, "bart"))
    for crosses, crossed in crossing:
        archs.check_supported(plain(crossed), crosses=crosses)
    with pytest.raises(EngineRefusal, match="no encoder-decoder model bart"):
        archs.check_supported(plain("bart"), crosses=True)


def test_recurrent_models_that_were_compared() -> None:
    """These model types, and what begins with them; the rest is an estimate that says so."""
    compared = (
        "falcon_h1 falcon_mamba granitemoehybrid jamba kimi_linear lfm2 lfm2_moe mamba mamba2 nemotron_h qwen3_5 "
        "qwen3_5_moe_text qwen3_next zamba2"
    )
    for name in compared.split():
        assert archs.checked_states(plain(name)), name
    others: tuple[str | None, ...] = (
        "bamba",
        "olmo_hybrid",
        "qwen3",
        "plamo2",
        "minimax_m1",
        "nemotron",
        "falcon",
        None,
    )
    assert not any(archs.checked_states(plain(other)) for other in others)
    mamba = {"kind": "mamba2", "heads": 8, "head_dim": 64, "state_dim": 128, "groups": 2, "conv_kernel": 4}
    for architecture, exactness in (("mamba2", "exact"), ("other", "estimate"), (None, "estimate")):
        made: Any = started("vllm", model_of(mamba, architecture=architecture))
        said = f"recurrent layers of {architecture} were not compared with vLLM's numbers"
        assert (made.exactness, said in made.warnings) == (exactness, exactness == "estimate")
    made = started("vllm", plain("other"))
    assert (made.exactness, made.warnings) == ("exact", ())


def test_windows_by_architecture() -> None:
    """W + 1 for three model types; for four, windows of some layers only are ignored; gpt-oss slides on even layers."""
    both = {"a": HEADS, "b": LOCAL}
    for name in ("cohere2", "cohere2_moe", "domyn_edge"):
        assert archs.window_tokens(plain(name), 128) == 129
    assert archs.window_tokens(plain("cohere"), 128) == archs.window_tokens(plain(), 128) == 128
    for name in ("qwen2", "qwen2_moe", "qwen3", "qwen3_moe"):
        assert archs.ignores_window(model_of(both, pattern=["a", "b"], architecture=name))
        assert not archs.ignores_window(plain(name))
    assert not archs.ignores_window(model_of(both, pattern=["a", "b"], architecture="qwen3_next"))
    oss = model_of(both, pattern=["a", "b", "b"], layers=3, architecture="gpt_oss")
    assert archs.layer_blocks(oss) == (("b",), ("a",), ("b",))
    three = both | {"c": HEADS | {"head_dim": 128}}
    for blocks, pattern in ((both, ["a", "b"]), (three, ["a", "b", "c"])):
        other = model_of(blocks, pattern=pattern, layers=len(pattern), architecture="gpt_oss" if "c" in blocks else "x")
        assert archs.layer_blocks(other) == tuple((name,) for name in pattern)


def test_types_of_recurrent_states() -> None:
    """KDA float32 unless Kimi-K3 is told otherwise; lightning the conv type; the asked one; each family's own."""

    def dtype(architecture: str | None, kind: str, asked: str | None = None, **more: Any) -> str:
        return archs.ssm_dtype(plain(architecture, **more), kind, asked, "float16")

    assert dtype("kimi_linear", "kda") == dtype("kimi_linear", "kda", "bfloat16") == "float32"
    assert (dtype("kimi_k3", "kda"), dtype("kimi_k3_text", "kda", "bfloat16")) == ("float32", "bfloat16")
    assert dtype(None, "kda", "bfloat16") == "float32"
    assert dtype("minimax", "lightning", "float32") == "float16"
    assert (dtype("mamba2", "mamba2"), dtype("mamba2", "mamba2", "float32")) == ("float16", "float32")
    assert dtype("nemotron_h", "mamba2") == "float32"
    assert dtype("nemotron_h", "mamba2", facts={"mamba_ssm_cache_dtype": "bfloat16"}) == "bfloat16"
    assert dtype("nemotron_h", "mamba2", "float16") == "float16"
    assert dtype("mamba2", "mamba2", facts={"mamba_ssm_cache_dtype": "bfloat16"}) == "float16"
    assert dtype("qwen3_5", "gated_deltanet") == "float16"
    assert dtype("qwen3_5", "gated_deltanet", state_dtype="float32") == "float32"
    assert (
        dtype("qwen3_5", "gated_deltanet", facts={"mamba_ssm_dtype": "bfloat16"}, state_dtype="float32") == "bfloat16"
    )
    assert dtype("qwen3_next", "gated_deltanet", state_dtype="float32") == "float16"


def test_cache_types_by_architecture() -> None:
    """DeepSeek-V3.2 and GLM-5 change some names, Falcon ignores them, the others pass them on."""
    names = ("auto", "bfloat16", "fp8", "nvfp4")
    assert [archs.kv_dtype(plain("deepseek_v32"), name, 100) for name in names] == ["auto", "auto", "fp8", "nvfp4"]
    assert [archs.kv_dtype(plain("glm_moe_dsa"), name, 103) for name in names] == ["fp8_e4m3", *names[1:]]
    for architecture, capability in (("glm_moe_dsa", 90), ("glm_moe_dsa", 120), ("llama", 100), (None, 100)):
        assert [archs.kv_dtype(plain(architecture), name, capability) for name in names] == list(names)
    assert archs.layer_kv_dtype(plain("falcon"), "fp8") == "auto"
    assert archs.layer_kv_dtype(plain("falcon_h1"), "fp8") == archs.layer_kv_dtype(plain(), "fp8") == "fp8"
    with pytest.raises(EngineRefusal) as refused:
        archs.kv_dtype(plain("deepseek_v4"), "bfloat16", 90)
    assert (refused.value.field, refused.value.value) == ("kv_cache_dtype", "bfloat16")


def test_qwen3_5_files_may_leave_out_a_type() -> None:
    """A note where neither the facts, nor the file, nor the user say the type of states; others have a rule."""
    assert len(archs.unstated(plain("qwen3_5_text"), None)) == 1
    for model in (plain("qwen3_5", facts={"mamba_ssm_dtype": "float32"}), plain("qwen3_5", state_dtype="float32"),
                  plain("qwen3_next"), plain()):  # fmt: skip
        assert archs.unstated(model, None) == ()
    assert archs.unstated(plain("qwen3_5"), "float32") == ()


#: Last release -> architectures. Source: model_executor/models/registry.py `_PREVIOUSLY_SUPPORTED_MODELS`.
DROPPED = {
    "0.9.2": "Phi3Small", "0.10.2": "Phi4Flash Motif", "0.12.0": "", "0.22.0": "",
    "0.23.0": "Bamba MiniMax MiniMaxText01 MiniMaxM1 InternLM Xverse Dots1 BaiChuan Baichuan",
    "0.24.0": "Aquila Grok1 Grok1Model", "0.25.0": "TeleChat Persimmon Fuyu", "0.26.0": "Plamo2 Ouro",
    "0.28.0": "Arctic",
}  # fmt: skip


def test_dropped_architectures() -> None:
    """Every class of _DROPPED with its last release: those named after their model, and four named otherwise."""
    expected = {f"{name}ForCausalLM": last for last, names in DROPPED.items() for name in names.split()}
    expected |= {"MllamaForConditionalGeneration": "0.10.2", "Phi4MultimodalForCausalLM": "0.12.0"}
    expected |= {"JAISLMHeadModel": "0.22.0", "QWenLMHeadModel": "0.23.0"}
    assert expected == archs._DROPPED


def test_zamba2_builds_attention_first() -> None:
    """Its shared attention blocks come before the state layers: the first group is the attention's."""
    mamba = {"kind": "mamba2", "heads": 8, "head_dim": 64, "state_dim": 128, "groups": 2, "conv_kernel": 4}
    for architecture, first in (("zamba2", "FullAttentionSpec"), ("jamba", "MambaSpec")):
        model = model_of({"m": mamba, "a": HEADS}, pattern=["m", "a"], architecture=architecture)
        groups: Any = started("vllm", model).report(Load(4096))["groups"]
        assert groups[0]["kind"] == first
