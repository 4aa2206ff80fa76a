"""SGLang's tables, read directly: option names, types of the cache and their names in torch.

Source: sglang 0.5.23, srt/server_args.py; torch's names as srt/mem_cache/memory_pool.py logs them.
"""

from __future__ import annotations

from kvcalc.engines.sglang import settings

#: name:how it is read=default, and the choices.
OPTIONS = """
page_size:count
context_length:tokens
kv_cache_dtype:choice auto bf16 bfloat16 fp8_e4m3 fp8_e5m2 mxfp8 nvfp4 fp4_mx_block16
max_running_requests:count
max_total_tokens:count
chunked_prefill_size:count
disable_radix_cache:switch=False
disable_overlap_schedule:switch=False
swa_full_tokens_ratio:fraction
swa_prefix_tails:count
disable_hybrid_swa_memory:switch=False
mamba_full_memory_ratio:ratio=0.9
max_mamba_cache_size:count
mamba_ssm_dtype:choice float32 bfloat16 float16
mamba_radix_cache_strategy:choice=no_buffer no_buffer extra_buffer extra_buffer_lazy
dp_size:count=1
attention_backend:choice triton flashinfer trtllm_mha fa3 fa4 flashmla cutlass_mla trtllm_mla
dsa_prefill_backend:choice flashmla_sparse flashmla_kv fa3 tilelang trtllm
dsa_decode_backend:choice flashmla_sparse flashmla_kv fa3 tilelang trtllm
enable_multimodal:switch
language_model_only:switch=False
vlm_cache_size_mb:count=100
swa_eviction_interval:count=128
mem_fraction_static:fraction
"""


def test_options() -> None:
    """Every option by SGLang's name, how it is read, its default and its choices."""
    found = []
    for option in settings.OPTIONS:
        default = "" if option.default is None else f"={option.default}"
        found.append(" ".join([f"{option.name}:{option.parse}{default}", *option.choices]))
    assert found == OPTIONS.split("\n")[1:-1]


def test_types() -> None:
    """torch's name and bytes of each type; fp4 packs two elements into the byte that the pool's type counts."""
    fp4 = "torch.float4_e2m1fn_x2"
    assert dict(settings.TORCH) == {
        "bfloat16": ("torch.bfloat16", 2),
        "float16": ("torch.float16", 2),
        "float32": ("torch.float32", 4),
        "fp8_e4m3": ("torch.float8_e4m3fn", 1),
        "fp8_e5m2": ("torch.float8_e5m2", 1),
        "mxfp8": ("torch.float8_e4m3fn", 1),
        "nvfp4": (fp4, 1),
        "fp4_mx_block16": (fp4, 1),
    }
