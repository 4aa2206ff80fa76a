"""Rules vLLM has for one architecture (the config's model_type), each with its source.

Everything here is a statement about vLLM's model files; what a layer stores comes from its components.
"""

from __future__ import annotations

from dataclasses import dataclass

from kvcalc.core.model import Model
from kvcalc.engines.vllm.versions import Rules
from kvcalc.errors import EngineRefusal

#: sparse latent attention with an indexer (DSA). Source: model_executor/models/deepseek_v2.py `Indexer`.
SPARSE_LATENT = ("deepseek_v32", "glm_moe_dsa")
DEEPSEEK_V4 = ("deepseek_v4",)

#: attention modules are built before the state layers. Source: model_executor/models/zamba2.py (shared blocks).
ATTENTION_FIRST = ("zamba2",)

#: Attention is built without the cache config, so it ignores --kv-cache-dtype.
#: Source: model_executor/models/falcon.py:173,189 (0.33.0).
_NATIVE_CACHE_ONLY = ("falcon",)

#: A window of W means W + 1 tokens. Source: models commandr.py:244, cohere2_moe.py:256, domyn_edge.py:107.
_WINDOW_PLUS_ONE = ("cohere2", "cohere2_moe", "domyn_edge")

#: Windows of some layers only are ignored: attention is built without a window of its own.
#: Source: model_executor/models/qwen2.py:352, qwen3.py:216, engine/arg_utils.py:2288 (0.33.0).
_MIXED_WINDOWS_IGNORED = ("qwen2", "qwen2_moe", "qwen3", "qwen3_moe")

#: Even layers slide, whatever layer_types says. Source: model_executor/models/gpt_oss.py:175 (0.33.0).
_EVEN_LAYERS_SLIDE = ("gpt_oss",)

#: Dropped from the model registry: architecture -> last release with it.
#: Source: model_executor/models/registry.py `_PREVIOUSLY_SUPPORTED_MODELS` (0.33.0), text generation only.
_DROPPED = {
    "Phi3SmallForCausalLM": "0.9.2",
    "Phi4FlashForCausalLM": "0.10.2",
    "MotifForCausalLM": "0.10.2",
    "MllamaForConditionalGeneration": "0.10.2",
    "Phi4MultimodalForCausalLM": "0.12.0",
    "JAISLMHeadModel": "0.22.0",
    "BambaForCausalLM": "0.23.0",
    "MiniMaxForCausalLM": "0.23.0",
    "MiniMaxText01ForCausalLM": "0.23.0",
    "MiniMaxM1ForCausalLM": "0.23.0",
    "QWenLMHeadModel": "0.23.0",
    "InternLMForCausalLM": "0.23.0",
    "XverseForCausalLM": "0.23.0",
    "Dots1ForCausalLM": "0.23.0",
    "BaiChuanForCausalLM": "0.23.0",
    "BaichuanForCausalLM": "0.23.0",
    "AquilaForCausalLM": "0.24.0",
    "Grok1ForCausalLM": "0.24.0",
    "Grok1ModelForCausalLM": "0.24.0",
    "TeleChatForCausalLM": "0.25.0",
    "PersimmonForCausalLM": "0.25.0",
    "FuyuForCausalLM": "0.25.0",
    "Plamo2ForCausalLM": "0.26.0",
    "OuroForCausalLM": "0.26.0",
    "ArcticForCausalLM": "0.28.0",
}

#: Architectures whose layers bring cache formats of their own that are not modelled here.
#: Source: models/inkling, minimax_m3, glm5next, qwen4_exp, deepseek_v41, step5, dots3_note (0.33.0).
_OWN_FORMATS = ("inkling", "minimax_m3", "glm5_next", "qwen4_exp", "deepseek_v41", "step5", "dots3_note")

#: Recurrent architectures whose numbers were compared with vLLM's own; others are estimates.
_CHECKED_STATES = (
    "falcon_h1", "falcon_mamba", "granitemoehybrid", "jamba", "kimi_linear", "lfm2", "lfm2_moe", "mamba", "mamba2",
    "nemotron_h", "qwen3_5", "qwen3_next", "zamba2",
)  # fmt: skip

#: Encoder-decoder models that are left. Source: model_executor/models (users of CrossAttention, 0.33.0).
_ENCODER_DECODERS = ("whisper",)


@dataclass(frozen=True, slots=True, kw_only=True)
class StateClass:
    """How vLLM's layer class for one kind of recurrence handles its state.

    checkpoint: one more block while prefix caching (the prefill checkpoint); checkpoint_multiple: and blocks
    are a multiple of this. drafts_in_conv: the conv tail grows by the drafted tokens.
    """

    checkpoint: bool = False
    checkpoint_multiple: int = 1
    drafts_in_conv: bool = True


