"""From a model's components to the caches vLLM builds for them, before block sizes are known.

A layer may have several: attention and state (Falcon-H1), latent and indexer key (DeepSeek-V3.2), self and cross.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kvcalc.core.component import Chunked, Component, Encoder, Linear, Windowed
from kvcalc.core.model import Model
from kvcalc.engines.vllm import archs
from kvcalc.engines.vllm.backends import INDEXER, Backend, Query, head_backend, latent_backend
from kvcalc.engines.vllm.cachedtypes import DS_MLA, head_bytes, is_quantized, latent_bytes, storage
from kvcalc.engines.vllm.settings import Settings
from kvcalc.engines.vllm.spec import Spec, SpecKind
from kvcalc.errors import EngineRefusal

#: bytes of an indexer key: fp8 elements and one float32 scale per 128. Source: models/deepseek_v2.py:725-733.
_INDEX_SCALE_EVERY, _INDEX_SCALE_BYTES = 128, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Attn:
    """One attention cache: `token_bytes` per token of a block, on `backend`.

    native_bytes: the same without quantisation (for layers the quantisation skips).
    """

    kind: SpecKind
    token_bytes: int
    native_bytes: int
    body: tuple[object, ...]
    backend: Backend
    span: int = 0
    stride_bytes: int = 1
    stride_multiple: int = 0
    windowed_block: bool = False

    def spec(self, block_tokens: int, padded: int | None) -> Spec:
        """The format in blocks of `block_tokens`. padded: page that every windowed layer is padded to."""
        content = self.token_bytes * block_tokens
        page = padded if padded is not None and self.kind == "sliding" else content
        if page < content:
            raise EngineRefusal(
                f"vLLM fails here: a page padded to {page:,} bytes is smaller than its {content:,} bytes",
                fix="remove kv_cache_dtype_skip_layers",
            )
        return Spec(
            kind=self.kind,
            block_tokens=block_tokens,
            page_bytes=page,
            content_bytes=content,
            body=self.body,
            span=self.span,
            stride_bytes=self.stride_bytes,
            stride_multiple=self.stride_multiple,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """One recurrent state: `state_bytes`, and blocks per request with and without prefix caching."""

    state_bytes: int
    body: tuple[object, ...]
    blocks: tuple[int, int]
    checkpoint_multiple: int = 1

    def spec(self, block_tokens: int, page_bytes: int | None) -> Spec:
        """block_tokens: tokens between checkpoints; page_bytes: aligned size, None when not aligned."""
        return Spec(
            kind="mamba",
            block_tokens=block_tokens,
            page_bytes=page_bytes or self.state_bytes,
            content_bytes=self.state_bytes,
            body=self.body,
            dcp_sharded=False,
            state_blocks=self.blocks,
        )


Cache = Attn | State


def block_caches(model: Model, name: str, settings: Settings, *, quantized: bool = True) -> tuple[Cache, ...]:
    """The caches of one block of the model file, in the order vLLM builds them.

    quantized: False for layers that keep the model's type (kv_cache_dtype_skip_layers).

    Raises: EngineRefusal for what vLLM has no cache for.
    """
    kind = model.blocks[name]
    components = kind.lower()
    heads = int(getattr(kind, "heads", 0) or 0)  # query heads: a fact of the layer, no part of its cache
    dtype = archs.layer_kv_dtype(model, settings.kv_dtype if quantized else "auto")
    reader = _Reader(model=model, settings=settings, dtype=dtype, heads=heads, components=components)
    caches: list[Cache] = []
    if index := [component for component in components if component.role == "index"]:
        caches.append(reader.indexer(index))
    attention = [c for c in components if c.role in ("key", "value") and not isinstance(c.law, Encoder)]
    if attention:
        caches.append(reader.attention(attention, sparse=_is_sparse(model, components)))
    if cross := [component for component in components if isinstance(component.law, Encoder)]:
        caches.append(reader.heads_cache(cross, "cross", 0))
    states = [component for component in components if component.role in ("conv", "state")]
    if states:
        caches.append(reader.state(states, kind.kind))
    if unknown := [c.name for c in components if c.role == "pending"]:
        raise EngineRefusal(
            f"the vllm engine has no rule for {unknown[0]} of {model.architecture}",
            fix="name another engine with --engine",
        )
    return tuple(caches)


def _is_sparse(model: Model, components: tuple[Component, ...]) -> bool:
    """Layers that reuse another one's selection are sparse too, without an index key of their own."""
    return model.architecture in archs.SPARSE_LATENT or any(c.role == "index" for c in components)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reader:
    """The components of one block, read for one way of starting vLLM."""

    model: Model
    settings: Settings
    dtype: str
    heads: int
    components: tuple[Component, ...]

    def attention(self, components: list[Component], *, sparse: bool) -> Attn:
        law = components[0].law
        kind: SpecKind
        if isinstance(law, Linear) or (isinstance(law, Windowed) and archs.ignores_window(self.model)):
            span, kind = 0, "full"
        elif isinstance(law, Windowed):
            if law.sinks:
                raise EngineRefusal(
                    "vLLM keeps no sink tokens beside a window", fix="name another engine with --engine"
                )
            span, kind = archs.window_tokens(self.model, law.window), "sliding"
        elif isinstance(law, Chunked):
            span, kind = law.chunk, "chunked"
        else:
            raise EngineRefusal(
                f"the vllm engine has no rule for {components[0].name} ({law})", fix="name another engine with --engine"
            )
        if all(part.shard == "replicated" for component in components for part in component.parts):
            return self.latent(components, "sliding_mla" if kind == "sliding" else "mla", span, sparse=sparse)
        return self.heads_cache(components, kind, span)

    def heads_cache(self, components: list[Component], kind: SpecKind, span: int) -> Attn:
        """K and V heads: page = heads x tokens x (K + V widths) x element."""
        by_role = {component.role: component for component in components}
        if set(by_role) != {"key", "value"}:
            raise EngineRefusal(
                "the vllm engine has no rule for a cache with K and V in one array",
                fix="name another engine with --engine",
            )
        key, value = by_role["key"].parts[0], by_role["value"].parts[0]
        self.check_heads(key.units)
        groups = key.units_on_rank(0, self.settings.layout.tp)
        query = self.query(key.width, value.width, groups, windowed=kind == "sliding")
        backend = head_backend(query)
        native = (key.width + value.width) * self.settings.native_bytes
        token_bytes = groups * head_bytes(self.dtype, key.width, value.width, self.settings.native_bytes)
        body = (groups, key.width, value.width, storage(self.dtype, self.settings.model_dtype))
        return Attn(
            kind=kind,
            token_bytes=token_bytes,
            native_bytes=groups * native,
            body=body,
            backend=backend,
            span=span,
            stride_multiple=backend.stride_multiple,
        )

    def latent(self, components: list[Component], kind: SpecKind, span: int, *, sparse: bool) -> Attn:
        """One latent with its rope key per token, whole on every TP rank."""
        self.check_heads(None)
        width = sum(part.width * part.units for component in components for part in component.parts)
        query = self.query(width, 0, 1, windowed=False)
        backend = latent_backend(query, sparse=sparse)
        dtype = self.dtype
        if backend.name == "FLASHMLA_SPARSE" and is_quantized(dtype) and dtype not in DS_MLA:
            dtype = "fp8_ds_mla"  # Source: mla_attention.py `_canonicalize_sparse_mla_kv_cache_dtype`
        token_bytes = latent_bytes(dtype, width, self.settings.native_bytes)
        multiple = backend.stride_multiple
        stride = backend.align_rows * token_bytes if backend.align_rows else 1
        if backend.name == "FLASHMLA_SPARSE" and not backend.align_rows:
            # On Hopper the quantised kernel reads pages of 64 tokens, the plain one single rows.
            multiple, stride = (64, 1) if is_quantized(dtype) else (0, token_bytes)
        return Attn(
            kind=kind,
            token_bytes=token_bytes,
            native_bytes=width * self.settings.native_bytes,
            body=(1, width, storage(dtype, self.settings.model_dtype)),
            backend=backend,
            span=span,
            stride_multiple=multiple,
            stride_bytes=stride,
        )

    def indexer(self, components: list[Component]) -> Attn:
        """The side key of sparse attention: fp8 with its scale, whatever the KV dtype."""
        component = components[0]
        if self.model.architecture not in archs.SPARSE_LATENT or not isinstance(component.law, Linear):
            raise EngineRefusal(
                f"the vllm engine has no rule for the indexer of {self.model.architecture or 'this model'}",
                fix=f"architectures with one: {', '.join(archs.SPARSE_LATENT)}",
            )
        width = component.elements_per_slot
        size = width + width // _INDEX_SCALE_EVERY * _INDEX_SCALE_BYTES
        return Attn(
            kind="mla", token_bytes=size, native_bytes=size, body=(1, size, "index"), backend=INDEXER,
            stride_multiple=INDEXER.stride_multiple,
        )  # fmt: skip

    def state(self, components: list[Component], kind: str) -> State:
        """Conv tail and recurrent state, sharded by TP; drafts lengthen the tail and add blocks."""
        settings = self.settings
        ssm_dtype = archs.ssm_dtype(self.model, kind, settings.asked_ssm_dtype, settings.conv_dtype)
        conv_bytes, ssm_bytes = ({"float32": 4}.get(name, 2) for name in (settings.conv_dtype, ssm_dtype))
        key_dim = components[0].parts[0].width // 2 if components[0].role == "conv" else 0
        rules = archs.state_class(kind, self.model, settings.rules, settings.capability, key_dim)
        total = 0
        shapes: list[object] = []
        for component in components:
            for part in component.parts:
                self.check_divides(component.name, part.units, divides=part.divides(settings.layout.tp))
            width = sum(part.units_on_rank(0, settings.layout.tp) * part.width for part in component.parts)
            slots = component.law.slots(0)
            conv = component.role == "conv"
            if conv and rules.drafts_in_conv:
                slots += settings.draft_tokens
            total += slots * width * (conv_bytes if conv else ssm_bytes)
            shapes.append((component.name, slots, width))
        drafts = settings.draft_tokens
        checkpoint = 1 if rules.checkpoint else 0
        return State(
            state_bytes=total,
            body=(*shapes, settings.conv_dtype, ssm_dtype),
            # With prefix caching the state at the last block boundary and the running one are both kept.
            blocks=(2 + drafts + checkpoint, 1 + drafts),
            checkpoint_multiple=rules.checkpoint_multiple if rules.checkpoint else 0,
        )

    def query(self, key: int, value: int, groups: int, *, windowed: bool) -> Query:
        settings = self.settings
        return Query(
            capability=settings.capability,
            dtype=self.dtype,
            head_size=key,
            value_size=value,
            block_tokens=settings.block_tokens,
            heads=self.heads // settings.layout.tp,
            groups=groups,
            windowed=windowed,
            model_head_size=model_head_size(self.model),
            sinks=archs.has_sinks(self.model),
            flashinfer=settings.flashinfer,
        )

    def check_heads(self, groups: int | None) -> None:
        """Query heads divide over TP; KV heads divide, or TP is a multiple of them.

        Raises: EngineRefusal. Source: config/model.py:1559 and each model's attention class.
        """
        tp = self.settings.layout.tp
        if self.heads % tp:
            raise EngineRefusal(
                f"total number of attention heads ({self.heads}) must be divisible by tensor parallel size ({tp})",
                fix="choose a --tp that divides it",
                field="tp",
                value=tp,
            )
        if groups is not None and groups % tp and tp % groups:
            raise EngineRefusal(
                f"{groups} KV heads divide over neither {tp} ranks nor the other way round",
                fix="change --tp",
                field="tp",
            )

    def check_divides(self, name: str, units: int, *, divides: bool) -> None:
        if not divides or (units > 1 and units % self.settings.layout.tp):
            raise EngineRefusal(
                f"tensor parallel size {self.settings.layout.tp} must divide the {units} groups or heads of {name}",
                fix="choose a smaller --tp",
                field="tp",
                value=self.settings.layout.tp,
            )


