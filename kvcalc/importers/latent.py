"""Multi-head latent attention and what stands beside it: DSA indexers, NoPE layers, shared latents, DeepSeek-V4."""

from __future__ import annotations

from kvcalc.errors import short
from kvcalc.importers._cache import (
    Block,
    Cache,
    Layer,
    attention,
    by_type,
    declared_types,
    read_heads,
    rope_layers,
    uniform,
)
from kvcalc.importers._keys import Keys
from kvcalc.importers.plain import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FULL, SLIDING, INDEXED = "full_attention", "sliding_attention", "indexed_attention"


def mla_block(keys: Keys, **more: Any) -> Block:
    """kv_lora_rank + qk_rope_head_dim per token; the head dims it expands to are noted where stated.

    Source: transformers 5.23 deepseek_v3/modeling_deepseek_v3.py:459.
    """
    block: Block = {
        "kind": "mla",
        "heads": read_heads(keys),
        "latent_dim": keys.whole("kv_lora_rank"),
        "rope_dim": keys.whole("qk_rope_head_dim", least=0),
    }
    nope, value = keys.maybe("qk_nope_head_dim", least=0), keys.maybe("v_head_dim")
    if nope is not None and value is not None:
        block |= {"nope_dim": nope, "v_head_dim": value}
    return block | more


def mla(keys: Keys) -> Cache:
    """DeepSeek-V2/V3 and their kin; `use_mla: false` or a null kv_lora_rank is plain attention (DeepSeek-VL2-tiny)."""
    if not keys.flag("use_mla", default=True) or ("kv_lora_rank" in keys.values and not keys.has("kv_lora_rank")):
        return plain(keys)
    return uniform(keys, mla_block(keys)).with_mtp(keys, "attention")


