"""SGLang: one pool of token slots priced per token, sliding pools for listed classes, slots of recurrent state.

Reading order: classes (what SGLang decides by name), geometry (a model as its pools see it), pools (prices and
tensors), sizing (budget to tokens), v4 (DeepSeek-V4), planner and report. Not modelled: speculative decoding,
HiCache, decode context parallelism, unified memory, HiSparse, PD disaggregation, ROCm and NPU pools.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from kvcalc.core.model import Model
from kvcalc.engines.base import Option, Setup
from kvcalc.engines.sglang import classes
from kvcalc.engines.sglang.geometry import Geometry, read_geometry
from kvcalc.engines.sglang.planner import SglangPlanner, stage_pools
from kvcalc.engines.sglang.settings import OPTIONS, Settings, read_settings
from kvcalc.engines.sglang.sizing import TwoPools
from kvcalc.engines.sglang.v4 import PAGE as V4_PAGE
from kvcalc.errors import EngineRefusal

#: Physical page of the indexer's kernels: `DSATokenToKVPool`.
_INDEX_PAGE = 64
#: `get_context_length` of a config that names no length.
_CONTEXT = 2048


@dataclass(frozen=True, slots=True)
class SglangEngine:
    """See `kvcalc.engines.base.Engine`."""

    name: str = "sglang"
    versions: tuple[str, ...] = ("0.5.23",)
    verified_by: str = "its own pool classes on CPU, recorded cells"
    summary: str = "token slots; sliding and latent caches only for listed classes; state slots by a fixed split"
    options: tuple[Option, ...] = OPTIONS

    def prepare(self, model: Model, setup: Setup) -> SglangPlanner:
        """The pools of every stage.

        Raises: UsageError, EngineRefusal.
        """
        name = classes.class_of(model)
        settings = read_settings(
            model, setup, name, page=0, context=model.max_context or _CONTEXT, reserve=_reserve(model, setup, name)
        )
        geometry = read_geometry(model, attn_tp=settings.attn_tp, pp=settings.pp, hybrid_swa=settings.hybrid_swa)
        settings = replace(
            settings,
            page=settings.page or _default_page(geometry),
            state_dtype=settings.state_dtype or _state_dtype(model, setup, name),
        )
        _check_page(geometry, settings)
        stages = tuple(stage_pools(geometry, stage, settings) for stage in geometry.stages)
        windows = [stage.rule.window or 0 for stage in stages if isinstance(stage.rule, TwoPools)]
        return SglangPlanner(
            geometry=geometry,
            settings=settings,
            layout=setup.layout,
            stages=stages,
            assumptions=_assumptions(setup, geometry, settings),
            warnings=_warnings(model, geometry, settings),
            period_tokens=settings.page * (1000 if windows else 1),
            exactness="estimate" if geometry.name in classes.UNRECORDED else "exact",
            saturation_tokens=4 * max(windows, default=0) + 16 * settings.page,
        )


def _reserve(model: Model, setup: Setup, name: str | None) -> int:
    """MiB kept back for images: `is_multimodal`, SGLANG_VLM_CACHE_SIZE_MB."""
    get = setup.options.get
    if not classes.is_multimodal(model) or get("language_model_only"):
        return 0
    enabled = get("enable_multimodal")
    if enabled is None:
        enabled = name not in classes.MULTIMODAL_OFF
    mib = get("vlm_cache_size_mb")
    return (100 if mib is None else int(mib)) if enabled else 0


def _default_page(geometry: Geometry) -> int:
    """Page size without a GPU's backend choice: the one the pool demands, else 1."""
    if geometry.compressed:
        return V4_PAGE
    return _INDEX_PAGE * geometry.attention.index_group if geometry.indexed_latent else 1


def _state_dtype(model: Model, setup: Setup, name: str | None) -> str:
    """float32 unless asked for, or the config says mamba_ssm_dtype and the class reads it."""
    if "state" in setup.asked:
        if setup.dtypes.state not in ("bfloat16", "float16"):
            raise EngineRefusal(
                f"SGLang has no recurrent state in {setup.dtypes.state}", fix="float32, bfloat16 or float16"
            )
        return setup.dtypes.state
    stated = model.facts.get("mamba_ssm_dtype")
    if stated in ("bfloat16", "float16", "float32") and (name is None or name in classes.STATE_DTYPE_FROM_CONFIG):
        return str(stated)
    return "float32"


def _check_page(geometry: Geometry, settings: Settings) -> None:
    group = geometry.attention.index_group
    if geometry.indexed_latent and (settings.page % group or settings.page // group != _INDEX_PAGE):
        raise EngineRefusal(
            f"DSA requires 64-token physical pages, got page_size={settings.page} with index_kpool={group}",
            fix=f"use page_size={_INDEX_PAGE * group}",
            field="page_size",
            value=settings.page,
        )


def _assumptions(setup: Setup, geometry: Geometry, settings: Settings) -> tuple[str, ...]:
    found = ["the pool is SGLang's KV budget: free memory after weights less (1 - mem_fraction_static) of it at start"]
    if setup.options.get("mem_fraction_static") is not None:
        found.append("mem_fraction_static decides the budget, and the budget is what is given: it changes nothing here")
    if setup.options.get("page_size") is None:
        found.append(f"page_size {settings.page}: the attention backend of a real GPU may choose another")
    if geometry.name in classes.UNRECORDED:
        found.append(f"the rules for {geometry.name} were read from SGLang's source; no recorded cell confirms them")
    if geometry.name is None:
        found.append("the file names no architectures: SGLang's general rules, no sliding pools")
    if geometry.state is not None:
        found.append(f"recurrent states in {settings.state_dtype}, convolution tails in bfloat16")
    if settings.kv == "nvfp4" and settings.attention_backend is None:
        found.append("attention_backend trtllm_mha: flashinfer would add an fp8 workspace")
    if settings.reserve_mib:
        found.append(f"{settings.reserve_mib} MiB of the budget stay free for images (SGLANG_VLM_CACHE_SIZE_MB)")
    return tuple(found)


def _warnings(model: Model, geometry: Geometry, settings: Settings) -> tuple[str, ...]:
    found = []
    windows = [item.window for row in geometry.layers for item in row.attention if item.window is not None]
    if windows and geometry.sliding is None and not geometry.compressed:
        found.append(f"SGLang keeps every token in all layers of {geometry.name or model.name}: no sliding pool")
    table = 2049 * (settings.context_len + 4) * 4
    if settings.max_running is None and settings.context_len > 2**18:
        found.append(
            f"req_to_token takes {table / 2**30:.1f} GiB or more beside the budget: set context_length or "
            "max_running_requests"
        )
    if geometry.indexed_latent and settings.is_fp4:
        found.append("an fp4 cache with an indexer is priced at half a byte and allocated as a whole one")
    return tuple(found)


ENGINE = SglangEngine()
