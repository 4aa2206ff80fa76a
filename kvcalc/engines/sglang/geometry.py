"""A model as SGLang's pools see it: heads, widths and states, read from the components of its layers.

SGLang keeps one set of numbers for all full layers and one for all sliding layers, so layers that differ otherwise
are refused. A layer that shares another layer's cache, or has none, still gets a buffer of its own: pools are made
for every hidden layer (Gemma 3n, Gemma 4 E2B, Nemotron-NAS).

Source: sglang 0.5.23, srt/configs/model_config.py `_derive_model_shapes`, `get_hybrid_layer_ids`,
`dsa_layer_skips_topk`; srt/configs/mamba_utils.py `Mamba2StateShape`, `KimiLinearStateShape`;
srt/distributed/utils.py `get_pp_indices`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from kvcalc.core.component import Chunked, Component, Constant, Strided, Windowed
from kvcalc.core.model import Model
from kvcalc.engines.sglang import classes
from kvcalc.errors import EngineRefusal

_FACT_FIX = "see kvcalc engines sglang for what is modelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """What one attention layer stores per token. Heads: all of them; latent: for all heads together.

    window: tokens a sliding or chunked layer attends to. group: tokens per indexer entry.
    """

    heads: int = 0
    key_dim: int = 0
    value_dim: int = 0
    latent_dim: int = 0
    rope_dim: int = 0
    window: int | None = None
    index_dim: int = 0
    index_group: int = 1

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """The numbers that all layers of one pool share."""
        return self.heads, self.key_dim, self.value_dim, self.latent_dim, self.rope_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """One layer's recurrent state on one rank: (rows, channels) of each convolution, and the state's elements."""

    conv: tuple[tuple[int, int], ...]
    temporal: tuple[int, ...]

    @property
    def conv_elements(self) -> int:
        return sum(rows * channels for rows, channels in self.conv)

    @property
    def temporal_elements(self) -> int:
        return prod(self.temporal)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One hidden layer: its attention buffers (LongCat has two) and whether it has a recurrent state."""

    attention: tuple[Attention, ...]
    has_state: bool
    ratio: int = 0
    index_dim: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """The layers of one pipeline stage, as counts and layer numbers."""

    start: int
    stop: int
    full: tuple[int, ...]
    sliding: tuple[int, ...]
    indexed: tuple[int, ...]
    states: tuple[int, ...]
    ratios: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """full, sliding: what the layers of the two pools store; sliding only where SGLang has a second pool."""

    name: str | None
    full: Attention | None
    sliding: Attention | None
    layers: tuple[Layer, ...]
    state: State | None
    state_layers: tuple[int, ...]
    stages: tuple[Stage, ...]
    latent: bool
    indexed_latent: bool
    indexed_heads: bool
    compressed: bool

    @property
    def attention(self) -> Attention:
        found = self.full or self.sliding
        return found if found is not None else Attention()


def pp_bounds(layers: int, stages: int) -> list[tuple[int, int]]:
    """Layers [start, stop) per stage; the layers left over go to the last stages, one each.

    >>> pp_bounds(61, 2)
    [(0, 30), (30, 61)]
    """
    share, extra = divmod(layers, stages)
    bounds, start = [], 0
    for stage in range(stages):
        stop = start + share + (stage >= stages - extra)
        bounds.append((start, stop))
        start = stop
    return bounds


