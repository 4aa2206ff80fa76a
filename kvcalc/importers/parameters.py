"""Parameters of plain decoders, counted from their config: only where the count is a closed form proved equal.

Elsewhere the checkpoint's own metadata says them, or the user does; nothing is estimated.

Source: transformers 5.23 modeling_llama.py, modeling_mistral.py, modeling_mixtral.py, modeling_qwen2.py,
modeling_qwen3.py, modeling_qwen3_moe.py: the Linear, Embedding and RMSNorm modules of each class.
"""

from __future__ import annotations

from kvcalc.importers._keys import Keys

_COUNTED = ("llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe")
#: Classes that read `attention_bias` (biases on all four projections) and that have a norm on each q and k head.
_BIAS_KEY, _HEAD_NORMS = ("llama", "qwen3", "qwen3_moe"), ("qwen3", "qwen3_moe")


def count_parameters(keys: Keys, model_type: str | None) -> int | None:
    """Parameters of the language model; None where its class is not counted here or a width is absent."""
    hidden, vocab = keys.maybe("hidden_size"), keys.maybe("vocab_size", most=2**32)
    layers, heads = keys.maybe("num_hidden_layers"), keys.maybe("num_attention_heads")
    if model_type not in _COUNTED or hidden is None or vocab is None or layers is None or heads is None:
        return None
    feed_forward = _feed_forward(keys, model_type, hidden)
    if feed_forward is None or not keys.has("tie_word_embeddings"):
        return None  # tied or not is a whole embedding table: never assumed
    groups = keys.maybe("num_key_value_heads") or heads
    head_dim = keys.maybe("head_dim") or hidden // heads
    query, shared = heads * head_dim, 2 * groups * head_dim
    attention = hidden * (2 * query + shared)  # q and o, then k and v
    biased = model_type in _BIAS_KEY and keys.flag("attention_bias")
    if biased or model_type == "qwen2":
        attention += query + shared
    if biased:
        attention += hidden  # the output projection's
    if model_type in _HEAD_NORMS:
        attention += 2 * head_dim
    embeddings = vocab * hidden * (1 if keys.flag("tie_word_embeddings") else 2)
    # Two norms per layer, one at the end.
    return embeddings + layers * (attention + feed_forward + 2 * hidden) + hidden


def _feed_forward(keys: Keys, model_type: str, hidden: int) -> int | None:
    """Gate, up and down of one layer; of all experts and their router where the layer is a mixture."""
    width = keys.maybe("intermediate_size")
    if model_type == "mixtral":
        experts = keys.maybe("num_local_experts")
        return None if experts is None or width is None else experts * (3 * hidden * width + hidden)
    if model_type == "qwen3_moe":
        experts, width = keys.maybe("num_experts", "num_local_experts"), keys.maybe("moe_intermediate_size")
        every_layer = (keys.maybe("decoder_sparse_step") or 1) == 1 and not keys.items("mlp_only_layers")
        return experts * (3 * hidden * width + hidden) if experts and width and every_layer else None
    bias = 2 * width + hidden if width is not None and model_type == "llama" and keys.flag("mlp_bias") else 0
    return None if width is None else 3 * hidden * width + bias
