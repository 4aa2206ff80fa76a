"""Attention beside linear recurrences: Gated DeltaNet, KDA, lightning attention, RG-LRU, RWKV, short convolutions.

Sources: transformers 5.23 models/<model_type>/configuration_<model_type>.py, and for the shapes
qwen3_next/modeling_qwen3_next.py:599,695; kimi_linear/modeling_kimi_linear.py:589,652; minimax/modeling_minimax.py:72;
recurrent_gemma/modeling_recurrent_gemma.py:431; lfm2/modeling_lfm2.py:368; inkling/modeling_inkling.py:532.
"""

from __future__ import annotations

from kvcalc.importers._cache import (
    Block,
    Cache,
    Layer,
    attention,
    by_type,
    declared_types,
    index_set,
    read_attention,
    read_groups,
    read_head_dim,
    read_heads,
    uniform,
)
from kvcalc.importers._keys import Keys
from kvcalc.importers.latent import INDEXED, indexer, indexer_types, mla_block
from kvcalc.importers.plain import plain
from kvcalc.units import ceil_div

LINEAR, FULL, SLIDING = "linear_attention", "full_attention", "sliding_attention"


def _every(keys: Keys, count: int, default: int | None, name: str) -> list[str]:
    """The last layer of each period is full attention."""
    period = keys.maybe(name) or default
    if period is None:
        raise keys.error(name, f"{name} is missing", fix="add it, or layer_types")
    return [LINEAR if (index + 1) % period else FULL for index in range(count)]


def gated_deltanet(keys: Keys) -> Cache:
    """Qwen3-Next, Qwen3.5: Gated DeltaNet, every full_attention_interval-th layer full attention."""
    count = keys.layers()
    types, source = declared_types(keys, count) or (_every(keys, count, 4, "full_attention_interval"), "layer_types")
    cache = by_type(keys, types, source, {FULL: _attn, LINEAR: _gdn})
    return cache.with_mtp(keys, "attn", "mtp_num_hidden_layers", "num_nextn_predict_layers")


def _attn(keys: Keys) -> Layer:
    return (("attn", read_attention(keys)),)


def _gdn(keys: Keys) -> Layer:
    block: Block = {
        "kind": "gated_deltanet",
        "key_heads": keys.whole("linear_num_key_heads"),
        "value_heads": keys.whole("linear_num_value_heads"),
        "key_dim": keys.whole("linear_key_head_dim"),
        "value_dim": keys.whole("linear_value_head_dim"),
        "conv_kernel": keys.whole("linear_conv_kernel_dim", least=2),
    }
    return (("linear", block),)


def olmo_hybrid(keys: Keys) -> Cache:
    """OLMo-Hybrid: as Qwen3-Next; absent dims follow the attention heads."""
    count = keys.layers()
    types = [FULL if index % 4 == 3 else LINEAR for index in range(count)]
    if FULL not in types:
        types[-1] = FULL
    heads = read_heads(keys)
    key_heads = keys.maybe("linear_num_key_heads") or heads
    key_dim = keys.maybe("linear_key_head_dim") or int(0.75 * keys.whole("hidden_size") / key_heads)
    filled = {
        "linear_num_key_heads": key_heads,
        "linear_num_value_heads": keys.maybe("linear_num_value_heads") or heads,
        "linear_key_head_dim": key_dim,
        "linear_value_head_dim": keys.maybe("linear_value_head_dim") or 2 * key_dim,
    }
    listed, source = declared_types(keys, count) or (types, "layer_types")
    return by_type(keys.overlaid(filled), listed, source, {FULL: _attn, LINEAR: _gdn})


def _kda(keys: Keys) -> Layer:
    """KDA dims: linear_attn_config of the checkpoints, else the linear_* keys that transformers writes."""
    nested = keys.section("linear_attn_config")
    heads = nested.maybe("num_heads") if nested else None
    head_dim = nested.maybe("head_dim") if nested else None
    kernel = nested.maybe("short_conv_kernel_size") if nested else None
    block: Block = {
        "kind": "kda",
        "heads": heads or keys.whole("linear_num_heads"),
        "head_dim": head_dim or keys.whole("linear_head_dim"),
        "conv_kernel": kernel or keys.whole("linear_conv_kernel_dim", "short_conv_kernel_size", least=2),
    }
    return (("kda", block),)


def kimi_linear(keys: Keys) -> Cache:
    """Kimi-Linear, Kimi-K3: layer numbers in linear_attn_config count from 1. MLA stores the rope part even as NoPE."""
    count = keys.layers()
    listed = declared_types(keys, count)
    if listed is None:
        listed = _one_based(keys, count), "linear_attn_config"
    layer: Layer = (("mla", mla_block(keys)),)
    return by_type(keys, *listed, {FULL: lambda _: layer, LINEAR: _kda}).with_mtp(keys, "mla")


