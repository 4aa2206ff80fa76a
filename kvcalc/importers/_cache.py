"""What a family rule hands back: the blocks of a model and which layer has which."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from kvcalc.core.light import Any
from kvcalc.errors import ModelFileError, short
from kvcalc.importers._keys import Keys

#: One block as the document writes it: {"kind": "gqa", "heads": 32, ...}.
Block = dict[str, Any]
#: The named blocks of one layer; none at all for a layer without a cache.
Layer = tuple[tuple[str, Block], ...]

#: transformers 5.23 configuration_utils.py: old names of layer types that configs still carry.
LEGACY_TYPES = {
    "mamba": "linear_attention",
    "mamba2": "linear_attention",
    "attention": "full_attention",
    "deepseek_sparse_attention": "indexed_attention",
    "qwen_sparse_attention": "indexed_attention",
}
NONE: Layer = ()
#: No published model comes near.
MAX_VARIANTS = 200


class Cache:
    """Blocks by name, and for each layer the names it has."""

    def __init__(
        self,
        blocks: dict[str, Block] | None = None,
        layers: list[tuple[str, ...]] | None = None,
        mtp: tuple[int, str] | None = None,
    ) -> None:
        self.blocks = {} if blocks is None else blocks
        self.layers = [] if layers is None else layers
        self.mtp = mtp

    def add(self, layer: Layer) -> None:
        """Append one layer; a name that already means another block gets a number."""
        self.layers.append(tuple(self._name(name, block) for name, block in layer) or ("none",))

    def _name(self, name: str, block: Block) -> str:
        candidate, number = name, 1
        while self.blocks.setdefault(candidate, block) != block:
            number += 1
            if number > MAX_VARIANTS:
                raise ModelFileError(
                    f"more than {MAX_VARIANTS} different layers of one type",
                    fix="check the per-layer lists",
                    value=block,
                )
            candidate = f"{name}_{number}"
        return candidate

    def with_mtp(self, keys: Keys, block: str, *names: str) -> Cache:
        """Note the checkpoint's multi-token-prediction layers, each with the cache of `block`."""
        count = keys.maybe(*(names or ("num_nextn_predict_layers",)), least=0, most=1000)
        if count and block in self.blocks:
            self.mtp = (count, block)
        return self


def attention(
    keys: Keys,
    heads: int,
    groups: int,
    head_dim: int,
    *,
    v_head_dim: int | None = None,
    window: int | None = None,
    chunk: int | None = None,
    **more: Any,
) -> Block:
    """A block of attention heads; mha, gqa or mqa follows from the number of KV heads.

    Raises: ModelFileError when the KV heads do not divide the heads.
    """
    if heads % groups:
        raise keys.error(
            "num_key_value_heads",
            f"{heads} attention heads cannot share {groups} KV heads evenly",
            fix="num_key_value_heads must divide num_attention_heads: check both",
            value=groups,
        )
    block: Block = {"kind": "mha" if groups == heads else "mqa" if groups == 1 else "gqa", "heads": heads}
    if block["kind"] == "gqa":
        block["groups"] = groups
    block["head_dim"] = head_dim
    if v_head_dim is not None and v_head_dim != head_dim:
        block["v_head_dim"] = v_head_dim
    block |= {key: value for key, value in (("window", window), ("chunk", chunk)) if value is not None}
    return block | more


def read_heads(keys: Keys) -> int:
    return keys.whole("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads")


def read_groups(keys: Keys, heads: int) -> int:
    """KV heads; absent (or null) means one per query head, as in every class that lets it be absent.

    Raises: ModelFileError where the class has a default of its own, which the config should state.
    """
    names = ("num_key_value_heads", "num_kv_heads", "n_kv_heads", "n_head_kv", "kv_n_heads")
    groups = keys.maybe(*names)
    if groups is not None:
        return groups
    if "num_key_value_heads" in keys.defaults and "num_key_value_heads" not in keys.values:
        raise keys.error(
            "num_key_value_heads",
            "num_key_value_heads is missing",
            fix="add it: for this model_type an absent value does not mean one per attention head",
        )
    keys.notes.derive(f"num_key_value_heads = num_attention_heads = {heads}: absent, so multi-head attention")
    return heads


