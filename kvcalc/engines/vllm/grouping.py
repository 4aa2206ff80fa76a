"""From layers to KV cache groups: which layers share a block table, and how many bytes one block id costs.

Source: vLLM 0.33.0 v1/core/kv_cache_planning.py (`get_kv_cache_groups` and what it calls).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import lcm
from typing import NamedTuple

from kvcalc.engines.vllm.spec import Spec, mergeable, uniform
from kvcalc.engines.vllm.versions import Rules
from kvcalc.errors import EngineRefusal
from kvcalc.units import ceil_div


class Layer(NamedTuple):
    """One cache of one layer: layer number, block of the model file, format."""

    number: int
    block: str
    spec: Spec


@dataclass(frozen=True, slots=True)
class Group:
    """Layers with one block table. `mixed`: their pages differ and are summed."""

    layers: tuple[Layer, ...]
    mixed: bool

    @property
    def specs(self) -> tuple[Spec, ...]:
        return tuple(layer.spec for layer in self.layers)

    @property
    def page_bytes(self) -> int:
        """Page of the whole group where pages are summed, of one layer otherwise (as vLLM counts it)."""
        return sum(layer.spec.page_bytes for layer in self.layers) if self.mixed else self.layers[0].spec.page_bytes


def group_layers(layers: Sequence[Layer], rules: Rules, *, hybrid_manager: bool, block_outermost: bool) -> list[Group]:
    """The groups of all layers of the model.

    Raises: EngineRefusal where vLLM finds no common page size.
    """
    layers = list(layers) if hybrid_manager else _promote(layers)
    specs = [layer.spec for layer in layers]
    if not layers:
        return []
    if mergeable(specs):
        return [Group(tuple(layers), mixed=False)]
    if uniform(specs):
        return [Group(tuple(layers), mixed=True)]
    if block_outermost and len({spec.page_bytes for spec in specs}) > 1:
        return _packed(layers)
    try:
        return _equal_pages(_unify_pages(layers, pads=rules.pads_attention), ratio=rules.group_ratio)
    except EngineRefusal:
        fallback = _full_allocation(layers)
        if fallback is None:
            raise
        return fallback


def _unify_pages(layers: Sequence[Layer], *, pads: bool) -> list[Layer]:
    """Bring every page to the largest one: by longer blocks where it divides, by padding where it may.

    Source: unify_kv_cache_spec_page_size.
    """
    largest = max(layer.spec.page_bytes for layer in layers)
    unified: dict[Spec, Spec] = {}
    for spec in {layer.spec: None for layer in layers}:
        if spec.page_bytes == largest:
            unified[spec] = spec
        elif spec.kind == "mamba":
            unified[spec] = spec.padded_to(largest)
        elif largest % spec.page_bytes == 0:
            longer = spec.with_block(spec.block_tokens * (largest // spec.page_bytes))
            if longer.page_bytes != largest:
                raise EngineRefusal(
                    "vLLM fails here: a padded page cannot be scaled to the common page size",
                    fix="name another engine with --engine",
                )
            unified[spec] = longer
        elif pads and spec.kind not in ("mla", "sliding_mla"):
            unified[spec] = spec.padded_to(largest)
        else:
            raise EngineRefusal(
                f"vLLM cannot bring pages of {spec.page_bytes:,} and {largest:,} bytes to one size",
                fix="choose another block_size or KV cache dtype",
            )
    return [layer._replace(spec=unified[layer.spec]) for layer in layers]


def _equal_pages(layers: Sequence[Layer], *, ratio: float) -> list[Group]:
    """Layers of one page size, split into groups of about equally many layers.

    Sets whose sizes are within `ratio` are padded to the larger one, instead of splitting by the smaller.

    Source: _get_kv_cache_groups_uniform_page_size.
    """
    by_spec: dict[Spec, list[Layer]] = {}
    for layer in layers:
        by_spec.setdefault(layer.spec, []).append(layer)
    buckets: list[tuple[list[Spec], list[Layer]]] = []
    for spec, members in by_spec.items():
        for specs, bucket in buckets:
            if mergeable([*specs, spec]):
                specs.append(spec)
                bucket.extend(members)
                break
        else:
            buckets.append(([spec], list(members)))
    sizes = [len(bucket) for _, bucket in buckets]
    size = max(sizes) if max(sizes) < min(sizes) * ratio else min(sizes)
    groups: list[Group] = []
    for _, bucket in buckets:
        count = ceil_div(len(bucket), size)
        # Every count-th layer, not runs of neighbours: each pipeline stage then gets a share of each group.
        groups.extend(Group(tuple(bucket[start::count]), mixed=False) for start in range(count))
    return groups


def _promote(layers: Sequence[Layer]) -> list[Layer]:
    """Hybrid manager off: windowed and chunked layers next to full ones are stored like full ones.

    Source: unify_hybrid_kv_cache_specs, _promote_local_kv_cache_specs.
    """
    replicated = [layer for layer in layers if not layer.spec.dcp_sharded and layer.spec.kind != "mamba"]
    rest = [layer for layer in layers if layer.spec.dcp_sharded or layer.spec.kind == "mamba"]
    promoted = {layer[:2]: new for part in (rest, replicated) for layer, new in zip(part, _promoted(part), strict=True)}
    return [promoted[layer[:2]] for layer in layers]


def _promoted(layers: Sequence[Layer]) -> list[Layer]:
    specs = [layer.spec for layer in layers]
    if not specs or mergeable(specs) or uniform(specs):
        return list(layers)
    local = ("sliding", "sliding_mla", "chunked")
    if any(spec.growing for spec in specs) and any(spec.kind in local for spec in specs):
        blocks = {spec.block_tokens for spec in specs if spec.growing}
        common = blocks.pop() if len(blocks) == 1 else None
        layers = [layer._replace(spec=_as_full(layer.spec, common)) for layer in layers]
        specs = [layer.spec for layer in layers]
    if not (mergeable(specs) or uniform(specs)):
        raise EngineRefusal(
            "vLLM cannot store these layers as one type of attention",
            fix="drop disable_hybrid_kv_cache_manager",
            field="disable_hybrid_kv_cache_manager",
        )
    return list(layers)


def _as_full(spec: Spec, block_tokens: int | None) -> Spec:
    if spec.kind == "sliding_mla":
        raise EngineRefusal(
            "vLLM 0.33 fails to store windows of latents in full (MLAAttentionSpec takes no bounded_replay)",
            fix="drop disable_hybrid_kv_cache_manager",
            field="disable_hybrid_kv_cache_manager",
        )
    if spec.kind not in ("sliding", "chunked"):
        return spec
    block = block_tokens or spec.block_tokens
    content = spec.content_bytes * block // spec.block_tokens
    page = max(spec.page_bytes, content) if spec.padded else content
    chunked = spec.kind == "chunked"
    span, chunk = (0, spec.span) if chunked else (spec.span, 0)
    return replace(
        spec,
        kind="full",
        span=span,
        chunk=chunk,
        block_tokens=block,
        page_bytes=page,
        content_bytes=content,
        extra_tokens=0,
    )


def _full_allocation(layers: Sequence[Layer]) -> list[Group] | None:
    """Latent attention beside a window whose pages do not fit together: all stored in full, pages summed.

    Source: _try_get_full_allocation_fallback_groups.
    """
    kinds = {layer.spec.kind for layer in layers}
    if kinds & {"sliding_mla", "chunked"} or not {"mla", "sliding"} <= kinds:
        return None
    try:
        promoted = _promoted(layers)
    except EngineRefusal:
        return None
    return [Group(tuple(promoted), mixed=True)] if uniform([layer.spec for layer in promoted]) else None


def pool_bytes_per_block(groups: Sequence[Group], stage: range | None, *, block_outermost: bool) -> int:
    """Bytes one block id costs on a pipeline stage: the widest group's pages, because groups share the pool.

    stage: layer numbers of the stage; None for the whole model.
    Source: _get_kv_cache_bytes_per_block, _project_kv_cache_groups_to_worker.
    """
    own = [[layer.spec for layer in group.layers if stage is None or layer.number in stage] for group in groups]
    if not block_outermost:
        return max((sum(spec.stride_page_bytes for spec in specs) for specs in own), default=0)
    widest = max((sum(spec.page_bytes for spec in specs) for specs in own), default=0)
    alignment = lcm(*(spec.stride_alignment for specs in own for spec in set(specs)))
    return ceil_div(widest, alignment) * alignment


class _Bucket(NamedTuple):
    """Layers of one uniform type: by page size in order of appearance; balanced: equally many of each size."""

    layers: list[Layer]
    by_page: dict[int, list[Layer]]
    balanced: bool

    @property
    def repeats(self) -> int:
        return max(map(len, self.by_page.values()))

    def widest(self, count: int) -> int:
        """Page bytes of the largest of `count` groups the bucket splits into."""
        return sum(ceil_div(len(members), count) * page for page, members in self.by_page.items())


def _packed(layers: Sequence[Layer]) -> list[Group]:
    """Layers of mixed page sizes packed side by side inside each block (block-outermost layouts).

    Source: _get_packed_kv_cache_groups.
    """
    buckets = _buckets(layers)
    floor = max((bucket.repeats for bucket in buckets if bucket.balanced and len(bucket.by_page) > 1), default=0)
    repeats = _least_padding([bucket.repeats for bucket in buckets if bucket.balanced], floor) if floor else None

    def split(bucket: _Bucket) -> int:
        return ceil_div(bucket.repeats, repeats) if bucket.balanced and repeats is not None else 1

    def is_state(bucket: _Bucket) -> bool:
        kind = bucket.layers[0].spec.kind
        return kind == "mamba" or (repeats is None and kind in ("sliding", "sliding_mla"))

    anchor = max(bucket.widest(len(bucket.layers) if is_state(bucket) else split(bucket)) for bucket in buckets)
    groups: list[Group] = []
    for bucket in buckets:
        count = split(bucket)
        if anchor and is_state(bucket):
            per_block = max(anchor // bucket.layers[0].spec.page_bytes, 1)
            count = max(count, ceil_div(len(bucket.layers), per_block))
        if count == 1:
            groups.append(Group(tuple(bucket.layers), mixed=True))
            continue
        rounds = list(zip(*bucket.by_page.values(), strict=False))
        groups.extend(
            Group(tuple(layer for each in rounds[start::count] for layer in each), mixed=True) for start in range(count)
        )
    if sum(len(group.layers) for group in groups) != len(layers):
        # Source: _check_exact_partition: a round takes one layer of each page size, the rest would be lost.
        raise EngineRefusal(
            "vLLM fails here: its groups miss layers whose page sizes do not come equally often",
            fix="name another engine with --engine",
        )
    return groups


def _buckets(layers: Sequence[Layer]) -> list[_Bucket]:
    """Layers gathered greedily into uniform types, in order of appearance."""
    gathered: list[tuple[list[Spec], list[Layer]]] = []
    for layer in layers:
        for specs, members in gathered:
            if layer.spec in specs or uniform([*specs, layer.spec]):
                if layer.spec not in specs:
                    specs.append(layer.spec)
                members.append(layer)
                break
        else:
            gathered.append(([layer.spec], [layer]))
    buckets = []
    for _, members in gathered:
        by_page: dict[int, list[Layer]] = {}
        for layer in members:
            by_page.setdefault(layer.spec.page_bytes, []).append(layer)
        buckets.append(_Bucket(members, by_page, len({len(same) for same in by_page.values()}) == 1))
    return buckets


def _least_padding(counts: Sequence[int], at_least: int) -> int:
    """The chunk size from `at_least` on that pads `counts` least; the larger one at a tie.

    Source: _approximate_gcd.
    """
    sizes = range(max(at_least, 1), max(counts) + 1)
    return min(sizes, key=lambda size: (sum(-count % size for count in counts), -size), default=at_least)