def _one_based(keys: Keys, count: int) -> list[str]:
    nested = keys.section("linear_attn_config")
    full = index_set(nested, "full_attn_layers", count, first=1) if nested else None
    kda = index_set(nested, "kda_layers", count, first=1) if nested else None
    if full is None and kda is None:
        keys.notes.derive("layer_types: absent; every 4th layer after the first is full attention (kimi_linear)")
        return [FULL if index and index % 4 == 0 else LINEAR for index in range(count)]
    if full is None or kda is None:
        raise keys.error("linear_attn_config", "full_attn_layers and kda_layers go together", fix="add the other list")
    if full & kda or len(full | kda) != count:
        raise keys.error(
            "linear_attn_config",
            f"full_attn_layers and kda_layers do not name each of {count} layers once",
            fix="check both lists: they count from 1",
        )
    return [FULL if index in full else LINEAR for index in range(count)]


def bailing_hybrid(keys: Keys) -> Cache:
    """Ling-3: KDA, every layer_group_size-th layer MLA; KDA heads are the attention heads, of the config's head_dim."""
    count = keys.layers()
    listed = declared_types(keys, count) or (_every(keys, count, None, "layer_group_size"), "layer_group_size")
    block: Block = {
        "kind": "kda",
        "heads": keys.maybe("linear_num_heads") or read_heads(keys),
        "head_dim": keys.maybe("linear_head_dim") or keys.whole("head_dim"),
        "conv_kernel": keys.whole("linear_conv_kernel_dim", "short_conv_kernel_size", least=2),
    }
    layer: Layer = (("mla", mla_block(keys)),)
    cache = by_type(keys, *listed, {FULL: lambda _: layer, LINEAR: lambda _: (("kda", block),)})
    return cache.with_mtp(keys, "mla")


def glm5_next(keys: Keys) -> Cache:
    """GLM-5.3-Flash: KDA, every 4th layer NoPE MLA with an indexer."""
    count = keys.layers()
    types = [INDEXED if index % 4 == 3 else LINEAR for index in range(count)]
    listed, source = declared_types(keys, count) or (types, "layer_types")
    own = indexer_types(keys, count)
    side = indexer(keys)
    pooled = keys.maybe("index_kpool") or 1
    if pooled > 1:  # the indexer scores means of this many keys
        side["tokens_per_slot"] = pooled
        keys.notes.facts["index_kpool"] = pooled
    cache = Cache()
    for index, kind in enumerate(listed):
        if kind in (INDEXED, FULL):
            name = "mla" if own[index] else "mla_shared_index"
            cache.add(((name, mla_block(keys, indexer=side if own[index] else side | {"shared": True})),))
        elif kind == LINEAR:
            cache.add(_kda(keys))
        else:
            by_type(keys, listed, source, {INDEXED: _kda, FULL: _kda, LINEAR: _kda})  # refuses, naming the layer
    return cache.with_mtp(keys, "mla")


def minimax(keys: Keys) -> Cache:
    """MiniMax-01, M1: lightning attention (0 in attn_type_list) and softmax attention (1); a window is not cached."""
    count = keys.layers()
    listed = declared_types(keys, count)
    if listed is None:
        softmax = keys.wholes("attn_type_list", most=1)
        if softmax is None:
            types = [LINEAR if index % 2 else FULL for index in range(count)]
            keys.notes.derive("layer_types: absent; even layers are full attention, the rule of minimax")
            listed = types, "layer_types"
        elif len(softmax) != count:
            raise keys.error("attn_type_list", f"{len(softmax)} entries for {count} layers", fix="one per layer")
        else:
            listed = [FULL if entry else LINEAR for entry in softmax], "attn_type_list"
    heads = read_heads(keys)
    block: Block = {"kind": "lightning", "heads": heads, "head_dim": read_head_dim(keys, heads)}
    return by_type(keys, *listed, {FULL: _attn, LINEAR: lambda _: (("lightning", block),)})


def minimax_m3(keys: Keys) -> Cache:
    """MiniMax-M3: GQA; layers with sparse attention also keep one index key per token."""
    count = keys.layers()
    sparse = keys.section("sparse_attention_config")
    listed = declared_types(keys, count)
    if listed is None:
        flags = sparse.wholes("sparse_attention_freq", most=1) if sparse else None
        if flags is not None and len(flags) != count:
            raise keys.error("sparse_attention_config", f"{len(flags)} entries for {count} layers", fix="one per layer")
        types = ["minimax_m3_sparse" if flag else FULL for flag in flags] if flags else [FULL] * count
        listed = types, "sparse_attention_freq"
    width = (sparse.maybe("sparse_index_dim") if sparse else None) or keys.maybe("index_head_dim")

    def indexed(layer: Keys) -> Layer:
        if width is None:
            raise keys.error("index_head_dim", "index_head_dim is missing", fix="add it, or sparse_index_dim")
        return (("sparse", read_attention(layer) | {"indexer": {"head_dim": width}}),)

    return by_type(keys, *listed, {FULL: _attn, "minimax_m3_sparse": indexed})


