"""SGLang's launch options under its own names, and what it would choose for the ones not given.

Source: sglang 0.5.23, srt/server_args.py; defaults: srt/arg_groups/overrides.py, memory_hook.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from kvcalc.core.model import Model
from kvcalc.engines.base import Option, Setup
from kvcalc.engines.sglang.classes import COMPRESSED
from kvcalc.errors import EngineRefusal, UsageError

_KV_TYPES = ("auto", "bf16", "bfloat16", "fp8_e4m3", "fp8_e5m2", "mxfp8", "nvfp4", "fp4_mx_block16")
_STATE_TYPES = ("float32", "bfloat16", "float16")

OPTIONS = (
    Option("page_size", "count", "tokens per page", None),
    Option("context_length", "tokens", "the model's maximum context; sizes req_to_token and the request limit"),
    Option("kv_cache_dtype", "choice", "element type of K and V (else --kv-dtype)", None, _KV_TYPES),
    Option("max_running_requests", "count", "most requests at once, all attention-DP groups together"),
    Option("max_total_tokens", "count", "most tokens in the pool"),
    Option("chunked_prefill_size", "count", "tokens of one prefill chunk"),
    Option("disable_radix_cache", "switch", "no prefix cache", default=False),
    Option("disable_overlap_schedule", "switch", "no overlap of scheduling and compute", default=False),
    Option("swa_full_tokens_ratio", "fraction", "tokens of the sliding pool per token of the full pool"),
    Option("swa_prefix_tails", "count", "DeepSeek-V4: cached prefixes that stay reusable"),
    Option("disable_hybrid_swa_memory", "switch", "sliding layers keep every token", default=False),
    Option("mamba_full_memory_ratio", "ratio", "memory of recurrent states per memory of KV", 0.9),
    Option("max_mamba_cache_size", "count", "slots of recurrent state"),
    Option("mamba_ssm_dtype", "choice", "element type of recurrent states", None, _STATE_TYPES),
    Option(
        "mamba_radix_cache_strategy",
        "choice",
        "state slots that the prefix cache adds to each request",
        "no_buffer",
        ("no_buffer", "extra_buffer", "extra_buffer_lazy"),
    ),
    Option("dp_size", "count", "attention data parallelism: divides --tp, every group has a pool of its own", 1),
    Option("attention_backend", "choice", "decides which scales an fp4 cache keeps", None,
           ("triton", "flashinfer", "trtllm_mha", "fa3", "fa4", "flashmla", "cutlass_mla", "trtllm_mla")),
    Option("dsa_prefill_backend", "choice", "trtllm and tilelang store plain fp8 latents", None,
           ("flashmla_sparse", "flashmla_kv", "fa3", "tilelang", "trtllm")),
    Option("dsa_decode_backend", "choice", "as dsa_prefill_backend", None,
           ("flashmla_sparse", "flashmla_kv", "fa3", "tilelang", "trtllm")),
    Option("enable_multimodal", "switch", "keep memory for images even where SGLang is text-only by default"),
    Option("language_model_only", "switch", "text only: no memory kept for images", default=False),
    Option("vlm_cache_size_mb", "count", "MiB kept back on multimodal models (SGLANG_VLM_CACHE_SIZE_MB)", 100),
    Option("swa_eviction_interval", "count", "tokens between evictions (SGLANG_SWA_EVICTION_INTERVAL)", 128),
    Option("mem_fraction_static", "fraction", "share of the free memory at start for weights and cache"),
)  # fmt: skip

#: torch's name of each cache type, as the log prints it, and its bytes per element (0: two elements per byte).
TORCH = {
    "bfloat16": ("torch.bfloat16", 2),
    "float16": ("torch.float16", 2),
    "float32": ("torch.float32", 4),
    "fp8_e4m3": ("torch.float8_e4m3fn", 1),
    "fp8_e5m2": ("torch.float8_e5m2", 1),
    "mxfp8": ("torch.float8_e4m3fn", 1),
    "nvfp4": ("torch.float4_e2m1fn_x2", 1),
    "fp4_mx_block16": ("torch.float4_e2m1fn_x2", 1),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The options, resolved. kv: a key of `TORCH`. attn_tp: ranks that share one attention-DP group's heads."""

    kv: str
    model_dtype: str
    state_dtype: str
    page: int
    attn_tp: int
    attn_dp: int
    pp: int
    context_len: int
    radix: bool
    overlap: bool
    strategy: str
    mamba_ratio: float
    swa_ratio: float | None
    hybrid_swa: bool
    eviction: int
    reserve_mib: int
    max_running: int | None = None
    max_total: int | None = None
    chunk: int | None = None
    mamba_slots: int | None = None
    prefix_tails: int | None = None
    attention_backend: str | None = None
    dsa_prefill: str | None = None
    dsa_decode: str | None = None

    @property
    def element_bytes(self) -> int:
        return TORCH[self.kv][1]

    @property
    def is_fp4(self) -> bool:
        return self.kv in ("nvfp4", "fp4_mx_block16")

    @property
    def running_per_group(self) -> int | None:
        """max_running_requests of one attention-DP group, None where not given."""
        return None if self.max_running is None else max(1, self.max_running // self.attn_dp)

    @property
    def slots_per_request(self) -> int:
        """State slots one request takes: `_calculate_mamba_ratio`, allocation_sizing.py:get_mamba_tracking_slots."""
        if not self.radix:
            return 1
        tracking = {"no_buffer": 0, "extra_buffer": 2 if self.overlap else 1, "extra_buffer_lazy": 1}
        return 3 + tracking[self.strategy]


def model_dtype(model: Model) -> str:
    """float32 checkpoints run in float16, Gemma's in bfloat16: `_get_and_verify_dtype`."""
    if model.dtype == "float32":
        return "bfloat16" if (model.architecture or "").startswith("gemma") else "float16"
    return model.dtype


def kv_type(model: Model, setup: Setup, name: str | None) -> str:
    """The cache type: the option, else the asked type; auto is the model's own (DeepSeek-V4: fp8_e4m3).

    Raises: EngineRefusal for a type SGLang does not have.
    """
    own = model_dtype(model)
    auto = "fp8_e4m3" if name in COMPRESSED else own  # overrides.py _deepseek_v4_kv_cache_dtype
    option = setup.options.get("kv_cache_dtype")
    if option is not None:
        return auto if option == "auto" else "bfloat16" if option == "bf16" else str(option)
    key, value = setup.dtypes.key, setup.dtypes.value
    if key != value:
        raise EngineRefusal(
            f"SGLang has one type for K and V, not {key} and {value}", fix="give --kv-dtype one type", field="kv-dtype"
        )
    if key in (model.dtype, own):
        return auto
    if key not in TORCH or key == "float32":
        raise EngineRefusal(
            f"SGLang cannot keep its cache in {key}", fix=f"one of: {', '.join(_KV_TYPES)}", field="kv-dtype", value=key
        )
    return key


def _checked(setup: Setup, context: int) -> tuple[int | None, str]:
    """(context_length, mamba_radix_cache_strategy).

    Raises: EngineRefusal where SGLang's argument checks stop.
    """
    get = setup.options.get
    limit = get("context_length")
    if limit is not None and limit > context:
        raise EngineRefusal(
            f"context_length {limit:,} is above the model's own {context:,}",
            fix="SGLang starts only with SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN=1; lower it",
            field="option",
        )
    strategy = get("mamba_radix_cache_strategy") or "no_buffer"
    if strategy == "extra_buffer_lazy" and get("disable_overlap_schedule"):
        raise EngineRefusal("Lazy extra buffer requires overlap schedule", fix="drop disable_overlap_schedule")
    return limit, strategy


def read_settings(model: Model, setup: Setup, name: str | None, *, page: int, context: int, reserve: int) -> Settings:
    """The launch that `setup` describes. page: the default page size; reserve: MiB kept for images.

    Raises: UsageError, EngineRefusal.
    """
    get, layout = setup.options.get, setup.layout
    groups = 1 if layout.tp == 1 else get("dp_size") or 1  # one GPU has no groups
    if layout.tp % groups:
        raise UsageError(f"dp_size {groups} does not divide --tp {layout.tp}", fix="SGLang asks for it", field="option")
    if layout.dcp > 1:
        raise EngineRefusal("decode context parallelism is not modelled for SGLang", fix="drop --dcp", field="dcp")
    limit, strategy = _checked(setup, context)
    return Settings(
        kv=kv_type(model, setup, name),
        model_dtype=model_dtype(model),
        state_dtype=get("mamba_ssm_dtype") or "",
        page=get("page_size") or page,
        attn_tp=layout.tp // groups,
        attn_dp=groups,
        pp=layout.pp,
        context_len=limit or context,
        radix=not get("disable_radix_cache"),
        overlap=not get("disable_overlap_schedule"),
        strategy=strategy,
        mamba_ratio=get("mamba_full_memory_ratio") or 0.9,
        swa_ratio=get("swa_full_tokens_ratio"),
        hybrid_swa=not get("disable_hybrid_swa_memory"),
        eviction=max(1, get("swa_eviction_interval") or 128),
        reserve_mib=reserve,
        max_running=get("max_running_requests"),
        max_total=get("max_total_tokens"),
        chunk=get("chunked_prefill_size"),
        mamba_slots=get("max_mamba_cache_size"),
        prefix_tails=get("swa_prefix_tails"),
        attention_backend=get("attention_backend"),
        dsa_prefill=get("dsa_prefill_backend"),
        dsa_decode=get("dsa_decode_backend"),
    )
