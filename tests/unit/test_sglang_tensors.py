"""Every tensor of SGLang's pools by name, shape and type; bytes of a pool are recorded elsewhere, these are its parts.

Rows: tokens of the pool and one page; a single K and V tensor of equal widths is [2, rows, heads, width].
Source: sglang 0.5.23, srt/mem_cache/memory_pool.py, deepseek_v4_memory_pool.py.
"""

from __future__ import annotations

from math import prod
from typing import Any

import pytest
from starting import model_of, started

from kvcalc.core.model import Model
from kvcalc.core.plan import Load
from kvcalc.dtypes import DTYPES

HEADS = {"kind": "gqa", "heads": 8, "groups": 2, "head_dim": 64}
MLA = {"kind": "mla", "heads": 8, "latent_dim": 512, "rope_dim": 64}
INDEXED = MLA | {"indexer": {"head_dim": 128}}
DELTA = {"kind": "gated_deltanet", "key_heads": 2, "value_heads": 4, "key_dim": 32, "value_dim": 16, "conv_kernel": 4}
V4 = {
    "window": {"kind": "mqa", "heads": 8, "head_dim": 512, "tied_kv": True, "window": 128},
    "csa": {"kind": "csa", "heads": 8, "head_dim": 512, "tokens_per_slot": 4, "window": 128, "index_dim": 128},
    "hca": {"kind": "hca", "heads": 8, "head_dim": 512, "tokens_per_slot": 128, "window": 128},
}


def llama(**more: Any) -> Model:
    return model_of(HEADS | more, cls="LlamaForCausalLM", max_context=4096)


def of(kind: dict[str, Any], cls: str) -> Model:
    return model_of(kind, cls=cls, max_context=4096)


def two(first: dict[str, Any], second: dict[str, Any], cls: str) -> Model:
    return model_of({"a": first, "b": second}, pattern=["a", "b"], cls=cls, max_context=4096)


# 100 tokens of context in pages of 16 are 112; with the padding page 128 rows. Latents with an indexer: pages of 64.
CASES: list[tuple[str, Model, dict[str, Any], list[tuple[str, str, str, int, tuple[int, ...], str]]]] = [
    ("one tensor", llama(), {}, [("key_value", "heads", "kv", 2, (2, 128, 2, 64), "bfloat16")]),
    (
        "K and V of two widths",
        llama(v_head_dim=32),
        {},
        [("key", "heads", "kv", 2, (128, 2, 64), "bfloat16"), ("value", "heads", "kv", 2, (128, 2, 32), "bfloat16")],
    ),
    ("fp8", llama(), {"kv_cache_dtype": "fp8_e5m2"}, [("key_value", "heads", "kv", 2, (2, 128, 2, 64), "fp8_e5m2")]),
    (
        "mxfp8",
        llama(),
        {"kv_cache_dtype": "mxfp8"},
        [
            ("key", "heads", "kv", 2, (128, 2, 64), "fp8_e4m3"),
            ("key_scale", "heads", "kv", 2, (128, 2, 2), "int8"),
            ("value", "heads", "kv", 2, (128, 2, 64), "fp8_e4m3"),
            ("value_scale", "heads", "kv", 2, (128, 2, 2), "int8"),
        ],
    ),
    (
        "fp4 with a workspace",
        llama(),
        {"kv_cache_dtype": "nvfp4", "attention_backend": "flashinfer"},
        [
            ("key", "heads", "kv", 2, (128, 2, 32), "int8"),
            ("key_scale", "heads", "kv", 2, (128, 2, 4), "int8"),
            ("key_workspace", "heads", "kv", 1, (128, 2, 64), "fp8_e4m3"),
            ("value", "heads", "kv", 2, (128, 2, 32), "int8"),
            ("value_scale", "heads", "kv", 2, (128, 2, 4), "int8"),
            ("value_workspace", "heads", "kv", 1, (128, 2, 64), "fp8_e4m3"),
        ],
    ),
    (
        "latent",
        of(MLA, "DeepseekV3ForCausalLM"),
        {},
        [("latent", "latent", "kv", 2, (128, 1, 576), "bfloat16")],
    ),
    (
        "fp4 latent",
        of(MLA, "DeepseekV3ForCausalLM"),
        {"kv_cache_dtype": "fp4_mx_block16"},
        [("latent", "latent", "kv", 2, (128, 1, 288), "int8"), ("latent_scale", "latent", "kv", 2, (128, 36), "int8")],
    ),
    (
        # 512 fp8 and their 4 scales of 4 bytes, 64 rotary elements in bf16; 132 bytes of index key a token.
        "indexed latent in fp8",
        of(INDEXED, "DeepseekV32ForCausalLM"),
        {"page_size": 64, "kv_cache_dtype": "fp8_e4m3"},
        [
            ("latent", "latent", "kv", 2, (192, 1, 656), "fp8_e4m3"),
            ("index_key", "latent", "kv", 2, (3, 64 * 132), "int8"),
        ],
    ),
    (
        "indexed latent in fp4",
        of(INDEXED, "DeepseekV32ForCausalLM"),
        {"page_size": 64, "kv_cache_dtype": "nvfp4"},
        [
            ("latent", "latent", "kv", 2, (192, 1, 576), "int8"),
            ("index_key", "latent", "kv", 2, (3, 64 * 132), "int8"),
        ],
    ),
    (
        "indexed heads",
        of(HEADS | {"indexer": {"head_dim": 32}}, "MiniMaxM3SparseForCausalLM"),
        {"kv_cache_dtype": "mxfp8"},
        [
            ("key_value", "heads", "kv", 2, (2, 128, 2, 64), "fp8_e4m3"),
            ("index_key", "heads", "kv", 2, (128, 1, 32), "bfloat16"),
        ],
    ),
    (
        # At least a window of 127 in whole pages and one more alive: 144 tokens; 144 / 0.8 in pages: 192.
        "two pools",
        two(HEADS | {"window": 128}, HEADS, "GptOssForCausalLM"),
        {"kv_cache_dtype": "nvfp4"},
        [
            ("key_value", "heads", "full", 1, (2, 208, 2, 64), "int8"),
            ("key_value", "heads", "swa", 1, (2, 160, 2, 64), "int8"),
            ("full_to_swa_index_mapping", "table", "kv", 1, (209, 8), "int8"),
        ],
    ),
    (
        # 3 slots of one request and the padding slot; 2 x 2 x 32 + 4 x 16 channels.
        "states",
        two(DELTA, HEADS, "Qwen3NextForCausalLM"),
        {},
        [
            ("key_value", "heads", "kv", 1, (2, 128, 2, 64), "bfloat16"),
            ("conv_state", "state", "state", 1, (1, 4, 3, 192), "bfloat16"),
            ("recurrent_state", "state", "state", 1, (1, 4, 4, 512), "float32"),
        ],
    ),
    (
        "states of two bytes",
        two(DELTA, HEADS, "Qwen3NextForCausalLM"),
        {"mamba_ssm_dtype": "float16"},
        [
            ("key_value", "heads", "kv", 1, (2, 128, 2, 64), "bfloat16"),
            ("conv_state", "state", "state", 1, (1, 4, 3, 192), "bfloat16"),
            ("recurrent_state", "state", "state", 1, (1, 4, 4, 512), "float16"),
        ],
    ),
]