def minimax_m2(keys: Keys) -> Cache:
    """MiniMax-M2; the text section of M3 calls itself minimax_m2 too, and has sparse_attention_config."""
    return minimax_m3(keys) if keys.has("sparse_attention_config") else plain(keys)


def recurrent_gemma(keys: Keys) -> Cache:
    """RecurrentGemma: block_types repeated; attention slides over attention_window_size tokens."""
    count = keys.layers()
    kinds = keys.texts("block_types") or keys.texts("_block_types")
    if not kinds:
        raise keys.error("block_types", "block_types is missing", fix="add block_types (or _block_types)")
    width = keys.maybe("lru_width") or keys.whole("hidden_size")  # the convolution runs over the same channels
    lru: Block = {"kind": "rglru", "width": width, "conv_kernel": keys.whole("conv1d_width", least=2)}
    window = keys.whole("attention_window_size", most=2**40)
    local: Layer = (("attn", read_attention(keys, window=window)),)
    types = [kinds[index % len(kinds)] for index in range(count)]
    builders = {"recurrent": lambda _: (("lru", lru),), "attention": lambda _: local}
    return by_type(keys, types, "block_types", builders)


def rwkv(keys: Keys) -> Cache:
    """RWKV-4 (model_type rwkv) and RWKV-5, 6, 7 (rwkv5, rwkv6, rwkv7: a matrix per head of head_size)."""
    hidden = keys.whole("hidden_size")
    block: Block = {"kind": "rwkv", "hidden_dim": hidden}
    width = keys.maybe("attention_hidden_size")
    if keys.text("model_type") == "rwkv":
        if width is not None and width != hidden:
            block["attention_dim"] = width
    else:
        block["head_dim"] = keys.whole("head_size", "head_dim")
        if width not in (None, hidden):
            raise keys.error(
                "attention_hidden_size", f"{width} is not hidden_size {hidden}", fix="check the config.json"
            )
    return uniform(keys, block, name="rwkv")


