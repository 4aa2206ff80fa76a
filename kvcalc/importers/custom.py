"""Models whose code comes with the checkpoint: Nemotron-NAS, Phi-4-mini-flash, OpenELM, Hunyuan-Large, Qwen 1 ...

Each rule names the file of the checkpoint's repository that it was read from.
"""

from __future__ import annotations

from kvcalc.importers._cache import (
    NONE,
    Block,
    Cache,
    Layer,
    attention,
    read_attention,
    read_groups,
    read_head_dim,
    read_heads,
    uniform,
)
from kvcalc.importers._keys import Keys


def nemotron_nas(keys: Keys) -> Cache:
    """Llama-Nemotron (DeciLM): `block_configs` per layer; heads are shared by n_heads_in_group, no_op stores nothing.

    Source: nvidia/Llama-3_3-Nemotron-Super-49B-v1 config.json, configuration_decilm.py, block_config.py.
    """
    count = keys.layers()
    blocks = keys.items("block_configs")
    if blocks is None:
        return _deci_lm(keys, count)
    if len(blocks) != count:
        raise keys.error("block_configs", f"{len(blocks)} entries for {count} layers", fix="one per layer")
    heads = read_heads(keys)
    head_dim = read_head_dim(keys, heads)
    cache = Cache()
    for index in range(count):
        cache.add(_nas_layer(keys, index, blocks[index], heads=heads, head_dim=head_dim))
    return cache


def _nas_layer(keys: Keys, index: int, block: object, *, heads: int, head_dim: int) -> Layer:
    entry = Keys({"block": block}, keys.notes, keys.where(f"block_configs[{index}]"), keys.file).section("block")
    attn = entry.section("attention") if entry is not None else None
    if attn is None:
        raise keys.error(f"block_configs[{index}].attention", f"layer {index} has no attention entry", fix="add it")
    if attn.flag("no_op") or attn.flag("replace_with_linear"):
        return NONE
    shared_by = attn.whole("n_heads_in_group")
    if heads % shared_by:
        raise attn.error("n_heads_in_group", f"{shared_by} does not divide {heads} heads", fix="check the config.json")
    window, sinks = attn.window("window_length"), attn.maybe("num_sink_tokens", least=0)
    made = attention(keys, heads, heads // shared_by, head_dim, window=window)
    if window is not None and sinks:
        made["sinks"] = sinks
    return ((f"attn_{heads // shared_by}" if window is None else "local", made),)


def _deci_lm(keys: Keys, count: int) -> Cache:
    """DeciLM-7B: num_key_value_heads_per_layer."""
    groups = keys.wholes("num_key_value_heads_per_layer", least=1)
    heads = read_heads(keys)
    head_dim = read_head_dim(keys, heads)
    if groups is None or len(groups) != count:
        raise keys.error(
            "block_configs", "neither block_configs nor num_key_value_heads_per_layer for each layer", fix="add one"
        )
    cache = Cache()
    for number in groups:
        cache.add(((f"attn_{number}", attention(keys, heads, number, head_dim)),))
    return cache


def openelm(keys: Keys) -> Cache:
    """OpenELM: heads per layer in num_query_heads and num_kv_heads (apple/OpenELM configuration_openelm.py)."""
    count = keys.layers("num_transformer_layers", "num_hidden_layers")
    queries, groups = keys.wholes("num_query_heads", least=1), keys.wholes("num_kv_heads", least=1)
    head_dim = keys.whole("head_dim")
    if queries is None or groups is None or len(queries) != count or len(groups) != count:
        raise keys.error(
            "num_kv_heads", f"num_query_heads and num_kv_heads need {count} entries each", fix="check them"
        )
    cache = Cache()
    for heads, number in zip(queries, groups, strict=True):
        cache.add(((f"attn_{number}", attention(keys, heads, number, head_dim)),))
    return cache


def phi4flash(keys: Keys) -> Cache:
    """Phi-4-mini-flash (SambaY): Mamba and sliding attention in turn up to the middle, one full layer, whose cache
    the attention layers behind it read; the Mamba places behind it are gates without a state.

    Source: vLLM 0.10 model_executor/models/phi4flash.py `SambaYDecoderLayer` (yoco_mb, yoco_cross).
    """
    count = keys.layers()
    if count % 4:
        raise keys.error("num_hidden_layers", f"{count} is no multiple of 4", fix="check the config.json", value=count)
    if keys.maybe("mb_per_layer") not in (None, 2):
        raise keys.error(
            "mb_per_layer", "only mb_per_layer 2 is known", fix="check the config.json", value=keys.raw("mb_per_layer")
        )
    ssm: Block = {
        "kind": "mamba1",
        "inner_dim": keys.whole("mamba_expand") * keys.whole("hidden_size"),
        "state_dim": keys.whole("mamba_d_state"),
        "conv_kernel": keys.whole("mamba_d_conv", least=2),
    }
    local = read_attention(keys, window=keys.whole("sliding_window", most=2**40))
    middle = count // 2
    cache = Cache()
    for index in range(count):
        if index <= middle + 1:
            attn: Layer = (("global", read_attention(keys)),) if index == middle + 1 else (("local", local),)
            cache.add((("ssm", ssm),) if index % 2 == 0 else attn)
        else:
            cache.add(NONE if index % 2 == 0 else (("shared", {"kind": "shared", "of": "global"}),))
    return cache


def hunyuan(keys: Keys) -> Cache:
    """Hunyuan: with use_cla, every cla_share_factor-th layer writes a cache and the next ones read it.

    Source: tencent/Hunyuan-Large modeling_hunyuan.py (kv_states passed on while layer_idx % cla_share_factor != 0).
    """
    heads = read_heads(keys)
    head_dim = read_head_dim(keys, heads, "head_dim", "attention_head_dim")
    block = attention(keys, heads, read_groups(keys, heads), head_dim)
    if not keys.flag("use_cla"):
        return uniform(keys, block)
    factor = keys.whole("cla_share_factor", most=1000)
    cache = Cache()
    for index in range(keys.layers()):
        cache.add(
            (("attention", block),) if index % factor == 0 else (("shared", {"kind": "shared", "of": "attention"}),)
        )
    return cache


def qwen1(keys: Keys) -> Cache:
    """Qwen 1 and Baichuan: as many KV heads as heads; `kv_channels` is the head width where stated."""
    heads = read_heads(keys)
    return uniform(keys, attention(keys, heads, heads, read_head_dim(keys, heads, "kv_channels", "head_dim")))


def lightning_linear(keys: Keys) -> Cache:
    """Ring-linear, Ling-linear (bailing_moe_linear): lightning attention, every layer_group_size-th layer softmax.

    Source: inclusionAI/Ring-mini-linear-2.0 modeling_bailing_moe_linear_v2.py (last partial group is softmax too).
    """
    count, period = keys.layers(), keys.whole("layer_group_size")
    heads = read_heads(keys)
    linear: Block = {"kind": "lightning", "heads": heads, "head_dim": read_head_dim(keys, heads)}
    softmax = read_attention(keys)
    cache = Cache()
    for index in range(count):
        full = (index + 1) % period == 0 or index >= count // period * period
        cache.add((("attn", softmax),) if full else (("lightning", linear),))
    return cache.with_mtp(keys, "attn")