def model_head_size(model: Model) -> int:
    """The widest attention head: what vLLM calls the model's head size."""
    return max(
        (
            part.width
            for kind in model.blocks.values()
            for component in kind.lower()
            if component.role == "key"
            for part in component.parts
            if part.shard == "heads"
        ),
        default=0,
    )


def all_caches(model: Model, settings: Settings) -> Mapping[str, tuple[Cache, ...]]:
    """Block name -> its caches, for every block in use."""
    names = {name for layer in archs.layer_blocks(model) for name in layer}
    if settings.draft_layers and model.mtp is not None:
        names.add(model.mtp.block)
    return {name: block_caches(model, name, settings) for name in model.blocks if name in names}


def check_layout(model: Model, settings: Settings) -> tuple[str, ...]:
    """Decode context parallelism: only over ranks that hold replicas, and never for windows.

    Raises: EngineRefusal. Source: config/model.py:1578-1606, config/parallel.py:594.
    """
    layout = settings.layout
    if layout.tp % layout.dcp:
        raise EngineRefusal(
            f"tp {layout.tp} must be divisible by dcp {layout.dcp}", fix="choose a divisor of --tp", field="dcp"
        )
    if layout.dcp == 1:
        return ()
    for kind in model.blocks.values():
        heads = int(getattr(kind, "heads", 0) or 0)
        for component in kind.lower():
            if isinstance(component.law, Windowed) and component.role in ("key", "value"):
                raise EngineRefusal(
                    "vLLM does not divide windows over decode context parallel ranks", fix="drop --dcp", field="dcp"
                )
            part = component.parts[0]
            if component.role != "key" or part.shard != "heads":
                continue
            if layout.tp <= part.units or layout.dcp > layout.tp // part.units:
                raise EngineRefusal(
                    f"dcp {layout.dcp} needs tp >= dcp x {part.units} KV heads, tp is {layout.tp}",
                    fix="raise --tp or lower --dcp",
                    field="dcp",
                    value=layout.dcp,
                )
            if heads // part.units % layout.dcp:
                raise EngineRefusal(
                    f"{heads // part.units} query heads per KV head must divide by dcp", fix="lower --dcp", field="dcp"
                )
    return ()
