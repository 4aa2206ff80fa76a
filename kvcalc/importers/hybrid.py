"""Attention beside state-space layers: Mamba, Mamba-2, Jamba, Bamba, Nemotron-H, Granite 4, Zamba, Falcon-H1.

Sources: transformers 5.23 models/<model_type>/configuration_<model_type>.py and the cache shapes of
mamba/modeling_mamba.py:413,476 and mamba2/modeling_mamba2.py:405,522.
"""

from __future__ import annotations

from kvcalc.errors import short
from kvcalc.importers._cache import (
    NONE,
    Block,
    Cache,
    Layer,
    attention,
    by_type,
    declared_types,
    index_set,
    read_attention,
    read_groups,
    read_heads,
    uniform,
)
from kvcalc.importers._keys import MAX_DIM, Keys

LINEAR, FULL, HYBRID = "linear_attention", "full_attention", "hybrid"


def expanded(keys: Keys, name: str) -> int:
    """`name` x hidden_size; the factor may be written as 2 or 2.0.

    Raises: ModelFileError when the product is no whole number.
    """
    factor, hidden = keys.raw(name), keys.whole("hidden_size")
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor <= 1024:
        raise keys.error(
            name, f"{name} must be a number above 0, not {short(factor)}", fix="check the config.json", value=factor
        )
    width = factor * hidden
    if width != int(width) or not 1 <= width <= MAX_DIM:
        raise keys.error(name, f"{name} x hidden_size is {width}, no whole width", fix="check both", value=factor)
    keys.notes.derive(f"inner width = {name} x hidden_size = {int(width)}")
    return int(width)


def mamba1(keys: Keys) -> Cache:
    """Mamba: inner width is `intermediate_size` where stated, else expand x hidden_size.

    Falcon-Mamba's published `expand` is not its real factor, so there intermediate_size must be stated.
    """
    inner = keys.maybe("intermediate_size") if "intermediate_size" in keys.values else None
    if inner is None and keys.text("model_type") == "falcon_mamba":
        raise keys.error(
            "intermediate_size",
            "intermediate_size is missing, and falcon_mamba's expand is not the width that the model has",
            fix="add intermediate_size from the published config.json",
        )
    block: Block = {
        "kind": "mamba1",
        "inner_dim": expanded(keys, "expand") if inner is None else inner,
        "state_dim": keys.whole("state_size"),
        "conv_kernel": keys.whole("conv_kernel", least=2),
    }
    return uniform(keys, block, name="ssm")


def mamba2(keys: Keys) -> Cache:
    """Mamba-2. Its keys have no prefix: num_heads, head_dim, state_size, n_groups."""
    return uniform(keys, _mamba2(keys, ("num_heads", "head_dim", "state_size", "n_groups", "conv_kernel")), name="ssm")


def _mamba2(keys: Keys, names: tuple[str, str, str, str, str]) -> Block:
    """`names`: the spellings of heads, head_dim, state_dim, groups and conv_kernel."""
    heads, head_dim, state, groups, kernel = names
    return {
        "kind": "mamba2",
        "heads": keys.whole(heads),
        "head_dim": keys.whole(head_dim),
        "state_dim": keys.whole(state),
        "groups": keys.whole(groups),
        "conv_kernel": keys.whole(kernel, least=2),
    }


def jamba(keys: Keys) -> Cache:
    """Jamba: attention on layers where i % attn_layer_period == attn_layer_offset, Mamba on the others."""
    count = keys.layers()
    period, offset = keys.whole("attn_layer_period"), keys.whole("attn_layer_offset", least=0)
    ssm: Block = {
        "kind": "mamba1",
        "inner_dim": expanded(keys, "mamba_expand"),
        "state_dim": keys.whole("mamba_d_state"),
        "conv_kernel": keys.whole("mamba_d_conv", least=2),
    }
    types = [FULL if index % period == offset else LINEAR for index in range(count)]
    listed = declared_types(keys, count)
    if listed is not None and listed[0] != types:
        raise keys.error(listed[1], f"{listed[1]} contradicts attn_layer_period and attn_layer_offset", fix="keep one")
    return by_type(keys, types, "layer_types", {FULL: _attn, LINEAR: lambda _: (("ssm", ssm),)})