@pytest.mark.parametrize(("model", "options", "expected"), [row[1:] for row in CASES], ids=[row[0] for row in CASES])
def test_tensors_of_a_pool(model: Model, options: dict[str, Any], expected: list[Any]) -> None:
    """Name, pool, number of layers, shape and type of each; bytes are their product."""
    tensors = started("sglang", model, **({"page_size": 16} | options)).plan(Load(100)).ranks[0].tensors
    assert [(t.name, t.kind, t.block, t.count, t.shape, t.dtype) for t in tensors] == expected
    for t in tensors:
        layers = 1 if t.kind == "state" else t.count
        assert t.bytes == layers * prod(t.shape) * DTYPES[t.dtype].block_bytes


def test_tensors_of_deepseek_v4() -> None:
    """1024 x 256 tokens: pages of the window, entries at 1/4 and 1/128, index rows, and the open groups' states.

    Sliding tokens: a tenth, 26112 in pages of 256; rows of 8 per page of the ring of 4, and of 128 per request.
    """
    model = model_of(V4, pattern=list(V4), layers=3, cls="DeepseekV4ForCausalLM", max_context=4096)
    full = 1024 * 256
    swa = 26112
    tensors = started("sglang", model).plan(Load(full)).ranks[0].tensors
    requests = 4096  # 262144 tokens / 4096 x 512 are more
    found = {(t.name, t.layers): (t.count, t.shape, t.dtype) for t in tensors}
    rows4 = -(-(swa // 256 * 8 + 9) // 4) * 4
    assert found == {  # layer 0 keeps the window alone, 1 compresses by 4, 2 by 128
        ("full_to_swa_index_mapping", ()): (1, (full + 257, 8), "int8"),
        ("window_kv", (0, 1, 2)): (3, (swa // 256 + 1, 149760), "int8"),
        ("compressed_kv", (1,)): (1, (-(-(full // 4 + 256) // 64), 37440), "int8"),
        ("compressed_kv", (2,)): (1, (-(-(full // 128 + 256) // 2), 1728), "int8"),
        ("index_key", (1,)): (1, (-(-(full // 4 + 256) // 64), 64 * 132), "int8"),
        ("pending_kv_score", (1,)): (1, (rows4, 2048), "float32"),
        ("pending_kv_score", (2,)): (1, ((requests + 1) * 128 + 256, 1024), "float32"),
        ("pending_index_kv_score", (1,)): (1, (rows4, 512), "float32"),
    }
