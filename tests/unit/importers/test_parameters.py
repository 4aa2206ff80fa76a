"""Parameters counted from a config are what the library's own classes have, and what published checkpoints hold."""

from __future__ import annotations

from typing import Any

import pytest

from kvcalc.importers.hf import import_config

SMALL = {
    "hidden_size": 96,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "num_hidden_layers": 3,
    "intermediate_size": 130,
    "vocab_size": 77,
    "tie_word_embeddings": True,
    "attention_bias": True,
    "mlp_bias": True,
    "head_dim": 20,
    "moe_intermediate_size": 50,
    "num_experts": 5,
    "num_local_experts": 5,
    "dtype": "bfloat16",
}


def parameters(config: dict[str, Any]) -> int | None:
    counted: int | None = import_config(config).document.get("parameters")
    return counted


@pytest.mark.parametrize(
    ("model_type", "count"),
    [
        ("llama", 226140),
        ("mistral", 224064),
        ("mixtral", 674784),
        ("qwen2", 224784),
        ("qwen3", 225192),
        ("qwen3_moe", 330312),
    ],
)
def test_equal_to_the_classes(model_type: str, count: int) -> None:
    """sum(p.numel()) of transformers 5.23's ...ForCausalLM built on the meta device from this config."""
    assert parameters({**SMALL, "model_type": model_type}) == count


@pytest.mark.parametrize(
    ("config", "count"),
    [
        # Llama-3.1-8B, 70B and 405B: totals of the checkpoints' safetensors headers.
        ((4096, 14336, 32, 32, 8, 128256), 8030261248),
        ((8192, 28672, 80, 64, 8, 128256), 70553706496),
        ((16384, 53248, 126, 128, 8, 128256), 405853388800),
    ],
)
def test_equal_to_checkpoints(config: tuple[int, ...], count: int) -> None:
    """Published Llama-3.1 checkpoints."""
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    widths = dict(zip((*names, "vocab_size"), config, strict=True))
    assert parameters({"model_type": "llama", "tie_word_embeddings": False, "dtype": "bfloat16", **widths}) == count


@pytest.mark.parametrize("absent", ["tie_word_embeddings", "intermediate_size", "vocab_size"])
def test_nothing_is_guessed(absent: str) -> None:
    """Without a width, or without knowing whether the embeddings are tied, there is no count."""
    config = {key: value for key, value in SMALL.items() if key != absent}
    assert parameters({**config, "model_type": "qwen3"}) is None


def test_other_classes_are_not_counted() -> None:
    """A class whose modules were not counted against the library gets none."""
    assert parameters({**SMALL, "model_type": "stablelm"}) is None
