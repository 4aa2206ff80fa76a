"""Decoders that mix full layers with sliding or chunked ones: whose layer is which when the config does not list it.

A listed `layer_types` always wins. Source of every pattern: transformers 5.23
models/<model_type>/configuration_<model_type>.py `__post_init__`; caching: cache_utils.py:1918-1928.
"""

from __future__ import annotations

from collections.abc import Callable

from kvcalc.errors import short
from kvcalc.importers._cache import (
    Block,
    Cache,
    Layer,
    attention,
    by_type,
    declared_types,
    read_attention,
    read_groups,
    read_heads,
    rope_layers,
)
from kvcalc.importers._keys import Keys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"
Pattern = Callable[[Keys, int], list[str]]


def window_of(keys: Keys) -> int | None:
    """`sliding_window`, unless `use_sliding_window` switches it off."""
    if not keys.flag("use_sliding_window", default=True):
        if keys.has("sliding_window"):
            keys.notes.derive("sliding_window is off: use_sliding_window is false")
        return None
    if "sliding_window" in keys.values:
        return keys.window("sliding_window")
    return keys.window("sliding_window", "sliding_window_size")


def mixed(keys: Keys, pattern: Pattern) -> Cache:
    """Layers by `layer_types`, else by the family's pattern; blocks `local` (window), `chunked`, `global`.

    Raises: ModelFileError for a sliding layer without sliding_window.
    """
    count = keys.layers()
    listed = declared_types(keys, count)
    if listed is None:
        types, source = pattern(keys, count), "layer_types"
        if len(set(types)) > 1:
            keys.notes.derive(
                f"layer_types: absent; {types.count(FULL)} of {count} layers are full, by the model_type's rule"
            )
    else:
        types, source = listed
    builders = {FULL: _full, SLIDING: _sliding, CHUNKED: _chunked}
    cache = by_type(keys, types, source, builders)
    return _plain_name(cache).with_mtp(keys, "global" if "global" in cache.blocks else "attention")


def _plain_name(cache: Cache) -> Cache:
    """One block for all layers needs no name."""
    if len(cache.blocks) == 1 and len(set(cache.layers)) == 1:
        ((_, block),) = cache.blocks.items()
        return Cache({"attention": block}, [("attention",)] * len(cache.layers), cache.mtp)
    return cache


def _full(keys: Keys) -> Layer:
    return (("global", read_attention(keys)),)


def _sliding(keys: Keys) -> Layer:
    window = window_of(keys)
    if window is None:
        raise keys.error(
            "sliding_window", "a layer is sliding_attention, but sliding_window is absent or off", fix="add it"
        )
    return (("local", read_attention(keys, window=window)),)


def _chunked(keys: Keys) -> Layer:
    """Llama 4; a null attention_chunk_size switches the chunks off (vLLM models/llama4.py)."""
    chunk = keys.window("attention_chunk_size")
    return (("chunked", read_attention(keys, chunk=chunk)),) if chunk else _full(keys)


def full_every(default: int | None, *names: str, first: int = -1) -> Pattern:
    """One full layer per period, the last of it (first=-1) or the first (first=0). Period: a key, else `default`."""

    def types(keys: Keys, count: int) -> list[str]:
        period = next((value for name in names if (value := keys.maybe(name)) is not None), default)
        if period is None:
            raise keys.error(names[0], f"{names[0]} is missing", fix="add it, or layer_types")
        return [FULL if index % period == first % period else SLIDING for index in range(count)]

    return types


def all_sliding(keys: Keys, count: int) -> list[str]:
    """Every layer slides where sliding_window is set (Mistral, Phi-3, StarCoder2)."""
    return [FULL if window_of(keys) is None else SLIDING] * count


def all_full(_: Keys, count: int) -> list[str]:
    return [FULL] * count


def mistral_types(keys: Keys, count: int) -> list[str]:
    """Mistral v0.1 says 4096, later ones say null, and trimmed copies drop the null."""
    if not keys.path and "sliding_window" not in keys.values and not keys.has("sliding_window_size"):
        keys.notes.warn(
            "sliding_window is absent and read as null (full attention); transformers' own class would assume "
            "a window: write sliding_window: null or the number",
            exact=False,
        )
        return [FULL] * count
    return all_sliding(keys, count)


def late_sliding(keys: Keys, count: int) -> list[str]:
    """Qwen2, Qwen3: layers from max_window_layers on slide, when use_sliding_window is true."""
    if not keys.flag("use_sliding_window", default=keys.text("model_type") == "dots1") or window_of(keys) is None:
        if keys.has("sliding_window"):
            keys.notes.derive("sliding_window is off: use_sliding_window is not true")
        return [FULL] * count
    start = keys.whole("max_window_layers", least=0)
    return [SLIDING if index >= start else FULL for index in range(count)]


def early_alternating(keys: Keys, count: int) -> list[str]:
    """Qwen2-MoE: even layers below max_window_layers slide, when use_sliding_window is true."""
    if not keys.flag("use_sliding_window"):
        return [FULL] * count
    stop = keys.whole("max_window_layers", least=0)
    return [SLIDING if index % 2 == 0 and index < stop else FULL for index in range(count)]