def xlstm(keys: Keys) -> Cache:
    """xLSTM: widths are hidden_size x factor, rounded up to a multiple of 64.

    Source: transformers 5.23 xlstm/configuration_xlstm.py `qk_dim`, `v_dim`.
    """
    heads, hidden = keys.whole("num_heads"), keys.whole("hidden_size", "embedding_dim")

    def per_head(name: str) -> int:
        factor = keys.raw(name)
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor <= 1024:
            raise keys.error(name, f"{name} must be a number above 0", fix="check the config.json", value=factor)
        return max(ceil_div(int(hidden * factor), 64) * 64 // heads, 1)

    block: Block = {
        "kind": "mlstm",
        "heads": heads,
        "key_dim": per_head("qk_dim_factor"),
        "value_dim": per_head("v_dim_factor"),
    }
    return uniform(keys, block, layers=keys.layers("num_hidden_layers", "num_blocks"), name="mlstm")


def lfm2(keys: Keys) -> Cache:
    """LFM2, LFM3: gated short convolutions of conv_L_cache, attention on full_attn_idxs or by layer_types."""
    count = keys.layers()
    listed = declared_types(keys, count)
    if listed is None:
        where = index_set(keys, "full_attn_idxs", count)
        if where is not None:
            listed = [FULL if index in where else "conv" for index in range(count)], "full_attn_idxs"
        elif keys.text("model_type") == "lfm3":
            types = [FULL if i % 4 == 2 else SLIDING if i % 4 == 0 and i else "conv" for i in range(count)]
            listed = types, "layer_types"
        else:
            raise keys.error("layer_types", "neither layer_types nor full_attn_idxs", fix="add one")
    conv: Block = {
        "kind": "short_conv",
        "dim": keys.whole("hidden_size"),
        "conv_kernel": keys.whole("conv_L_cache", least=2),
    }
    builders = {
        FULL: _attn,
        "conv": lambda _: (("conv", conv),),
        SLIDING: lambda k: (("local", read_attention(k, window=k.whole("sliding_window", most=2**40))),),
    }
    return by_type(keys, *listed, builders)


def inkling(keys: Keys) -> Cache:
    """Inkling: in every layer attention plus four short convolutions, two over K and V, two over the hidden state."""
    count = keys.layers()
    listed = declared_types(keys, count)
    if listed is None:
        local = index_set(keys, "local_layer_ids", count)
        if local is None:
            local = {index for index in range(count) if (index + 1) % 6}
        listed = ["hybrid_sliding" if i in local else "hybrid" for i in range(count)], "local_layer_ids"
    kernel, hidden = keys.whole("conv_kernel_size", "sconv_kernel_size", least=2), keys.whole("hidden_size")

    def layer(name: str, heads: int, groups: int, head_dim: int, window: int | None) -> Layer:
        attn = attention(keys, heads, groups, head_dim, window=window)
        kv: Block = {"kind": "short_conv", "dim": 2 * groups * head_dim, "conv_kernel": kernel}
        state: Block = {"kind": "short_conv", "dim": 2 * hidden, "conv_kernel": kernel}
        return ((name, attn), (f"{name}_kv_conv", kv), ("hidden_conv", state))

    def full(k: Keys) -> Layer:
        heads = read_heads(k)
        return layer("global", heads, read_groups(k, heads), k.whole("head_dim"), None)

    def sliding(k: Keys) -> Layer:
        heads = k.maybe("swa_num_attention_heads") or read_heads(k)
        window = k.whole("sliding_window_size", "sliding_window", most=2**40)
        return layer("local", heads, k.whole("swa_num_key_value_heads"), k.whole("swa_head_dim"), window)

    return by_type(keys, *listed, {"hybrid": full, "hybrid_sliding": sliding})


def qwen4_exp(keys: Keys) -> Cache:
    """Qwen4-exp (Qwen3.8-Flash-Next): Gated DeltaNet, and full layers with one index key per few tokens.

    PLE layers (ple_layer_ids) keep the tail of one more convolution. The ids of the last ngram_size - 1 tokens that
    they keep too (8 bytes each) are left out: the warning says so.
    Source: transformers 5.23 qwen4_exp/modeling_qwen4_exp.py:714,1079,1147 (which caches the raw index keys).
    """
    count = keys.layers()
    types, source = declared_types(keys, count) or (_every(keys, count, 4, "full_attention_interval"), "layer_types")
    cache = by_type(keys, types, source, {FULL: _qsa, INDEXED: _qsa, LINEAR: _gdn})
    ple = index_set(keys, "ple_layer_ids", count, first=1)
    if ple:
        ngram = keys.whole("ngram_size", most=64)
        width = keys.whole("hc_count", most=64) * keys.whole("hidden_size") * ngram
        cache.blocks["ple_conv"] = {
            "kind": "short_conv",
            "dim": width,
            "conv_kernel": keys.whole("ple_conv_kernel_size", least=2),
        }
        for index in ple:
            cache.layers[index] += ("ple_conv",)
        keys.notes.facts["ngram_size"] = ngram
        keys.notes.warn(f"each PLE layer also keeps {ngram - 1} token ids of 8 bytes: not counted", exact=False)
    return cache.with_mtp(keys, "attn", "mtp_num_hidden_layers", "num_nextn_predict_layers")


def _qsa(keys: Keys) -> Layer:
    block = read_attention(keys)
    width = keys.maybe("indexer_head_dim")
    if width is not None:
        block["indexer"] = {"head_dim": width, "heads": keys.whole("indexer_kv_heads")}
        ratio = keys.maybe("indexer_compress_ratio") or 1
        if ratio > 1:
            block["indexer"]["tokens_per_slot"] = ratio
            keys.notes.facts["indexer_compress_ratio"] = ratio
    return (("attn", block),)


def zaya(keys: Keys) -> Cache:
    """ZAYA: compressed convolutional attention. Beside K and V the tails of two convolutions over all heads, and the
    half of V that is delayed by one token.

    Source: transformers 5.23 zaya/modeling_zaya.py:161,229-252: (heads + KV heads) x head_dim x (cca_time0 +
    cca_time1 - 2) and KV heads x head_dim / 2.
    """
    count = keys.layers()
    heads = read_heads(keys)
    groups, head_dim = read_groups(keys, heads), read_head_dim(keys, heads)
    tail = keys.whole("cca_time0", most=1000) + keys.whole("cca_time1", most=1000) - 2
    side: Layer = (("delayed_value", {"kind": "short_conv", "dim": max(groups * head_dim // 2, 1), "conv_kernel": 2}),)
    if tail:  # a convolution of kernel k keeps k - 1 inputs: both together keep `tail`
        conv: Block = {"kind": "short_conv", "dim": (heads + groups) * head_dim, "conv_kernel": tail + 1}
        side = (("cca_conv", conv), *side)
    listed = declared_types(keys, count) or (["hybrid"] * count, "layer_types")

    def layer(name: str, window: int | None) -> Layer:
        return ((name, attention(keys, heads, groups, head_dim, window=window)), *side)

    def sliding(k: Keys) -> Layer:
        return layer("local", k.whole("sliding_window", most=2**40))

    return by_type(keys, *listed, {"hybrid": lambda _: layer("attn", None), "hybrid_sliding": sliding})