def read_geometry(model: Model, *, attn_tp: int, pp: int, hybrid_swa: bool) -> Geometry:
    """The model's numbers on one rank of `attn_tp`.

    Raises: EngineRefusal where SGLang has no class for the model, no rule for a layer, or would not divide it.
    """
    name = classes.class_of(model)
    if not classes.is_supported(model):
        raise EngineRefusal(
            f"SGLang 0.5.23 has no model class {name or model.architecture}",
            fix="SGLang would only run it through transformers, which kvcalc does not model; choose another engine",
            field="model",
        )
    own = {block: _layer(block, kind.lower(), model) for block, kind in model.blocks.items()}
    shared = {block: getattr(kind, "of", None) for block, kind in model.blocks.items()}
    rows = tuple(_merge(names, own, shared) for names in model.layers)
    rows = _fill(rows)
    latent = name in classes.LATENT if name is not None else any(a.latent_dim for r in rows for a in r.attention)
    compressed = name in classes.COMPRESSED
    swa = hybrid_swa and name in classes.SLIDING and any(a.window for r in rows for a in r.attention)
    full, sliding = (None, None) if compressed else _two_shapes(rows, swa=swa)
    _check(name, rows, full, latent=latent, compressed=compressed)
    inkling = name == "InklingForConditionalGeneration" and any(row.has_state for row in rows)
    state = _inkling_state(model, full, sliding, attn_tp) if inkling else _state(model, attn_tp)
    indexed = any(a.index_dim for row in rows for a in row.attention)
    bounds = pp_bounds(len(rows), pp)
    if pp > len(rows):
        raise EngineRefusal(f"{pp} pipeline stages for {len(rows)} layers", fix="lower --pp", field="pp")
    return Geometry(
        name=name,
        full=full,
        sliding=sliding,
        layers=rows,
        state=state,
        state_layers=tuple(i for i, row in enumerate(rows) if row.has_state),
        stages=tuple(_stage(rows, start, stop, sliding is not None) for start, stop in bounds),
        latent=latent,
        indexed_latent=latent and indexed and (name is None or name in classes.INDEXED_LATENT),
        indexed_heads=indexed and name in classes.INDEXED_HEADS,
        compressed=compressed,
    )


def _layer(block: str, parts: Sequence[Component], model: Model) -> Layer:
    """What one block adds to a layer."""
    if any(part.name.startswith("cross_") for part in parts):
        raise EngineRefusal(
            "cross attention is not modelled for SGLang: it puts the encoder's tokens into the decoder's pool",
            fix="use -e transformers or -e ideal",
            field=f"attention.{block}",
        )
    state = any(part.role in ("conv", "state") for part in parts)
    index = next((part for part in parts if part.role == "index"), None)
    keys = [part for part in parts if part.role == "key"]
    if not keys:
        return Layer(attention=(), has_state=state)
    closed = next((part for part in keys if isinstance(part.law, Strided)), None)
    ratio = closed.law.tokens_per_slot if closed is not None and isinstance(closed.law, Strided) else 0
    law = keys[0].law
    window = law.window if isinstance(law, Windowed) else law.chunk if isinstance(law, Chunked) else None
    index_dim = 0 if index is None else index.elements_per_slot
    group = index.law.tokens_per_slot if index is not None and isinstance(index.law, Strided) else 1
    if keys[0].parts[0].shard == "heads":
        head = keys[0].parts[0]
        value = next((part.parts[0].width for part in parts if part.role == "value"), head.width)
        found = Attention(heads=head.units, key_dim=head.width, value_dim=value)
    else:
        rope = next((part.elements_per_slot for part in keys if part.name == "rope_key"), 0)
        if model.facts.get("use_mla_nope") is True:  # BailingMoeV3: no rotary key then
            rope = 0
        found = Attention(latent_dim=keys[0].elements_per_slot, rope_dim=rope)
    found = replace(found, window=window, index_dim=index_dim, index_group=group)
    return Layer(attention=(found,), has_state=state, ratio=ratio, index_dim=index_dim)


def _merge(names: tuple[str, ...], own: dict[str, Layer], shared: dict[str, str | None]) -> Layer:
    """All blocks of one layer together; a shared block gets the buffer of the block it reads."""
    found = [own[shared[name] or name] for name in names]
    return Layer(
        attention=tuple(item for layer in found for item in layer.attention),
        has_state=any(layer.has_state for layer in found),
        ratio=max((layer.ratio for layer in found), default=0),
        index_dim=max((layer.index_dim for layer in found), default=0),
    )