def state_class(kind: str, model: Model, rules: Rules, capability: int, key_dim: int) -> StateClass:
    """Source: layers/mamba/mamba_mixer.py, mamba_mixer2.py:1117, gdn/qwen_gdn_linear_attn.py:148,686, short_conv.py.

    Raises: EngineRefusal for recurrences vLLM has no layer for.
    """
    if kind == "mamba1":
        return StateClass(drafts_in_conv=False)
    if kind == "mamba2":
        return StateClass(checkpoint=rules.mamba2_checkpoint)
    if kind == "gated_deltanet":
        # FlashInfer's prefill exports states every 64 tokens: Hopper always, Blackwell for key heads of 128.
        flashinfer = capability == 90 or (capability // 10 in (10, 12) and key_dim == 128)
        if rules.gdn_checkpoint and flashinfer and model.architecture != "olmo_hybrid":
            return StateClass(checkpoint=True, checkpoint_multiple=64)
        return StateClass()
    if kind in ("kda", "short_conv", "lightning"):
        return StateClass()
    raise EngineRefusal(f"vLLM has no layer for {kind}", fix="engines: kvcalc engines")


def has_sinks(model: Model) -> bool:
    """Learned attention sinks: a term of the softmax, nothing in the cache, but not every backend knows them.

    Source: models/gpt_oss.py, models/mimo_v2.py (layers built with `sinks`), models/granite.py:109 (where the config
    lists layer types).
    """
    architecture = model.architecture or ""
    mixed = len(model.blocks) > 1
    return architecture.startswith(("gpt_oss", "mimo_v2")) or (architecture in ("granite", "granitemoe") and mixed)


def check_supported(model: Model, *, crosses: bool) -> None:
    """Raises: EngineRefusal for architectures vLLM dropped, or whose formats are not modelled."""
    for name in str(model.facts.get("architectures", "")).split(","):
        if name in _DROPPED:
            raise EngineRefusal(
                f"vLLM dropped {name} after {_DROPPED[name]}",
                fix="another engine, or -e ideal for the minimum",
                field="architecture",
                value=name,
            )
    architecture = model.architecture or ""
    if own := [name for name in _OWN_FORMATS if architecture.startswith(name)]:
        raise EngineRefusal(f"the vllm engine has no rules for the cache formats of {own[0]}", fix="-e ideal")
    if crosses and architecture and architecture not in _ENCODER_DECODERS:
        raise EngineRefusal(f"vLLM has no encoder-decoder model {architecture}", fix="-e ideal for the minimum")


def checked_states(model: Model) -> bool:
    """Whether a model with recurrent states is one whose numbers were compared with vLLM's."""
    return (model.architecture or "").startswith(_CHECKED_STATES)


def kv_dtype(model: Model, asked: str, capability: int) -> str:
    """The cache dtype after the model's own rule.

    Source: model_executor/models/config.py DeepseekV32ForCausalLM, GlmMoeDsaForCausalLM;
    models/deepseek_v4/attention.py `_resolve_dsv4_kv_cache_dtype`.
    """
    if model.architecture in DEEPSEEK_V4:
        if asked not in ("auto", "fp8", "fp8_e4m3", "fp8_ds_mla"):
            raise EngineRefusal(
                f"vLLM stores DeepSeek-V4 in fp8_ds_mla only, not {asked}",
                fix="drop the KV dtype, or give fp8",
                field="kv_cache_dtype",
                value=asked,
            )
        return "fp8_ds_mla"
    if model.architecture == "deepseek_v32" and asked == "bfloat16":
        return "auto"
    if model.architecture == "glm_moe_dsa" and asked == "auto" and capability // 10 == 10:
        return "fp8_e4m3"
    return asked


def layer_kv_dtype(model: Model, dtype: str) -> str:
    """The dtype the attention layers really get."""
    return "auto" if model.architecture in _NATIVE_CACHE_ONLY else dtype


def window_tokens(model: Model, window: int) -> int:
    """The window vLLM manages for a window of the config."""
    return window + 1 if model.architecture in _WINDOW_PLUS_ONE else window


def ignores_window(model: Model) -> bool:
    """Whether vLLM stores the model's windowed layers in full because others have no window."""
    if model.architecture not in _MIXED_WINDOWS_IGNORED:
        return False
    return len({getattr(kind, "window", None) is None for kind in model.blocks.values()}) > 1


def layer_blocks(model: Model) -> tuple[tuple[str, ...], ...]:
    """Blocks per layer, as vLLM builds them: mostly the model's own."""
    if model.architecture in _EVEN_LAYERS_SLIDE:
        pairs = _sliding_and_full(model)
        if pairs is not None:
            return tuple((pairs[index % 2],) for index in range(len(model.layers)))
    return model.layers


def _sliding_and_full(model: Model) -> tuple[str, str] | None:
    """Names of the one windowed and the one full block; None unless there is exactly one of each."""
    windowed = [name for name, kind in model.blocks.items() if getattr(kind, "window", None) is not None]
    full = [name for name, kind in model.blocks.items() if getattr(kind, "window", None) is None]
    return (windowed[0], full[0]) if len(windowed) == len(full) == 1 else None


def unstated(model: Model, asked_ssm_dtype: str | None) -> tuple[str, ...]:
    """What the model's file leaves out and vLLM reads from the config."""
    known = model.facts.get("mamba_ssm_dtype") or model.state_dtype or asked_ssm_dtype
    if known or not (model.architecture or "").startswith("qwen3_5"):
        return ()
    said = "the model file does not state mamba_ssm_dtype: states in the model's own type, as vLLM would keep them then"
    return (f"{said}; published Qwen3.5 and Qwen3.8 configs say float32 (--state-dtype fp32)",)


def ssm_dtype(model: Model, kind: str, asked: str | None, conv_dtype: str) -> str:
    """Type of the recurrent state of a layer of `kind`.

    Source: models/config.py:812 (Nemotron-H), :953 (Qwen3.5); mamba_utils.py `kda_state_dtype` (float32 unless
    Kimi-K3 is told otherwise), `linear_attention_state_dtype` (the conv type).
    """
    architecture = model.architecture or ""
    if kind == "kda":
        return asked if asked is not None and architecture.startswith("kimi_k3") else "float32"
    if kind == "lightning":
        return conv_dtype
    if asked is not None:
        return asked
    if architecture.startswith("nemotron_h"):
        return str(model.facts.get("mamba_ssm_cache_dtype", "float32"))
    if architecture.startswith("qwen3_5"):
        return str(model.facts.get("mamba_ssm_dtype") or model.state_dtype or conv_dtype)
    return conv_dtype