def switched_sliding(keys: Keys, count: int) -> list[str]:
    """Qwen3-MoE: all layers slide when use_sliding_window is true."""
    return [SLIDING if keys.flag("use_sliding_window") and window_of(keys) is not None else FULL] * count


def smollm3(keys: Keys, count: int) -> list[str]:
    """Only layers without rotary embedding slide, when use_sliding_window is true."""
    if not keys.flag("use_sliding_window") or window_of(keys) is None:
        return [FULL] * count
    return [FULL if rope else SLIDING for rope in rope_layers(keys, count)]


def llama4(keys: Keys, count: int) -> list[str]:
    """Layers with rotary embedding attend in chunks, the others in full."""
    return [CHUNKED if rope else FULL for rope in rope_layers(keys, count)]


def exaone4(keys: Keys, count: int) -> list[str]:
    """EXAONE 4: sliding_window_pattern is a period or letters ("LLLG"); no window, no sliding layer."""
    if window_of(keys) is None:
        return [FULL] * count
    pattern = keys.raw("sliding_window_pattern")
    if isinstance(pattern, str):
        if not pattern or set(pattern) - {"L", "G"}:
            raise keys.error("sliding_window_pattern", f"{short(pattern)} is no pattern of L and G", fix="like LLLG")
        # The last layer is always global (EXAONE 4.0 modeling, hybrid attention).
        kinds = [FULL if pattern[index % len(pattern)] == "G" else SLIDING for index in range(count)]
        return [*kinds[:-1], FULL]
    return full_every(4, "sliding_window_pattern")(keys, count)


def cohere2_moe(keys: Keys, count: int) -> list[str]:
    """The first dense layers have a period of their own."""
    dense = min(keys.maybe("first_k_dense_replace", least=0) or 0, count)
    head = full_every(None, "prefix_dense_sliding_window_pattern")(keys, dense) if dense else []
    return head + full_every(4, "sliding_window_pattern")(keys, count - dense)


def beam(keys: Keys, count: int) -> list[str]:
    return [*full_every(6)(keys, count)[:-1], FULL]


def flint(_: Keys, count: int) -> list[str]:
    return [FULL if index < 2 or index % 4 == 1 or index == count - 1 else SLIDING for index in range(count)]


def counted_from_last(_: Keys, count: int) -> list[str]:
    """Muse: every 4th layer is full, counted backwards from the last."""
    return [FULL if (count - 1 - index) % 4 == 0 else SLIDING for index in range(count)]