def read_head_dim(keys: Keys, heads: int, *names: str) -> int:
    """`head_dim`, else hidden_size // heads as transformers computes it, written down as derived."""
    head_dim = keys.maybe(*(names or ("head_dim",)))
    if head_dim is not None:
        return head_dim
    hidden = keys.whole("hidden_size", "n_embd", "d_model", "n_embed")
    if hidden < heads:
        raise keys.error(
            "head_dim", f"head_dim is absent, and hidden_size {hidden} is below {heads} heads", fix="add it"
        )
    if hidden % heads:  # the rest is dropped, as by the classes that let this happen
        keys.notes.warn(f"head_dim is absent and hidden_size {hidden} is no multiple of {heads} heads: add head_dim")
    keys.notes.derive(f"head_dim = hidden_size // num_attention_heads = {hidden // heads}")
    return hidden // heads


def read_attention(keys: Keys, *, window: int | None = None, chunk: int | None = None) -> Block:
    """The usual keys: num_attention_heads, num_key_value_heads, head_dim, v_head_dim is never assumed."""
    heads = read_heads(keys)
    return attention(keys, heads, read_groups(keys, heads), read_head_dim(keys, heads), window=window, chunk=chunk)


def uniform(keys: Keys, block: Block, *, layers: int | None = None, name: str = "attention") -> Cache:
    """Every layer has the same block."""
    cache = Cache()
    for _ in range(keys.layers() if layers is None else layers):
        cache.add(((name, block),))
    return cache


def declared_types(keys: Keys, count: int, *names: str) -> tuple[list[str], str] | None:
    """The config's own list of layer types and the key it stands under.

    Raises: ModelFileError when its length is not the number of layers.
    """
    for name in names or ("layer_types", "layers_block_type"):
        types = keys.texts(name)
        if types is None:
            continue
        spare = keys.maybe("num_nextn_predict_layers", "num_mtp_layers", least=0, most=1000) or 0
        if spare and len(types) == count + spare:
            keys.notes.derive(f"{name} lists {count + spare} layers: the last {spare} are multi-token prediction")
            types = types[:count]
        if len(types) != count:
            raise keys.error(
                name,
                f"{name} lists {len(types)} layers, num_hidden_layers is {count}",
                fix="one entry per layer: check both",
                value=len(types),
            )
        return [LEGACY_TYPES.get(item, item) for item in types], name
    return None


def by_type(keys: Keys, types: Sequence[str], source: str, builders: Mapping[str, Callable[[Keys], Layer]]) -> Cache:
    """One layer per type.

    Raises: ModelFileError naming layer and key for a type this family does not have.
    """
    cache = Cache()
    seen: dict[str, Layer] = {}
    overrides = keys.overrides()
    for index, kind in enumerate(types):
        if kind not in builders:
            raise keys.error(
                f"{source}[{index}]",
                f"layer {index} has the unknown type {short(kind)}",
                fix=f"this model_type has: {', '.join(builders)}; kvcalc must learn what this layer stores",
                value=kind,
            )
        if index in overrides:
            cache.add(builders[kind](keys.overlaid(overrides[index])))
            continue
        if kind not in seen:
            seen[kind] = builders[kind](keys)
        cache.add(seen[kind])
    return cache


def index_set(keys: Keys, name: str, count: int, *, first: int = 0) -> set[int] | None:
    """A list of layer numbers (counted from `first`) as a set counted from 0.

    Raises: ModelFileError for a number that is no layer, or one listed twice.
    """
    numbers = keys.wholes(name, least=first, most=count - 1 + first)
    if numbers is None:
        return None
    found = {number - first for number in numbers}
    if len(found) != len(numbers):
        raise keys.error(name, f"{name} lists a layer twice", fix="each layer once", value=numbers)
    return found


def rope_layers(keys: Keys, count: int) -> list[bool]:
    """`no_rope_layers` (1 = the layer has rotary embedding), else every no_rope_layer_interval-th has none."""
    listed = keys.wholes("no_rope_layers", most=1)
    if listed:
        if len(listed) != count:
            raise keys.error("no_rope_layers", f"{len(listed)} entries for {count} layers", fix="one per layer")
        return [bool(entry) for entry in listed]
    interval = keys.maybe("no_rope_layer_interval") or 4
    return [bool((index + 1) % interval) for index in range(count)]
