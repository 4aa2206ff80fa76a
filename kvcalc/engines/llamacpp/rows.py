"""A model as llama.cpp's caches: one row description per tensor that a layer gets, everything but the counts.

A layer's keys of one retention become one K tensor (an MLA latent and its rotary key are one row), its values one V
tensor, its convolution tail and recurrent state two F32 tensors. What the architecture's code decides otherwise comes
from `arch`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from kvcalc.core.component import Chunked, Component, Encoder, Law, Linear, Strided, Windowed, period_of
from kvcalc.core.model import Kind, Model, Mtp
from kvcalc.engines.llamacpp.arch import Arch
from kvcalc.errors import EngineRefusal
from kvcalc.kinds.latent import LatentAttention
from kvcalc.kinds.other import SharedCache

#: full: the slot's whole context; window: the sliding cache; strided: one cell per `stride` tokens;
#: states: one row per sequence (and snapshot); pending: `stride` rows per sequence and snapshot.
Cells = Literal["full", "window", "strided", "states", "pending"]
RowRole = Literal["key", "value", "state"]


class Row(NamedTuple):
    """`len(layers)` equal tensors: `width` elements per cell, cells by rule `cells`."""

    name: str
    kind: str
    block: str
    law: str
    layers: tuple[int, ...]
    cells: Cells
    width: int
    role: RowRole
    stride: int = 1


class Caches(NamedTuple):
    """All rows of a model; the global window; the head dims that block formats must divide."""

    rows: tuple[Row, ...]
    window: int
    key_dims: tuple[int, ...]
    value_dims: tuple[int, ...]
    latent: bool


@dataclass(frozen=True, slots=True)
class _Block:
    """One kind, lowered: components by role, and its retention as the architecture keeps it."""

    name: str
    kind: str
    keys: tuple[Component, ...]
    values: tuple[Component, ...]
    index: tuple[Component, ...]
    states: tuple[Component, ...]
    pending: tuple[Component, ...]
    expanded: tuple[int, int, int, int] | None = None

    @property
    def attends(self) -> bool:
        return bool(self.keys)

    @property
    def key_width(self) -> int:
        return self.expanded[0] if self.expanded else _width(self.main_keys)

    @property
    def main_keys(self) -> tuple[Component, ...]:
        """The keys of every token (the compressed entries of CSA and HCA are caches of their own)."""
        return tuple(part for part in self.keys if not isinstance(part.law, Strided))

    @property
    def value_width(self) -> int:
        return self.expanded[1] if self.expanded else _width(self.values)

    @property
    def head_dims(self) -> tuple[int, int]:
        """(K, V) elements of one head: block formats must divide them. MLA counts as one head of its whole row."""
        if self.expanded:
            return self.expanded[2:]
        if self.values:
            return self.main_keys[0].parts[0].width, self.values[0].parts[0].width
        return _width(self.main_keys), self.main_keys[0].elements_per_slot


def _width(components: tuple[Component, ...]) -> int:
    return sum(component.elements_per_slot for component in components)


def _lower(name: str, kind: Kind, arch: Arch, architecture: str) -> _Block:
    parts: dict[str, list[Component]] = {"key": [], "value": [], "index": [], "state": [], "pending": []}
    for component in kind.lower():
        if isinstance(component.law, Encoder):
            continue  # cross attention is recomputed from the encoder's output, never cached (src/models/t5.cpp)
        parts["state" if component.role == "conv" else component.role].append(component)
    expanded = None
    if isinstance(kind, LatentAttention):
        if arch.latent == "no":
            raise _refusal(architecture, name, "keeps no compressed latent")
        if arch.latent == "expanded":
            expanded = _expanded(kind, architecture, name)
            parts["key"], parts["value"] = parts["key"][:1], parts["key"][:1]
    states = tuple(parts["state"])
    if states and arch.memory not in ("recurrent", "hybrid"):
        raise _refusal(architecture, name, "keeps no recurrent state")
    if parts["index"] and not arch.index:
        raise _refusal(architecture, name, "has no indexer cache")
    return _Block(
        name, kind.kind, tuple(parts["key"]), tuple(parts["value"]), tuple(parts["index"]), states,
        tuple(parts["pending"]), expanded,
    )  # fmt: skip


def _refusal(architecture: str, block: str, what: str) -> EngineRefusal:
    return EngineRefusal(
        f"llama.cpp's {architecture} {what}, but block {block!r} needs it",
        fix="check the model's architecture, or use another engine",
        field=f"attention.{block}",
    )


def _expanded(kind: LatentAttention, architecture: str, name: str) -> tuple[int, int, int, int]:
    """MiniCPM3 is an MLA model whose GGUF caches a key and a value per head (conversion/minicpm.py)."""
    if kind.nope_dim is None or kind.v_head_dim is None:
        raise EngineRefusal(
            f"llama.cpp's {architecture} caches every head's key and value: block {name!r} must say their widths",
            fix="add nope_dim and v_head_dim",
            field=f"attention.{name}",
        )
    key = kind.nope_dim + kind.rope_dim
    return kind.heads * key, kind.heads * kind.v_head_dim, key, kind.v_head_dim


def caches_of(model: Model, arch: Arch, architecture: str, *, flash: bool, from_file: bool) -> Caches:
    """The rows of `model` under the rules `arch`.

    flash: False pads V rows, see `_value_rows`. from_file: the model was read from a GGUF.
    Raises: EngineRefusal where this architecture's code cannot hold a block of the model.
    """
    if arch.memory == "none":
        return Caches(rows=(), window=0, key_dims=(), value_dims=(), latent=False)
    used = model.stage_blocks(0, len(model.layers))
    blocks = {name: _lower(name, model.blocks[name], arch, architecture) for name in used}
    _check_shared(model, arch, architecture, used)
    window, sliding = _window(blocks, arch, architecture)
    rows: list[Row] = []
    widest = _widest_value(model, arch, architecture, blocks) if not flash else 0
    for name, layers in used.items():
        kept = tuple(layer for layer in layers if arch.kv_layers is None or layer < arch.kv_layers)
        if kept:
            rows += _attention_rows(blocks[name], kept, sliding=name in sliding, arch=arch, widest=widest)
            rows += _state_rows(blocks[name], kept)
    if widest and arch.memory == "attention":
        rows += _empty_layers(model, blocks, arch, widest)
    if architecture == "deepseek4" and from_file and model.mtp is not None:
        rows += _mtp_rows(model, model.mtp, arch, architecture)
    attending = [block for block in blocks.values() if block.attends]
    return Caches(
        rows=tuple(rows),
        window=window,
        key_dims=tuple(sorted({block.head_dims[0] for block in attending})),
        value_dims=_value_dims(model, attending, architecture),
        latent=any(not block.values for block in attending),
    )


def _value_dims(model: Model, attending: list[_Block], architecture: str) -> tuple[int, ...]:
    dims = {block.head_dims[1] for block in attending}
    stated = model.facts.get("gguf_value_length")
    if isinstance(stated, int) and stated:
        return (stated,)
    if architecture == "kimi-linear" and model.hidden_size is not None:
        # Its converter writes no value_length, so the loader falls back to embedding_length / head_count.
        heads = {kind.heads for kind in model.blocks.values() if isinstance(kind, LatentAttention)}
        return tuple(sorted(model.hidden_size // count for count in heads))
    return tuple(sorted(dims))


def _check_shared(model: Model, arch: Arch, architecture: str, used: dict[str, tuple[int, ...]]) -> None:
    for name, layers in used.items():
        if not isinstance(model.blocks[name], SharedCache):
            continue
        if not arch.shares:
            raise _refusal(architecture, name, "cannot share a cache between layers")
        if arch.kv_layers is not None and min(layers) < arch.kv_layers:
            raise EngineRefusal(
                f"llama.cpp's {architecture} keeps a cache in its first {arch.kv_layers} layers in any case, "
                f"but layer {min(layers)} shares one",
                fix="use another engine",
                field=f"attention.{name}",
            )


def _window(blocks: dict[str, _Block], arch: Arch, architecture: str) -> tuple[int, frozenset[str]]:
    """The one window of the model and the blocks that slide; (0, none) where the architecture ignores windows."""
    laws: dict[str, Law] = {name: block.main_keys[0].law for name, block in blocks.items() if block.main_keys}
    sliding = {name: law for name, law in laws.items() if not isinstance(law, Linear)}
    if arch.windows is None or not sliding:
        return 0, frozenset()
    if arch.windows.fixed is not None:
        return arch.windows.fixed, frozenset(sliding)
    sizes = {
        law.window if isinstance(law, Windowed) else law.chunk
        for law in sliding.values()
        if isinstance(law, Windowed | Chunked)
    }
    if len(sizes) != 1:
        raise EngineRefusal(
            f"llama.cpp holds one window per model, this {architecture} has {sorted(sizes)}", fix="use another engine"
        )
    return sizes.pop(), frozenset(sliding)


def _widest_value(model: Model, arch: Arch, architecture: str, blocks: dict[str, _Block]) -> int:
    """The widest V row of any layer of the file, MTP and sharing layers included (`n_embd_v_gqa_max`)."""
    widths = [block.value_width for block in blocks.values()]
    extra = {kind.of for kind in model.blocks.values() if isinstance(kind, SharedCache) and kind.of is not None}
    if model.mtp is not None:
        extra.add(model.mtp.block)
    widths += [_lower(name, model.blocks[name], arch, architecture).value_width for name in extra - set(blocks)]
    return max(widths, default=0)


def _attention_rows(block: _Block, layers: tuple[int, ...], *, sliding: bool, arch: Arch, widest: int) -> list[Row]:
    """K, V, compressed entries and indexer keys.

    Without flash attention V is stored transposed, and every layer's row is as wide as the widest
    (llama-kv-cache.cpp, the padding marked TAG_V_CACHE_VARIABLE).
    """
    rows: list[Row] = []
    if block.main_keys:
        law = str(block.main_keys[0].law) if sliding else "linear"
        cells: Cells = "window" if sliding else "full"
        names = "+".join(part.name for part in block.main_keys)
        rows.append(_row(block, layers, name=names, law=law, cells=cells, width=block.key_width))
        if block.values:
            width = widest or block.value_width
            rows.append(_row(block, layers, name="value", law=law, cells=cells, width=width, role="value"))
    strided = [part for part in block.keys if isinstance(part.law, Strided)]
    rows += [_entry(block, layers, part) for part in strided]
    for part in block.index:
        # Beside compressed entries there is one indexer key per entry; everywhere else one per token.
        if strided:
            rows.append(_entry(block, layers, part))
            continue
        width = part.elements_per_slot * arch.index_factor
        rows.append(_row(block, layers, name=part.name, law="linear", cells="full", width=width))
        if arch.index_value:
            width = block.head_dims[1]
            rows.append(_row(block, layers, name="index_value", law="linear", cells="full", width=width, role="value"))
    return rows


def _row(
    block: _Block,
    layers: tuple[int, ...],
    *,
    name: str,
    law: str,
    cells: Cells,
    width: int,
    role: RowRole = "key",
    stride: int = 1,
) -> Row:
    return Row(name, block.kind, block.name, law, layers, cells, width, role, stride)


def _entry(block: _Block, layers: tuple[int, ...], part: Component) -> Row:
    """A compressed entry, or the indexer's key of one."""
    stride = part.law.tokens_per_slot if isinstance(part.law, Strided) else 1
    width = part.elements_per_slot
    return _row(block, layers, name=part.name, law=str(part.law), cells="strided", width=width, stride=stride)