def _attn(keys: Keys) -> Layer:
    return (("attn", read_attention(keys)),)


def prefixed_mamba2(keys: Keys, inner: int | None = None) -> Block:
    """The `mamba_*` spelling (Bamba, Granite 4, Falcon-H1); mamba_d_head may be "auto"."""
    heads = keys.whole("mamba_n_heads")
    if keys.raw("mamba_d_head") == "auto":
        inner = expanded(keys, "mamba_expand") if inner is None else inner
        keys.notes.derive(f"mamba_d_head = inner width // mamba_n_heads = {inner // heads}")
        keys = keys.overlaid({"mamba_d_head": inner // heads})
    return _mamba2(keys, ("mamba_n_heads", "mamba_d_head", "mamba_d_state", "mamba_n_groups", "mamba_d_conv"))


def bamba(keys: Keys) -> Cache:
    """Bamba: attention on attn_layer_indices, Mamba-2 on the others."""
    count = keys.layers()
    where = index_set(keys, "attn_layer_indices", count) or set()
    types = [FULL if index in where else LINEAR for index in range(count)]
    ssm = prefixed_mamba2(keys)
    return by_type(keys, types, "attn_layer_indices", {FULL: _attn, LINEAR: lambda _: (("ssm", ssm),)})


def granite_hybrid(keys: Keys) -> Cache:
    """Granite 4: `layer_types` of mamba and attention; absent means Mamba-2 everywhere."""
    count = keys.layers()
    types, source = declared_types(keys, count) or ([LINEAR] * count, "layer_types")
    if LINEAR not in types:
        return by_type(keys, types, source, {FULL: lambda k: (("attention", read_attention(k)),)})
    ssm = prefixed_mamba2(keys)
    return by_type(keys, types, source, {FULL: _attn, LINEAR: lambda _: (("ssm", ssm),)})


def falcon_h1(keys: Keys) -> Cache:
    """Falcon-H1: every layer has attention and Mamba-2 side by side, two caches."""
    inner = keys.maybe("mamba_d_ssm")
    layer: Layer = (("attn", read_attention(keys)), ("ssm", prefixed_mamba2(keys, inner)))
    cache = Cache()
    for _ in range(keys.layers()):
        cache.add(layer)
    return cache


#: Letters of hybrid_override_pattern.
_NEMOTRON = {"M": LINEAR, "*": FULL, "E": "moe", "-": "mlp"}


def nemotron_h(keys: Keys) -> Cache:
    """Nemotron-H: a letter per layer (M Mamba-2, * attention, E MoE, - MLP) or layers_block_type; num_hidden_layers
    gives way to the pattern.

    Source: transformers 5.23 nemotron_h/configuration_nemotron_h.py `__post_init__`, `_pattern_to_list`.
    """
    types, source = _nemotron_types(keys)
    count = keys.maybe("num_hidden_layers", most=10_000)
    if count is not None and count != len(types):
        keys.notes.warn(f"num_hidden_layers is {count}, but {source} lists {len(types)} layers: the list counts")
    builders = {LINEAR: _nemotron_ssm, FULL: _nemotron_attn, "moe": lambda _: NONE, "mlp": lambda _: NONE}
    cache = by_type(keys, types, source, builders)
    extra = _nemotron_mtp(keys)
    if extra and "attn" in cache.blocks:
        cache.mtp = (extra, "attn")
    return cache


def _nemotron_types(keys: Keys) -> tuple[list[str], str]:
    for name in ("layer_types", "layers_block_type"):
        listed = keys.texts(name)
        if listed is not None and len(listed) <= 10_000:
            return declared_types(keys, len(listed), name) or (listed, name)
    pattern = keys.text("hybrid_override_pattern")
    if not pattern or len(pattern) > 10_000:
        raise keys.error(
            "hybrid_override_pattern", "neither hybrid_override_pattern nor layers_block_type is there", fix="add one"
        )
    return _letters(keys, "hybrid_override_pattern", pattern), "hybrid_override_pattern"


def _letters(keys: Keys, name: str, pattern: str) -> list[str]:
    for index, letter in enumerate(pattern):
        if letter not in _NEMOTRON:
            raise keys.error(
                f"{name}[{index}]",
                f"layer {index} has the unknown type {letter!r}",
                fix="M (Mamba-2), * (attention), E (MoE), - (MLP)",
                value=letter,
            )
    return [_NEMOTRON[letter] for letter in pattern]


def _nemotron_ssm(keys: Keys) -> Layer:
    older = {"n_groups": "mamba_n_groups", "conv_kernel": "mamba_d_conv"}
    renamed = {new: keys.values[old] for new, old in older.items() if not keys.has(new) and keys.has(old)}
    names = ("mamba_num_heads", "mamba_head_dim", "ssm_state_size", "n_groups", "conv_kernel")
    return (("ssm", _mamba2(keys.overlaid(renamed), names)),)


def _nemotron_attn(keys: Keys) -> Layer:
    heads = read_heads(keys)
    return (("attn", attention(keys, heads, read_groups(keys, heads), keys.whole("head_dim", "attention_head_dim"))),)


def _nemotron_mtp(keys: Keys) -> int:
    """Attention layers among the multi-token-prediction layers; 0 where they hold anything else with a state."""
    count = keys.maybe("num_nextn_predict_layers", least=0, most=1000) or 0
    pattern = keys.text("mtp_hybrid_override_pattern")
    if not count or not pattern:
        return 0
    types = _letters(keys, "mtp_hybrid_override_pattern", pattern)
    return 0 if LINEAR in types else count * types.count(FULL)


def zamba(keys: Keys) -> Cache:
    """Zamba: Mamba layers, some with the shared attention block in front; each use of it has its own cache."""
    count = keys.layers()
    listed = declared_types(keys, count, "layers_block_type")
    if listed is None:
        period, offset = keys.whole("attn_layer_period"), keys.whole("attn_layer_offset", least=0)
        tail = [HYBRID if index % period == offset else LINEAR for index in range(max(count - 3, 0))]
        listed = ([LINEAR, LINEAR, HYBRID, *tail][:count], "layers_block_type")
    ssm: Block = {
        "kind": "mamba1",
        "inner_dim": expanded(keys, "mamba_expand"),
        "state_dim": keys.whole("mamba_d_state"),
        "conv_kernel": keys.whole("mamba_d_conv", least=2),
    }
    heads = read_heads(keys)
    head_dim = keys.maybe("attention_head_dim") or _doubled(keys, heads)
    return _with_shared_block(keys, listed, attention(keys, heads, read_groups(keys, heads), head_dim), ssm)


def zamba2(keys: Keys) -> Cache:
    """Zamba2: Mamba-2 layers; those in hybrid_layer_ids also run a shared attention block of 2 x hidden_size."""
    count = keys.layers()
    listed = declared_types(keys, count, "layers_block_type")
    if listed is None:
        where = index_set(keys, "hybrid_layer_ids", count)
        if where is None:
            raise keys.error("hybrid_layer_ids", "neither layers_block_type nor hybrid_layer_ids", fix="add one")
        listed = ([HYBRID if index in where else LINEAR for index in range(count)], "hybrid_layer_ids")
    heads, ssm_heads = read_heads(keys), keys.whole("n_mamba_heads")
    ssm: Block = {
        "kind": "mamba2",
        "heads": ssm_heads,
        "head_dim": max(expanded(keys, "mamba_expand") // ssm_heads, 1),
        "state_dim": keys.whole("mamba_d_state"),
        "groups": keys.whole("mamba_ngroups"),
        "conv_kernel": keys.whole("mamba_d_conv", least=2),
    }
    head_dim = keys.maybe("attention_head_dim") or _doubled(keys, heads)
    attn = attention(keys, heads, read_groups(keys, heads), head_dim)
    return _with_shared_block(keys, listed, attn, ssm)


def _doubled(keys: Keys, heads: int) -> int:
    """The shared block reads hidden state and embedding side by side, so its heads are twice as wide."""
    width = 2 * keys.whole("hidden_size") // heads
    keys.notes.derive(f"attention_head_dim = 2 x hidden_size // num_attention_heads = {width}")
    return max(width, 1)


def _with_shared_block(keys: Keys, listed: tuple[list[str], str], attn: Block, ssm: Block) -> Cache:
    both: Layer = (("attn", attn), ("ssm", ssm))
    return by_type(keys, *listed, {HYBRID: lambda _: both, LINEAR: lambda _: both[1:]})
