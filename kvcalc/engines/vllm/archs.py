"""Rules vLLM has for one architecture (the config's model_type), each with its source.

Everything here is a statement about vLLM's model files; what a layer stores comes from its components.
"""

from __future__ import annotations

from dataclasses import dataclass

from kvcalc.core.model import Model
from kvcalc.errors import EngineRefusal

#: sparse latent attention with an indexer (DSA). Source: model_executor/models/deepseek_v2.py `Indexer`.
SPARSE_LATENT = ("deepseek_v32", "glm_moe_dsa")
DEEPSEEK_V4 = ("deepseek_v4",)

#: attention modules are built before the state layers. Source: model_executor/models/zamba2.py (shared blocks).
ATTENTION_FIRST = ("zamba2",)

#: Attention is built without the cache config, so it ignores --kv-cache-dtype.
#: Source: model_executor/models/falcon.py:173,189 (0.33.0).
_NATIVE_CACHE_ONLY = ("falcon",)

#: A window of W means W + 1 tokens. Source: model_executor/models/commandr.py:244 (0.33.0).
_WINDOW_PLUS_ONE = ("cohere2",)

#: Even layers slide, whatever layer_types says. Source: model_executor/models/gpt_oss.py:175 (0.33.0).
_EVEN_LAYERS_SLIDE = ("gpt_oss",)

#: removed from the model registry: architecture -> last release. Source: model_executor/models/registry.py:841.
_REMOVED = {"bamba": "0.23.0", "minimax": "0.23.0", "minimax_text_01": "0.23.0", "minimax_m1": "0.23.0"}


@dataclass(frozen=True, slots=True, kw_only=True)
class StateClass:
    """How vLLM's layer class for one kind of recurrence handles its state.

    checkpoint: one more block while prefix caching (the prefill checkpoint); checkpoint_multiple: and blocks
    are a multiple of this. drafts_in_conv: the conv tail grows by the drafted tokens.
    """

    checkpoint: bool = False
    checkpoint_multiple: int = 1
    drafts_in_conv: bool = True


def state_class(kind: str, model: Model, capability: int, key_dim: int) -> StateClass:
    """Source: layers/mamba/mamba_mixer.py, mamba_mixer2.py:1117, gdn/qwen_gdn_linear_attn.py:148,686, short_conv.py.

    Raises: EngineRefusal for recurrences vLLM has no layer for.
    """
    if kind == "mamba1":
        return StateClass(drafts_in_conv=False)
    if kind == "mamba2":
        return StateClass(checkpoint=True)
    if kind == "gated_deltanet":
        # FlashInfer's prefill exports states every 64 tokens: Hopper always, Blackwell for key heads of 128.
        flashinfer = capability == 90 or (capability // 10 in (10, 12) and key_dim == 128)
        if flashinfer and model.architecture not in ("olmo_hybrid",):
            return StateClass(checkpoint=True, checkpoint_multiple=64)
        return StateClass()
    if kind in ("kda", "short_conv", "lightning"):
        return StateClass()
    raise EngineRefusal(f"vLLM has no layer for {kind}", fix="engines: kvcalc engines")


def check_supported(model: Model) -> None:
    """Raises: EngineRefusal for architectures vLLM dropped."""
    last = _REMOVED.get(model.architecture or "")
    if last is not None:
        raise EngineRefusal(f"vLLM dropped {model.architecture} after {last}", fix="there are no numbers to compare to")


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


def ssm_dtype(model: Model, asked: str | None, conv_dtype: str) -> str:
    """Type of the recurrent state.

    Source: models/config.py:812 (Nemotron-H), :953 (Qwen3.5); kimi_gdn_linear_attn.py:157 (KDA: always float32).
    """
    architecture = model.architecture or ""
    if architecture == "kimi_linear":
        return "float32"
    if asked is not None:
        return asked
    if architecture.startswith("nemotron_h"):
        return str(model.facts.get("mamba_ssm_cache_dtype", "float32"))
    if architecture.startswith("qwen3_5"):
        return str(model.facts.get("mamba_ssm_dtype", model.state_dtype or conv_dtype))
    return conv_dtype