def modernbert_decoder(keys: Keys) -> Cache:
    """ModernBERT decoder: `sliding_window` where stated, else half of `local_attention`."""
    local = keys.window("local_attention")
    if local is not None and not keys.has("sliding_window"):
        keys.notes.derive(f"sliding_window = local_attention // 2 = {local // 2}")
        keys = keys.overlaid({"sliding_window": local // 2})
    return mixed(keys, full_every(3, "global_attn_every_n_layers", first=0))


def gemma3(keys: Keys) -> Cache:
    """Gemma 3; bidirectional variants (EmbeddingGemma) halve the window: it reaches to both sides."""
    if keys.flag("use_bidirectional_attention"):
        keys = _half_window(keys)
    return mixed(keys, full_every(6, "sliding_window_pattern", "_sliding_window_pattern"))


def _half_window(keys: Keys) -> Keys:
    window = keys.window("sliding_window")
    if window is None:
        return keys
    keys.notes.derive(f"window = sliding_window // 2 + 1 = {window // 2 + 1}: attention is bidirectional")
    return keys.overlaid({"sliding_window": window // 2 + 1})


def shared_tail(keys: Keys, cache: Cache) -> Cache:
    """The last `num_kv_shared_layers` layers read the cache of the last earlier layer of their type.

    Source: gemma3n/configuration_gemma3n.py:207-232, gemma4/configuration_gemma4.py `kv_sharing_modes`.
    """
    shared = keys.maybe("num_kv_shared_layers", least=0) or 0
    if not shared:
        return cache
    start = len(cache.layers) - shared
    owners = {layer[0] for layer in cache.layers[: max(start, 0)]}
    if start < 1 or any(layer[0] not in owners for layer in cache.layers[start:]):
        raise keys.error(
            "num_kv_shared_layers",
            f"{shared} of {len(cache.layers)} layers share a cache that no earlier layer of their type writes",
            fix="check num_kv_shared_layers",
            value=shared,
        )
    for index in range(start, len(cache.layers)):
        (name,) = cache.layers[index]
        cache.blocks.setdefault(f"{name}_shared", {"kind": "shared", "of": name})
        cache.layers[index] = (f"{name}_shared",)
    return cache


def gemma3n(keys: Keys) -> Cache:
    return shared_tail(keys, mixed(keys, full_every(5)))


def gemma4(keys: Keys) -> Cache:
    """Gemma 4: full layers have their own head_dim, and KV heads where attention_k_eq_v is set; K and V are stored.

    Source: gemma4/configuration_gemma4.py `__post_init__` (last layer forced full, window halved for "all").
    """
    if keys.text("use_bidirectional_attention") == "all":
        keys = _half_window(keys)
    count = keys.layers()
    listed = declared_types(keys, count)
    types, source = listed or (full_every(6)(keys, count), "layer_types")
    if types[-1] != FULL:
        keys.notes.derive("the last layer is full_attention, whatever layer_types says (gemma4)")
    cache = by_type(keys, [*types[:-1], FULL], source, {FULL: _gemma4_full, SLIDING: _sliding})
    return shared_tail(keys, cache)


def _gemma4_full(keys: Keys) -> Layer:
    heads = read_heads(keys)
    if "per_layer_config" in keys.values:  # transformers 5 has folded the global dims into it
        return _full(keys)
    head_dim = keys.maybe("global_head_dim")
    if head_dim is None:
        head_dim = 512
        keys.notes.derive("global_head_dim = 512: absent, the default of gemma4 in transformers 5.23")
    groups = keys.maybe("num_global_key_value_heads") if keys.flag("attention_k_eq_v", default=True) else None
    return (("global", attention(keys, heads, groups or read_groups(keys, heads), head_dim)),)


def mimo(keys: Keys) -> Cache:
    """MiMo-V2: K and V of different width, sliding layers with heads of their own; 1 in hybrid_layer_pattern slides.

    Source: XiaomiMiMo/MiMo-V2-Flash config.json; mimo_v2_flash/modeling_mimo_v2_flash.py:341 (twice the KV heads).
    """
    count = keys.layers()
    slides = keys.wholes("hybrid_layer_pattern", most=1)
    listed = declared_types(keys, count)
    if listed is None and slides is not None:
        if len(slides) < count:
            raise keys.error("hybrid_layer_pattern", f"{len(slides)} entries for {count} layers", fix="one per layer")
        listed = [SLIDING if entry else FULL for entry in slides[:count]], "hybrid_layer_pattern"
    types, source = listed or ([FULL if not i or not (i + 1) % 6 else SLIDING for i in range(count)], "layer_types")
    if keys.has("sliding_window_size"):
        keys.notes.facts["sliding_window_size"] = keys.whole("sliding_window_size", most=2**40)
    cache = by_type(keys, types, source, {FULL: _mimo_full, SLIDING: _mimo_sliding})
    return cache.with_mtp(keys, "local")


def _mimo_full(keys: Keys) -> Layer:
    heads = read_heads(keys)
    return (("global", _wide(keys, heads, read_groups(keys, heads), "")),)


def _mimo_sliding(keys: Keys) -> Layer:
    heads = keys.maybe("swa_num_attention_heads") or read_heads(keys)
    groups = keys.maybe("swa_num_key_value_heads")
    if groups is None:
        groups = 2 * read_groups(keys, heads)
        keys.notes.derive(f"swa_num_key_value_heads = 2 x num_key_value_heads = {groups}")
    window = keys.window("sliding_window", "sliding_window_size")
    if window is None:
        raise keys.error("sliding_window", "sliding_window is missing", fix="add it")
    return (("local", _wide(keys, heads, groups, "swa_", window=window)),)


def _wide(keys: Keys, heads: int, groups: int, prefix: str, **more: Any) -> Block:
    head_dim = (keys.maybe("swa_head_dim") if prefix else None) or keys.whole("head_dim")
    v_head_dim = (keys.maybe("swa_v_head_dim") if prefix else None) or keys.maybe("v_head_dim")
    return attention(keys, heads, groups, head_dim, v_head_dim=v_head_dim, **more)


def varied_heads(keys: Keys) -> Cache:
    """Laguna: num_attention_heads_per_layer varies query heads only; the cache does not change."""
    per_layer = keys.wholes("num_attention_heads_per_layer", least=1)
    if per_layer is None or keys.has("per_layer_config"):
        return mixed(keys, all_full)
    if len(per_layer) != keys.layers():
        raise keys.error("num_attention_heads_per_layer", "its length is not num_hidden_layers", fix="one per layer")
    overrides = {index: {"num_attention_heads": heads} for index, heads in enumerate(per_layer)}
    return mixed(keys.overlaid({"per_layer_config": overrides}), all_full)


def step3p5(keys: Keys) -> Cache:
    """Step 3.5 / 3.7: lists padded with MTP layers; attention_other_setting changes heads of sliding layers."""
    other = keys.section("attention_other_setting")
    cache = mixed(keys, all_full)
    local = cache.blocks.get("local")
    if other is not None and local is not None:
        heads = other.maybe("num_attention_heads") or local["heads"]
        groups = other.maybe("num_attention_groups", "num_key_value_heads") or read_groups(keys, heads)
        head_dim = other.maybe("head_dim") or local["head_dim"]
        cache.blocks["local"] = attention(keys, heads, groups, head_dim, window=local["window"])
    return cache
