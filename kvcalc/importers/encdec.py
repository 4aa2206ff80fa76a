"""Encoder-decoder models: each decoder layer keeps its own tokens, and K and V of the encoder's tokens.

Source: transformers 5.23 cache_utils.py:2199 (EncoderDecoderCache); key names: configuration_<model_type>.py.
"""

from __future__ import annotations

from kvcalc.importers._cache import (
    Block,
    Cache,
    Layer,
    attention,
    read_attention,
    read_groups,
    read_head_dim,
    read_heads,
)
from kvcalc.importers._keys import Keys


def _both(keys: Keys, count: int, heads: int, head_dim: int) -> Cache:
    """[self, cross] per decoder layer; a decoder on its own (`...ForCausalLM`) has no cross attention."""
    own = attention(keys, heads, heads, head_dim)
    cross: Block = {"kind": "cross", "heads": heads, "head_dim": head_dim}
    layer: Layer = (("self", own), ("cross", cross))
    names = keys.texts("architectures") or []
    if (names and all(name.endswith("ForCausalLM") for name in names)) or not keys.flag(
        "is_encoder_decoder", default=True
    ):
        keys.notes.derive("no cross attention: the architecture is the decoder alone")
        layer = (("attention", own),)
    for key in ("max_source_positions",):
        if keys.has(key):
            keys.notes.facts[key] = keys.whole(key)
    cache = Cache()
    for _ in range(count):
        cache.add(layer)
    return cache


def t5(keys: Keys) -> Cache:
    """T5 family: d_kv per head whatever d_model is; num_decoder_layers, else num_layers."""
    count = keys.maybe("num_decoder_layers", most=10_000) or keys.layers("num_layers", "num_hidden_layers")
    return _both(keys, count, keys.whole("num_heads", "num_attention_heads"), keys.whole("d_kv"))


def bart(keys: Keys) -> Cache:
    """BART, Whisper, Marian ...: decoder_layers, decoder_attention_heads, d_model (num_hidden_layers: encoder)."""
    heads = keys.whole("decoder_attention_heads", "num_decoder_attention_heads")
    count = keys.layers("decoder_layers", "num_decoder_layers")
    return _both(keys, count, heads, _divided(keys, heads))


def prophetnet(keys: Keys) -> Cache:
    """ProphetNet names them num_decoder_layers and num_decoder_attention_heads, and the width hidden_size."""
    heads = keys.whole("num_decoder_attention_heads")
    return _both(keys, keys.layers("num_decoder_layers"), heads, _divided(keys, heads))


def _divided(keys: Keys, heads: int) -> int:
    width = keys.whole("d_model", "hidden_size")
    if width % heads:
        raise keys.error("d_model", f"d_model {width} is no multiple of {heads} heads", fix="check both", value=width)
    keys.notes.derive(f"head_dim = d_model // decoder_attention_heads = {width // heads}")
    return width // heads


def mllama(keys: Keys) -> Cache:
    """Llama 3.2 Vision: cross_attention_layers keep K and V of the image's tokens, the others of the text's.

    Source: transformers 5.23 mllama/modeling_mllama.py (cross attention layers replace self attention there).
    """
    count = keys.layers()
    where = set(keys.wholes("cross_attention_layers", most=max(count - 1, 0)) or ())
    heads = read_heads(keys)
    groups, head_dim = read_groups(keys, heads), read_head_dim(keys, heads)
    cross: Block = {"kind": "cross", "heads": heads, "groups": groups, "head_dim": head_dim}
    own = read_attention(keys)
    cache = Cache()
    for index in range(count):
        cache.add((("cross", cross),) if index in where else (("self", own),))
    return cache
