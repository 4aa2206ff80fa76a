"""The whole allocation of one model: stages, layers, groups and what a block id costs on each stage."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

from kvcalc.core.model import Model
from kvcalc.engines.vllm import archs, deepseek_v4
from kvcalc.engines.vllm.backends import common_layout
from kvcalc.engines.vllm.blocks import Placed, Sample, place
from kvcalc.engines.vllm.grouping import Group, Layer, group_layers, pool_bytes_per_block
from kvcalc.engines.vllm.layers import Attn, State, all_caches, block_caches
from kvcalc.engines.vllm.settings import Settings
from kvcalc.errors import EngineRefusal


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One pipeline stage: its layers, and bytes of one block id of its pool."""

    layers: range
    pool_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """Groups of the whole model and the stages that hold them. block_tokens: cache_config.block_size."""

    groups: tuple[Group, ...]
    stages: tuple[Stage, ...]
    block_tokens: int
    layout: str


def build(model: Model, settings: Settings) -> Built:
    """Lower, align, group and price.

    Raises: EngineRefusal.
    """
    drafts = _draft_layers(model, settings)
    stages = stage_ranges(len(model.layers), settings.layout.pp, drafts)
    packed = deepseek_v4.is_packed(model)
    if packed:
        layers = deepseek_v4.layers(model, settings, drafts)
        block, layout = settings.block_tokens or deepseek_v4.BLOCK_TOKENS, deepseek_v4.LAYOUT
    else:
        layers, block, layout = _staged_layers(model, settings, stages, drafts)
    if extra := _retained(model, settings):
        layers = [
            layer._replace(spec=replace(layer.spec, extra_tokens=extra))
            if layer.spec.kind in ("sliding", "sliding_mla")
            else layer
            for layer in layers
        ]
    groups = group_layers(layers, settings.rules, hybrid_manager=settings.hybrid_manager, block_outermost=packed)
    return Built(
        groups=tuple(groups),
        stages=tuple(
            Stage(layers=stage, pool_bytes=pool_bytes_per_block(groups, stage, block_outermost=packed))
            for stage in stages
        ),
        block_tokens=block,
        layout=layout,
    )


def _draft_layers(model: Model, settings: Settings) -> int:
    if not settings.draft_layers:
        return 0
    if model.mtp is None:
        raise EngineRefusal(
            f"{model.name} has no draft layers of its own",
            fix="-o speculative_method=ngram, or a model file with mtp",
            field="num_speculative_tokens",
        )
    return model.mtp.layers


def _retained(model: Model, settings: Settings) -> int:
    """Tokens below the window that a chain of several draft modules may read again.

    Source: config/vllm.py `num_prefill_lookahead_tokens`; kv_cache_planning.py `get_global_kv_cache_groups`.
    """
    several = settings.draft_layers and model.mtp is not None and model.mtp.layers > 1
    return max(0, settings.draft_tokens - 1) if several else 0


def stage_ranges(layers: int, stages: int, drafts: int) -> list[range]:
    """Layers of each stage: even shares, one more from the second-last stage backwards; drafts go last.

    Source: vLLM 0.33.0 distributed/utils.py `get_pp_indices`.

    >>> stage_ranges(10, 4, 0)
    [range(0, 2), range(2, 5), range(5, 8), range(8, 10)]
    """
    if stages > layers:
        raise EngineRefusal(f"{stages} pipeline stages for {layers} layers", fix="lower --pp", field="pp")
    share, extra = divmod(layers, stages)
    counts = [share] * stages
    for position in range(2, extra + 2):
        counts[-position] += 1
    counts[-1] += drafts
    bounds = [sum(counts[:stage]) for stage in range(stages + 1)]
    return [range(start, stop) for start, stop in pairwise(bounds)]


def _staged_layers(model: Model, settings: Settings, stages: list[range], drafts: int) -> tuple[list[Layer], int, str]:
    """Every layer's caches with formats, cache_config.block_size and the layout; sizes are settled stage by stage."""
    placed, sample = _placed(model, settings, drafts)
    layers: list[Layer] = []
    block = 0
    for stage in stages:
        own = [cache for cache in placed if cache.number in stage]
        formed, sizes = place(own, sample, settings)
        layers.extend(formed)
        if any(isinstance(cache.cache, Attn) for cache in own) or not block:
            block = max(block, sizes.block_tokens)
    backends = list(dict.fromkeys(cache.cache.backend for cache in placed if isinstance(cache.cache, Attn)))
    return layers, block, common_layout(backends)


def _placed(model: Model, settings: Settings, drafts: int) -> tuple[list[Placed], Sample]:
    caches = all_caches(model, settings)
    rows = list(archs.layer_blocks(model))
    if drafts and model.mtp is not None:
        rows.extend([(model.mtp.block,)] * drafts)
    placed: list[Placed] = []
    plain: dict[str, tuple[Attn | State, ...]] = {}
    for index, names in enumerate(rows):
        for name in names:
            for position, cache in enumerate(caches[name]):
                if isinstance(cache, Attn) and _skips(settings, index, cache):
                    if name not in plain:
                        plain[name] = block_caches(model, name, settings, quantized=False)
                    placed.append(Placed(index, name, plain[name][position], plain=True))
                else:
                    placed.append(Placed(index, name, cache))
    attention = next((p.cache for p in placed if isinstance(p.cache, Attn) and not p.plain), None)
    state = next((p.cache for p in placed if isinstance(p.cache, State)), None)
    if model.architecture in archs.ATTENTION_FIRST:
        placed.sort(key=lambda p: isinstance(p.cache, State))
    return placed, Sample(attention=attention, state=state)


def _skips(settings: Settings, index: int, cache: Attn) -> bool:
    skip = settings.skip_layers
    return bool(skip) and (str(index) in skip or (cache.kind == "sliding" and "sliding_window" in skip))
