"""Decoders whose layers all keep every token's K and V: the usual keys, and the families that rename them."""

from __future__ import annotations

from kvcalc.importers._cache import (
    Cache,
    Layer,
    attention,
    by_type,
    read_attention,
    read_groups,
    read_head_dim,
    read_heads,
    uniform,
)
from kvcalc.importers._keys import Keys


def plain(keys: Keys) -> Cache:
    """Llama and all that cache like it; `layer_types`, where listed, may only say full_attention.

    Source: transformers 5.23 cache_utils.py:104-138 (DynamicLayer), llama/configuration_llama.py.
    """
    return _checked(keys, uniform(keys, read_attention(keys)).with_mtp(keys, "attention"))


def _checked(keys: Keys, cache: Cache) -> Cache:
    """No window or chunk may be set where the family has none.

    Raises: ModelFileError.
    """
    for name in ("sliding_window", "attention_chunk_size"):
        if keys.has(name) and keys.flag("use_sliding_window", default=True):
            raise keys.error(
                name,
                f"{name} is set, but this model_type is not known to have a window",
                fix=f"set {name} to null if the model attends to all tokens",
                value=keys.values[name],
            )
    full: Layer = tuple(cache.blocks.items())
    builders = {"full_attention": lambda _: full, "attention": lambda _: full}
    for name in ("layer_types", "layers_block_type"):
        types = keys.texts(name)
        if types is not None:
            by_type(keys, types, name, builders)
    return cache


def falcon(keys: Keys) -> Cache:
    """Falcon: `num_kv_heads` counts only in the new decoder; before it `multi_query` means one KV head.

    Source: transformers 5.23 falcon/modeling_falcon.py:313 (which broadcasts K and V to all heads before
    caching; the model itself has num_kv_heads); vLLM transformers_utils/config.py (RefinedWeb).
    """
    heads = read_heads(keys)
    new_decoder = keys.flag("new_decoder_architecture", default=keys.text("model_type") == "RefinedWeb")
    if new_decoder:
        groups = keys.maybe("num_kv_heads", "n_head_kv", "num_key_value_heads") or heads
    elif keys.flag("multi_query", default="multi_query" not in keys.values):
        groups = 1
        keys.notes.derive("num_key_value_heads = 1: multi_query without the new decoder is one KV head")
    else:
        groups = heads
    return uniform(keys, attention(keys, heads, groups, read_head_dim(keys, heads)))


def gpt_bigcode(keys: Keys) -> Cache:
    """StarCoder: `multi_query` (true unless said) is one KV head. Source: gpt_bigcode/configuration_gpt_bigcode.py."""
    heads = read_heads(keys)
    groups = 1 if keys.flag("multi_query", default=True) else heads
    return uniform(keys, attention(keys, heads, groups, read_head_dim(keys, heads)))


def mpt(keys: Keys) -> Cache:
    """MPT: `attn_config.kv_n_heads` for grouped queries, one for multiquery_attention, else all heads."""
    return _nested_groups(keys, "attn_type")


def dbrx(keys: Keys) -> Cache:
    """DBRX: `attn_config.kv_n_heads`. Source: transformers 5.23 dbrx/configuration_dbrx.py."""
    return _nested_groups(keys, None)


def _nested_groups(keys: Keys, type_key: str | None) -> Cache:
    heads = read_heads(keys)
    nested = keys.section("attn_config")
    groups = nested.maybe("kv_n_heads") if nested is not None else None
    if nested is not None and type_key is not None and groups is None:
        kind = nested.text(type_key) or "multihead_attention"
        if kind not in ("multihead_attention", "multiquery_attention"):
            raise nested.error(
                type_key, f"attention type {kind!r} without kv_n_heads", fix="add attn_config.kv_n_heads"
            )
        groups = 1 if kind == "multiquery_attention" else heads
    groups = groups or read_groups(keys, heads)
    return uniform(keys, attention(keys, heads, groups, read_head_dim(keys, heads)))


def gpt_neo(keys: Keys) -> Cache:
    """GPT-Neo: its local layers mask older tokens but every implementation keeps them."""
    keys.notes.derive("local attention layers keep all tokens: gpt_neo masks, it does not drop (transformers 5.23)")
    heads = keys.whole("num_heads", "num_attention_heads")
    block = attention(keys, heads, heads, read_head_dim(keys, heads))
    return uniform(keys, block, layers=keys.layers("num_layers", "num_hidden_layers"))


def jetmoe(keys: Keys) -> Cache:
    """JetMoE: num_key_value_heads x num_experts_per_tok query heads of `kv_channels`."""
    groups = keys.whole("num_key_value_heads")
    heads = groups * keys.whole("num_experts_per_tok", most=1024)
    return uniform(keys, attention(keys, heads, groups, keys.whole("kv_channels", "head_dim")))


def cpmant(keys: Keys) -> Cache:
    """CPM-Ant: `dim_head`, and `prompt_length` learned tokens in front of every session."""
    heads = read_heads(keys)
    prompt = keys.maybe("prompt_length", least=0)
    if prompt:
        keys.notes.facts["prompt_length"] = prompt
        keys.notes.warn(f"prompt_length: every session holds {prompt} more tokens than its text", exact=False)
    return uniform(keys, attention(keys, heads, heads, keys.whole("dim_head")))


def hrm_text(keys: Keys) -> Cache:
    """HRM: one cache per invocation of a layer, layers x H_cycles x (L_cycles + 1).

    Source: transformers 5.23 hrm_text/configuration_hrm_text.py (num_layers_per_stack marks a count already expanded).
    """
    heads = read_heads(keys)
    count = keys.layers()
    if not keys.has("num_layers_per_stack"):
        count *= keys.whole("H_cycles", most=1000) * (keys.whole("L_cycles", most=1000) + 1)
        keys.notes.derive(f"layers = num_hidden_layers x H_cycles x (L_cycles + 1) = {count}")
    if count > 10_000:
        raise keys.error("H_cycles", f"{count} layers", fix="check H_cycles and L_cycles", value=count)
    return uniform(keys, attention(keys, heads, heads, read_head_dim(keys, heads)), layers=count)


def decoder_of(keys: Keys) -> Cache:
    """BERT-like stacks used as decoders; an encoder keeps no cache.

    Raises: ModelFileError unless is_decoder is true.
    """
    if keys.text("model_type") == "git" and keys.has("num_key_value_heads"):
        # xai-org/grok-2 config.json calls itself git; GIT itself has no grouped heads.
        keys.notes.derive("model_type git with num_key_value_heads is Grok: a decoder")
        return plain(keys)
    if not keys.flag("is_decoder"):
        raise keys.error(
            "is_decoder",
            "this model_type is an encoder, which keeps no cache",
            fix="set is_decoder to true if it is used as a decoder",
        )
    return plain(keys)


def renamed(keys: Keys) -> Cache:
    """Custom-code decoders that only rename the usual keys (chatglm, step3, baichuan, xverse ...)."""
    heads = read_heads(keys)
    groups = keys.maybe("num_attention_groups", "multi_query_group_num") if _grouped(keys) else None
    groups = groups or read_groups(keys, heads)
    return _checked(
        keys, uniform(keys, attention(keys, heads, groups, read_head_dim(keys, heads, "head_dim", "kv_channels")))
    )


def _grouped(keys: Keys) -> bool:
    """ChatGLM states multi_query_group_num but uses it only with multi_query_attention."""
    return keys.flag("multi_query_attention", default=True)