def _state_rows(block: _Block, layers: tuple[int, ...]) -> list[Row]:
    """F32 tensors: one row per sequence of a recurrent state; several rows of inputs of an open compression group.

    The two halves (convolution tail and state) are tensors of their own, because each is padded on its own
    (llama-memory-recurrent.cpp). DeepSeek-V4's compressors keep 2 x ratio rows where groups overlap (those with an
    indexer), ratio rows elsewhere (llama-kv-cache-dsv4.cpp llama_dsv4_comp_state).
    """
    rows = []
    for role in ("conv", "state"):
        parts = [part for part in block.states if part.role == role]
        if parts:
            width = sum(part.elements_per_slot * part.law.slots(0) for part in parts)
            name = parts[0].name
            rows.append(_row(block, layers, name=name, law="constant", cells="states", width=width, role="state"))
    for part in block.pending:
        stride = period_of(part.law) * (2 if block.index else 1)
        row = _row(block, layers, name=part.name, law=str(part.law), cells="pending", width=part.elements_per_slot)
        rows.append(row._replace(role="state", stride=stride))
    return rows


def _empty_layers(model: Model, blocks: dict[str, _Block], arch: Arch, widest: int) -> list[Row]:
    """Layers without KV heads still get a V tensor of the widest row where V is transposed (Nemotron-NAS)."""
    if arch.shares:
        return []
    layers = tuple(index for index, names in enumerate(model.layers) if not any(blocks[name].attends for name in names))
    if not layers:
        return []
    name = model.layers[layers[0]][0]
    return [_row(blocks[name], layers, name="value", law="linear", cells="full", width=widest, role="value")]


def _mtp_rows(model: Model, mtp: Mtp, arch: Arch, architecture: str) -> list[Row]:
    """DeepSeek-V4 gives the MTP layers of the file a window cache in the main context too."""
    block = _lower(mtp.block, model.blocks[mtp.block], arch, architecture)
    first = len(model.layers)
    layers = tuple(range(first, first + mtp.layers))
    rows = _attention_rows(block, layers, sliding=True, arch=arch, widest=0)
    return [row for row in rows if row.cells == "window"]
