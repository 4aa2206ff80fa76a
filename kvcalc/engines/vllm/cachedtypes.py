"""vLLM's KV cache dtypes (`--kv-cache-dtype`): bytes that one token of one head takes.

Source: vLLM 0.33.0 config/cache.py (CacheDType), v1/attention/backends/triton_attn.py (per-token-head),
v1/attention/backends/flashinfer.py (nvfp4), utils/torch_utils.py (nvfp4_kv_cache_full_dim),
model_executor/layers/quantization/turboquant/config.py.
"""

from __future__ import annotations

from kvcalc.errors import EngineRefusal, UsageError
from kvcalc.units import ceil_div

#: preset -> (bits per key element, bits per value element); 8-bit keys are plain fp8.
TURBOQUANT = {
    "turboquant_k8v4": (8, 4),
    "turboquant_4bit_nc": (4, 4),
    "turboquant_k3v4_nc": (3, 4),
    "turboquant_3bit_nc": (3, 3),
}
PER_TOKEN_HEAD = ("int8_per_token_head", "fp8_per_token_head", "int4_per_token_head")
NATIVE = ("auto", "bfloat16", "float16")
FP8 = ("fp8", "fp8_e4m3", "fp8_e5m2")
#: packed latent + rope + scales of sparse MLA: bytes per token, not derivable from the width.
DS_MLA = {"fp8_ds_mla": 656, "nvfp4_ds_mla": 352}

CACHE_DTYPES = (*NATIVE, *FP8, *DS_MLA, *TURBOQUANT, *PER_TOKEN_HEAD, "nvfp4")

#: kvcalc's dtype name -> vLLM's.
_NAMES = {"bfloat16": "bfloat16", "float16": "float16", "fp8_e4m3": "fp8", "fp8_e5m2": "fp8_e5m2", "nvfp4": "nvfp4"}

#: two float32 scales beside each head's K and V.
_SCALE_BYTES = 2 * 4


def vllm_name(key: str, value: str, model_dtype: str) -> str:
    """The engine's word for the element types asked for; `auto` where they are the model's own.

    Raises: EngineRefusal for types vLLM does not store.
    """
    if key != value:
        raise EngineRefusal(
            f"vLLM stores K and V in one type, not {key} and {value}", fix="give one --kv-dtype", field="kv-dtype"
        )
    if key == model_dtype or (key == "float32" and model_dtype == "float32"):
        return "auto"
    if key not in _NAMES:
        raise EngineRefusal(
            f"vLLM has no KV cache dtype {key}",
            fix=f"one of: {', '.join(_NAMES)}; vLLM's own layouts by -o kv_cache_dtype=NAME",
            field="kv-dtype",
            value=key,
        )
    return _NAMES[key]


def is_quantized(name: str) -> bool:
    return name not in NATIVE


def storage(name: str, model_dtype: str) -> str:
    """What vLLM compares as the layer's dtype and quantisation mode.

    `auto` on a bfloat16 model and `bfloat16` are the same storage; `fp8` and `fp8_e4m3` too.
    """
    if name == "auto":
        return model_dtype
    return "fp8" if name in FP8 else name


def head_bytes(name: str, key_dim: int, value_dim: int, native_bytes: int) -> int:
    """Bytes of K and V of one head of one token (scales included).

    >>> head_bytes("turboquant_k8v4", 128, 128, 2), head_bytes("int4_per_token_head", 128, 128, 2)
    (196, 136)

    Raises: EngineRefusal for nvfp4 with unequal widths.
    """
    if name in NATIVE:
        return (key_dim + value_dim) * native_bytes
    if name in FP8:
        return key_dim + value_dim
    if name in TURBOQUANT:
        key_bits, value_bits = TURBOQUANT[name]
        # 8-bit keys carry no norm; packed ones end in a float16 norm, values in a float16 scale and zero point.
        key = key_dim if key_bits == 8 else ceil_div(key_dim * key_bits, 8) + 2
        size = key + ceil_div(value_dim * value_bits, 8) + 4
        return size + size % 2  # slots are rounded up to an even number
    if name == "nvfp4":
        if key_dim != value_dim:
            raise EngineRefusal(
                "vLLM's nvfp4 cache needs equal K and V head widths", fix="take another KV type", field="kv_cache_dtype"
            )
        return 2 * (key_dim // 2 + key_dim // 16)
    if name in PER_TOKEN_HEAD:
        half = name.startswith("int4")
        return (key_dim // 2 + value_dim // 2 if half else key_dim + value_dim) + _SCALE_BYTES
    raise UsageError(
        f"kv_cache_dtype {name} is a layout of latent attention only",
        fix="take fp8 or auto",
        field="kv_cache_dtype",
        value=name,
    )


def latent_bytes(name: str, width: int, native_bytes: int) -> int:
    """Bytes of one token's latent and rope key (MLA: one vector, no V)."""
    if name in DS_MLA:
        return DS_MLA[name]
    return width * (1 if name in FP8 else native_bytes)