def _fill(rows: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """Without recurrent layers every hidden layer gets a buffer, also one that stores nothing (`num_hidden_layers`)."""
    if any(row.has_state for row in rows):
        return rows
    default = next((row.attention[:1] for row in rows if row.attention), ())
    return tuple(row if row.attention else Layer(attention=default, has_state=False) for row in rows)


def _two_shapes(rows: tuple[Layer, ...], *, swa: bool) -> tuple[Attention | None, Attention | None]:
    """The one shape of the full pool and of the sliding pool.

    Raises: EngineRefusal for layers of a pool that differ.
    """
    pools: tuple[list[Attention], list[Attention]] = ([], [])
    everything = [item for row in rows for item in row.attention]
    for item in everything:
        pools[swa and item.window is not None].append(item)
    if not swa and any(item.window is None for item in everything):
        # Without a second pool all layers have the shape of the full ones (`get_num_kv_heads`, head_dim).
        pools = ([item for item in everything if item.window is None], [])
    for pool in pools:
        if len({item.shape for item in pool}) > 1:
            raise EngineRefusal(
                "Variable GQA (VGQA) is not yet supported: SGLang's pools have one number of KV heads and one width",
                fix="choose another engine",
                field="attention",
            )
    full, sliding = pools
    best = max(full, key=lambda item: item.index_dim, default=None)
    return best, sliding[0] if sliding else None


def _check(
    name: str | None, rows: tuple[Layer, ...], full: Attention | None, *, latent: bool, compressed: bool
) -> None:
    if full is not None and bool(full.latent_dim) != latent:
        raise EngineRefusal(
            f"SGLang keeps no latent cache for {name}" if full.latent_dim else f"{name} caches a latent in SGLang",
            fix="the model file and the class disagree, or kvcalc has no rule for this class",
            field="architectures",
        )
    if latent and name not in classes.SLIDING and any(item.window for row in rows for item in row.attention):
        raise EngineRefusal(f"sliding latent layers of {name} are not modelled for SGLang", fix=_FACT_FIX)
    if not compressed and any(row.ratio for row in rows):
        raise EngineRefusal(f"compressed attention is not modelled for {name} in SGLang", fix=_FACT_FIX)


def _stage(rows: tuple[Layer, ...], start: int, stop: int, two_pools: bool) -> Stage:
    full: list[int] = []
    sliding: list[int] = []
    indexed: list[int] = []
    for index in range(start, stop):
        for item in rows[index].attention:
            (sliding if two_pools and item.window is not None else full).append(index)
            if item.index_dim:
                indexed.append(index)
    return Stage(
        start=start,
        stop=stop,
        full=tuple(full),
        sliding=tuple(sliding),
        indexed=tuple(indexed),
        states=tuple(i for i in range(start, stop) if rows[i].has_state),
        ratios=tuple(row.ratio for row in rows[start:stop]),
    )


def _inkling_state(model: Model, full: Attention | None, sliding: Attention | None, tp: int) -> State:
    """Six convolutions in every layer: over K and V of full and of sliding heads, and twice over the hidden state.

    Whole heads per rank, copied once ranks outnumber them; the hidden state is not divided.
    Source: srt/configs/inkling.py `mamba2_cache_params` without scattered convolutions.
    """
    convs = [part for kind in model.blocks.values() for part in kind.lower() if part.role == "conv"]
    taps = max((part.law.count for part in convs if isinstance(part.law, Constant)), default=0)
    found = []
    for shape in (full, sliding):
        if shape is not None:
            found += [(taps, max(1, shape.heads // tp) * shape.key_dim)] * 2
    return State(conv=(*found, *[(taps, model.hidden_size or 0)] * 2), temporal=(0,))


def _state(model: Model, tp: int) -> State | None:
    """The state of one recurrent layer, divided over `tp` ranks; all such layers must be alike.

    Raises: EngineRefusal where heads or channels do not divide (`ensure_divisibility`).
    """
    found: set[State] = set()
    for kind in model.blocks.values():
        parts = [part for part in kind.lower() if part.role in ("conv", "state")]
        if parts:
            found.add(_one_state(parts, tp))
    if len(found) > 1:
        raise EngineRefusal("layers with different recurrent states are not modelled for SGLang", fix=_FACT_FIX)
    return found.pop() if found else None


def _one_state(parts: Sequence[Component], tp: int) -> State:
    state = next((part for part in parts if part.role == "state"), None)
    heads = state.parts[0].units if state is not None else 0
    temporal: tuple[int, ...] = (0,)
    convs = []
    for conv in (part for part in parts if part.role == "conv"):
        channels = 0
        for part in conv.parts:
            units = part.units
            if len(conv.parts) > 1 and part.units != heads and units % tp:
                units += tp - units  # groups that do not divide are copied: `extra_groups_for_head_shards`
            channels += units * part.width
        rows = conv.law.count if isinstance(conv.law, Constant) else 0
        convs.append((rows, _divide(channels, tp)))
    if state is not None:
        temporal = (_divide(heads, tp), state.parts[0].width)
    return State(conv=tuple(convs), temporal=temporal)


def _divide(amount: int, tp: int) -> int:
    if amount % tp:
        raise EngineRefusal(f"{amount} is not divisible by {tp}", fix="choose a --tp that divides it", field="tp")
    return amount // tp