def minicpm3(keys: Keys) -> Cache:
    """MiniCPM3: an absent v_head_dim is hidden_size / heads (openbmb/MiniCPM3-4B configuration_minicpm.py)."""
    if not keys.has("v_head_dim"):
        heads, hidden = read_heads(keys), keys.whole("hidden_size")
        keys = keys.overlaid({"v_head_dim": max(hidden // heads, 1)})
        keys.notes.derive(f"v_head_dim = hidden_size // num_attention_heads = {hidden // heads}")
    return uniform(keys, mla_block(keys))


def longcat_flash(keys: Keys) -> Cache:
    """LongCat-Flash: each of num_layers layers holds two MLA attentions, each with its own cache.

    Source: transformers 5.23 longcat_flash/configuration_longcat_flash.py (num_hidden_layers = 2 x num_layers).
    """
    count = keys.maybe("num_layers", most=5000)
    if count is None:
        doubled = keys.layers("num_hidden_layers")
        if doubled % 2:
            raise keys.error("num_hidden_layers", f"{doubled} is odd, and layers hold two attentions", fix="num_layers")
        count = doubled // 2
    block = mla_block(keys)
    cache = Cache({"mla_a": block, "mla_b": dict(block)}, [("mla_a", "mla_b")] * count)
    return cache.with_mtp(keys, "mla_a")


def indexer(keys: Keys) -> dict[str, Any]:
    return {"head_dim": keys.whole("index_head_dim")}


def dsa(keys: Keys) -> Cache:
    """Every layer MLA with an indexer key of its own (DeepSeek-V3.2, AXK2).

    Source: transformers 5.23 cache_utils.py:316-350, deepseek_v32/modeling_deepseek_v32.py:225.
    """
    count = keys.layers()
    listed = declared_types(keys, count, "layer_types")
    layer: Layer = (("attention", mla_block(keys, indexer=indexer(keys))),)
    builders = {INDEXED: lambda _: layer, FULL: lambda _: layer}
    types, source = listed or ([INDEXED] * count, "layer_types")
    return by_type(keys, types, source, builders).with_mtp(keys, "attention")


def indexer_types(keys: Keys, count: int) -> list[bool]:
    """For each layer whether it stores an indexer key of its own: indexer_types, index_topk_pattern, or the schedule.

    Source: glm_moe_dsa/configuration_glm_moe_dsa.py: full iff max(i - offset + 1, 0) % freq == 0.
    """
    names = {"full": True, "shared": False, "F": True, "S": False}
    for key in ("indexer_types", "index_topk_pattern"):
        value = keys.raw(key)
        listed = list(value) if isinstance(value, str) else keys.texts(key)
        if listed is None:
            continue
        if len(listed) < count:
            raise keys.error(key, f"{key} lists {len(listed)} layers of {count}", fix="one entry per layer")
        for index, entry in enumerate(listed[:count]):
            if entry not in names:
                raise keys.error(
                    f"{key}[{index}]",
                    f"layer {index} has the unknown indexer type {short(entry)}",
                    fix="full or shared",
                    value=entry,
                )
        return [names[entry] for entry in listed[:count]]
    frequency = max(keys.maybe("index_topk_freq", least=0) or 1, 1)
    offset = keys.maybe("index_skip_topk_offset", least=0)
    offset = 2 if offset is None else offset
    if frequency > 1:
        keys.notes.derive(f"indexer of its own: layers where max(i - {offset} + 1, 0) % {frequency} == 0")
    return [max(index - offset + 1, 0) % frequency == 0 for index in range(count)]


def glm_moe_dsa(keys: Keys) -> Cache:
    """GLM-5: MLA; some layers reuse the selection of an earlier layer's indexer and store no index key."""
    return _indexed(keys, indexer_types(keys, keys.layers()))


def hy_v4(keys: Keys) -> Cache:
    """HY-V4: an indexer of its own on layer 0 and on every 4th from layer 1, unless listed."""
    count = keys.layers()
    if keys.has("indexer_types"):
        return _indexed(keys, indexer_types(keys, count))
    return _indexed(keys, [index == 0 or (index - 1) % 4 == 0 for index in range(count)])


def _indexed(keys: Keys, own: list[bool]) -> Cache:
    declared_types(keys, len(own), "layer_types")
    full, shared = _own_and_shared(keys)
    cache = Cache()
    for mine in own:
        cache.add(full if mine else shared)
    if set(own) == {True}:
        return uniform(keys, full[0][1], layers=len(own)).with_mtp(keys, "attention")
    return cache.with_mtp(keys, "mla")


def _own_and_shared(keys: Keys, prefix: str = "") -> tuple[Layer, Layer]:
    side = indexer(keys)
    return (
        ((f"{prefix}mla", mla_block(keys, indexer=side)),),
        ((f"{prefix}mla_shared_index", mla_block(keys, indexer=side | {"shared": True})),),
    )


def mistral_large4(keys: Keys) -> Cache:
    """Mistral Large 4: NoPE layers (0 in no_rope_layers) cache no rotary part, layers may read an earlier layer's
    latent (kv_source_layers) and still keep an indexer key.

    Source: mistral_large4/configuration_mistral_large4.py `kv_sharing_modes`.
    """
    count = keys.layers()
    own, rope = indexer_types(keys, count), rope_layers(keys, count)
    sources = keys.wholes("kv_source_layers", most=max(count - 1, 0))
    if sources is not None and len(sources) != count:
        raise keys.error("kv_source_layers", f"{len(sources)} entries for {count} layers", fix="one per layer")
    variants = {True: _own_and_shared(keys), False: _own_and_shared(keys.overlaid({"qk_rope_head_dim": 0}), "nope_")}
    cache = Cache()
    for index in range(count):
        source = index if sources is None else sources[index]
        full, shared = variants[rope[source]]
        layer = full if own[source] else shared
        if source == index:
            cache.add(layer)
            continue
        reads: Block = {"kind": "shared", "of": layer[0][0]}
        cache.add((("shared_index", reads | {"indexer": indexer(keys)}) if own[index] else ("shared", reads),))
    return cache


def dots3_note(keys: Keys) -> Cache:
    """dots3: indexed layers in full, sliding MLA layers between them, ranks per layer in per_layer_config.

    A `full_attention` of older checkpoints means indexed_attention (dots3_note/configuration_dots3_note.py).
    """
    count = keys.layers()
    listed = declared_types(keys, count, "layer_types")
    if listed is None:
        raise keys.error("layer_types", "layer_types is missing", fix="add one entry per layer")
    if "per_layer_config" not in keys.values:
        raise keys.error(
            "per_layer_config",
            "per_layer_config is missing: sliding layers have a rank of their own",
            fix="save the config with transformers 5.23, which writes it",
        )

    def sliding(layer: Keys) -> Layer:
        return (("local", mla_block(layer, window=layer.whole("sliding_window", most=2**40))),)

    def full(layer: Keys) -> Layer:
        return (("global", mla_block(layer, indexer=indexer(layer))),)

    return by_type(keys, listed[0], listed[1], {INDEXED: full, FULL: full, SLIDING: sliding})


_V4_TYPES = {0: SLIDING, 4: "compressed_sparse_attention", 128: "heavily_compressed_attention"}


def deepseek_v4(keys: Keys) -> Cache:
    """DeepSeek-V4: one K=V latent per token in a short window, compressed entries behind it.

    `compress_ratios` (0 window only, 4 CSA, 128 HCA) may list the MTP layers after the last layer.
    Source: transformers 5.23 deepseek_v4/configuration_deepseek_v4.py:28-32,239-270, modeling:156-311.
    """
    count = keys.layers()
    types, source, extra = _v4_types(keys, count)
    rates = keys.section("compress_rates")
    heads, head_dim = read_heads(keys), keys.whole("head_dim")
    window = keys.whole("sliding_window", most=2**40)

    def entry(kind: str, name: str, key: str, rate: int, **more: int) -> Layer:
        rate = keys.maybe(key) or (rates.maybe(name) if rates is not None else None) or rate
        block = {"kind": kind, "heads": heads, "head_dim": head_dim, "tokens_per_slot": rate, "window": window, **more}
        return ((kind, block),)

    plain_window = (("window", attention(keys, heads, 1, head_dim, window=window, tied_kv=True)),)
    csa, hca = _V4_TYPES[4], _V4_TYPES[128]
    builders = {
        SLIDING: lambda _: plain_window,
        csa: lambda _: entry("csa", csa, "compress_rate_csa", 4, index_dim=keys.whole("index_head_dim")),
        hca: lambda _: entry("hca", hca, "compress_rate_hca", 128),
    }
    cache = by_type(keys, types, source, builders)
    mtp = keys.maybe("num_nextn_predict_layers", least=0, most=1000)
    if mtp and extra == [SLIDING] * mtp:
        cache.blocks.setdefault("window", plain_window[0][1])
        cache.mtp = (mtp, "window")
    return cache


def _v4_types(keys: Keys, count: int) -> tuple[list[str], str, list[str]]:
    listed = declared_types(keys, count, "layer_types")
    if listed is not None:
        return listed[0], listed[1], []
    ratios = keys.wholes("compress_ratios")
    if ratios is None:
        raise keys.error(
            "compress_ratios", "neither layer_types nor compress_ratios is there", fix="add compress_ratios"
        )
    if len(ratios) < count:
        raise keys.error("compress_ratios", f"{len(ratios)} entries for {count} layers", fix="one per layer")
    for index, ratio in enumerate(ratios):
        if ratio not in _V4_TYPES:
            raise keys.error(
                f"compress_ratios[{index}]",
                f"layer {index} has the unknown compression ratio {ratio}",
                fix="0 (window only), 4 (CSA) or 128 (HCA)",
                value=ratio,
            )
    types = [_V4_TYPES[ratio] for ratio in ratios]
    return types[:count], "compress_ratios", types[count:]
