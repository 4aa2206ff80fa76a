"""Configs that other calculators get wrong: each ends with the right number or the right refusal.

Expected bytes: published architecture x 2 bytes, computed by hand in the comments.
"""

from __future__ import annotations

from typing import Any

import pytest
from hf_fixtures import LLAMA, config_of, session_bytes

from kvcalc.errors import ModelFileError
from kvcalc.importers.hf import import_config


def per_token(config: dict[str, Any]) -> int:
    """Bytes that the second token adds."""
    return session_bytes(config, 2) - session_bytes(config, 1)


FALCON_7B = {
    "model_type": "falcon", "num_hidden_layers": 32, "num_attention_heads": 71, "hidden_size": 4544,
    "multi_query": True, "new_decoder_architecture": False, "torch_dtype": "bfloat16",
}  # fmt: skip
FALCON_40B = {
    "model_type": "falcon", "num_hidden_layers": 60, "num_attention_heads": 128, "hidden_size": 8192,
    "num_kv_heads": 8, "multi_query": True, "new_decoder_architecture": True, "torch_dtype": "bfloat16",
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        pytest.param(FALCON_7B, 32 * 1 * 2 * 64 * 2, id="falcon-7b without num_kv_heads is MQA, not 71 heads"),
        pytest.param(FALCON_7B | {"num_kv_heads": 71}, 32 * 1 * 2 * 64 * 2, id="falcon-7b num_kv_heads 71 is not used"),
        pytest.param(FALCON_40B, 60 * 8 * 2 * 64 * 2, id="falcon-40b has 8 KV heads"),
        pytest.param(
            {"model_type": "RefinedWebModel", "n_layer": 32, "n_head": 71, "hidden_size": 4544, "multi_query": True},
            32 * 2 * 64 * 2,
            id="falcon-7b under its first model_type",
        ),
        pytest.param(
            {"model_type": "qwen3", "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8,
             "hidden_size": 1024, "head_dim": 128},
            28 * 8 * 2 * 128 * 2,
            id="Qwen3-0.6B head_dim is 128, not 1024/16",
        ),
        pytest.param(
            {"model_type": "qwen2", "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
             "hidden_size": 3584, "use_sliding_window": False, "sliding_window": 131072, "max_window_layers": 28},
            28 * 4 * 2 * 128 * 2,
            id="sliding_window without use_sliding_window",
        ),
        pytest.param(
            {"model_type": "gpt_bigcode", "n_layer": 40, "n_head": 48, "n_embd": 6144, "multi_query": True},
            40 * 1 * 2 * 128 * 2,
            id="StarCoder is MQA",
        ),
        pytest.param(
            {"model_type": "chatglm", "num_layers": 40, "num_attention_heads": 32, "hidden_size": 4096,
             "kv_channels": 128, "multi_query_attention": True, "multi_query_group_num": 2},
            40 * 2 * 2 * 128 * 2,
            id="GLM-4-9B names its groups multi_query_group_num",
        ),
        pytest.param(
            {"model_type": "mpt", "n_layers": 32, "n_heads": 32, "d_model": 4096,
             "attn_config": {"attn_type": "multiquery_attention"}},
            32 * 1 * 2 * 128 * 2,
            id="MPT multiquery_attention",
        ),
        pytest.param(
            {"model_type": "dbrx", "n_layers": 40, "n_heads": 48, "d_model": 6144, "attn_config": {"kv_n_heads": 8}},
            40 * 8 * 2 * 128 * 2,
            id="DBRX hides kv_n_heads in attn_config",
        ),
        pytest.param(
            {"model_type": "openelm", "num_transformer_layers": 2, "num_query_heads": [12, 16], "num_kv_heads": [3, 4],
             "head_dim": 64},
            (3 + 4) * 2 * 64 * 2,
            id="OpenELM: arrays per layer, not their first entry",
        ),
        pytest.param(
            {"model_type": "phimoe", "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
             "hidden_size": 4096, "sliding_window": 131072},
            32 * 8 * 2 * 128 * 2,
            id="a window as long as the context changes nothing below it",
        ),
        pytest.param(LLAMA | {"num_key_value_heads": None}, 32 * 32 * 2 * 128 * 2, id="null KV heads: MHA"),
    ],
)  # fmt: skip
def test_bytes_per_token(config: dict[str, Any], expected: int) -> None:
    """What a token costs."""
    assert per_token(config) == expected


def test_gemma_2_without_layer_types_alternates() -> None:
    """Even layers slide: 23 full layers at 131072 tokens, 23 at 4096, 16 KV heads of 128."""
    config = {
        "model_type": "gemma2", "num_hidden_layers": 46, "num_attention_heads": 32, "num_key_value_heads": 16,
        "head_dim": 128, "hidden_size": 4608, "sliding_window": 4096,
    }  # fmt: skip
    assert session_bytes(config, 131072) == 25467813888


def test_first_gemma_3_upload_leaves_out_heads_and_pattern() -> None:
    """google/gemma-3-4b-it's text_config states only what differs from its class: 8 heads, 4 KV heads of 256, 5:1."""
    config = {
        "model_type": "gemma3", "torch_dtype": "bfloat16",
        "text_config": {
            "hidden_size": 2560, "model_type": "gemma3_text", "num_hidden_layers": 34, "sliding_window": 1024,
        },
    }  # fmt: skip
    found = import_config(config)
    assert session_bytes(config, 131072) == (5 * 131072 + 29 * 1024) * 4 * 2 * 256 * 2
    assert any("num_key_value_heads = 4" in line for line in found.derived)
    assert any("head_dim = 256" in line for line in found.derived)


def test_llava_names_only_what_differs_from_llama() -> None:
    """llava-hf/llava-1.5-7b-hf: 32 layers of 32 heads x 128 follow from LlamaConfig."""
    text = {"model_type": "llama", "max_position_embeddings": 4096, "torch_dtype": "float16", "vocab_size": 32064}
    assert session_bytes({"model_type": "llava", "text_config": text}, 1) == 32 * 32 * 2 * 128 * 2


def test_nested_text_config_is_read() -> None:
    """The nested twin of a flat config costs the same, and is known as multimodal."""
    nested = {"model_type": "some_vlm", "vision_config": {"hidden_size": 1}, "llm_config": LLAMA}
    assert session_bytes(nested, 4096) == session_bytes(LLAMA, 4096)
    assert import_config(nested).document["facts"]["multimodal"] is True


def test_thinker_config_is_found_two_levels_deep() -> None:
    """Qwen-Omni: thinker_config.text_config."""
    text = LLAMA | {"model_type": "qwen2_5_omni_text", "max_window_layers": 32}
    config = {
        "model_type": "qwen2_5_omni",
        "thinker_config": {"model_type": "qwen2_5_omni_thinker", "text_config": text},
    }
    assert session_bytes(config, 16) == session_bytes(LLAMA, 16)


def test_hybrid_override_pattern_counts_attention_layers() -> None:
    """Nemotron-3-Nano: 6 attention layers of 52, 2 KV heads of 128."""
    assert per_token(config_of("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16")) == 6 * 2 * 2 * 128 * 2


def test_full_attention_interval_leaves_every_fourth_layer() -> None:
    """Qwen3-Next: 12 of 48 layers grow, the rest keep 77266944 bytes (fp32 matrices, bf16 conv of 3 inputs)."""
    config = {
        "model_type": "qwen3_next", "num_hidden_layers": 48, "num_attention_heads": 16, "num_key_value_heads": 2,
        "head_dim": 256, "hidden_size": 2048, "full_attention_interval": 4, "linear_num_key_heads": 16,
        "linear_num_value_heads": 32, "linear_key_head_dim": 128, "linear_value_head_dim": 128,
        "linear_conv_kernel_dim": 4,
    }  # fmt: skip
    assert session_bytes(config, 131072) == 3221225472 + 77266944


def test_kda_layer_numbers_count_from_one() -> None:
    """Kimi-K3: layer 93 is the last; 24 MLA layers of 576."""
    config = config_of("moonshotai/Kimi-K3")
    assert per_token(config) == 24 * 576 * 2
    assert import_config(config).document["pattern"][-1] == "mla*2"


def test_deepseek_v32_adds_its_indexer() -> None:
    """576 + 128 per token and layer."""
    assert per_token(config_of("deepseek-ai/DeepSeek-V3.2")) == 61 * (576 + 128) * 2


def test_shared_layers_of_gemma_4_store_nothing() -> None:
    """Gemma-4-E4B shape: the last layers are `shared`, and name what they read."""
    config = {
        "model_type": "gemma4_text", "num_hidden_layers": 12, "num_attention_heads": 8, "num_key_value_heads": 2,
        "head_dim": 256, "hidden_size": 2560, "sliding_window": 512, "global_head_dim": 512,
        "attention_k_eq_v": False, "num_kv_shared_layers": 6,
        "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 2,
    }  # fmt: skip
    assert session_bytes(config, 4096) == (5 * 512 * 2 * 256 + 4096 * 2 * 512) * 2 * 2
    assert import_config(config).document["attention"]["global_shared"] == {"kind": "shared", "of": "global"}


def test_longcat_has_two_latents_per_layer() -> None:
    """28 layers, 56 MLA caches."""
    config = {
        "model_type": "longcat_flash", "num_layers": 28, "num_attention_heads": 64, "hidden_size": 6144,
        "kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128,
    }  # fmt: skip
    assert per_token(config) == 28 * 2 * 576 * 2


def test_mtp_layers_are_counted_apart() -> None:
    """DeepSeek-V3 has 61 layers and one more that only speculation caches."""
    document = import_config(config_of("deepseek-ai/DeepSeek-V3")).document
    assert document["layers"] == 61
    assert document["mtp"] == {"layers": 1, "block": "attention"}


def test_whisper_keeps_its_own_tokens_and_the_encoder_s() -> None:
    """32 layers, 20 heads of 64, for each text token and each of 1500 encoder tokens."""
    config = {
        "model_type": "whisper", "d_model": 1280, "encoder_layers": 32, "decoder_layers": 32,
        "decoder_attention_heads": 20, "encoder_attention_heads": 20, "max_source_positions": 1500,
        "max_target_positions": 448,
    }  # fmt: skip
    assert session_bytes(config, 448, 1500) == 32 * (448 + 1500) * 20 * 64 * 2 * 2


def test_a_kv_cache_scheme_becomes_the_cache_dtype() -> None:
    """compressed-tensors, 8-bit float."""
    quant = {"quant_method": "compressed-tensors", "kv_cache_scheme": {"num_bits": 8, "type": "float"}}
    assert import_config(LLAMA | {"quantization_config": quant}).document["cache_dtype"] == "fp8_e4m3"


def test_an_unknown_kv_cache_scheme_is_refused() -> None:
    """6-bit floats are not guessed."""
    quant = {"kv_cache_scheme": {"num_bits": 6, "type": "float"}}
    with pytest.raises(ModelFileError, match="KV cache scheme"):
        import_config(LLAMA | {"quantization_config": quant})


@pytest.mark.parametrize(
    ("quant", "weights", "bits"),
    [
        ({"quant_method": "fp8", "fmt": "e4m3"}, "fp8_e4m3", None),
        ({"quant_method": "mxfp4"}, "mxfp4", None),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4", None),
        ({"quant_method": "gptq", "bits": 4}, None, 4),
        ({"quant_method": "awq", "w_bit": 4}, None, 4),
        ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 8}}}}, None, 8),
    ],
    ids=lambda value: str(value.get("quant_method")) if isinstance(value, dict) else "",
)
def test_quantised_weights_do_not_change_the_cache(
    quant: dict[str, Any], weights: str | None, bits: int | None
) -> None:
    """Weight type or bits are noted, the cache stays in the model's dtype."""
    document = import_config(LLAMA | {"quantization_config": quant}).document
    assert document.get("weights", {}).get("dtype") == weights
    assert document["facts"].get("weight_bits") == bits
    assert "cache_dtype" not in document
    assert document["dtype"] == "bfloat16"


def test_falcon_mamba_width_is_never_taken_from_expand() -> None:
    """The published expand is 16, the real factor 2."""
    config = config_of("tiiuae/falcon-mamba-7b")
    del config["intermediate_size"]
    with pytest.raises(ModelFileError, match="intermediate_size"):
        import_config(config)


def test_a_dtype_that_nobody_states_is_said_aloud() -> None:
    """gpt-oss has no torch_dtype."""
    found = import_config({key: value for key, value in LLAMA.items() if key != "torch_dtype"})
    assert found.document["dtype"] == "bfloat16"
    assert any("no dtype" in line for line in found.warnings)


def test_the_given_dtype_only_fills_a_gap() -> None:
    """What the config states wins."""
    bare = {key: value for key, value in LLAMA.items() if key != "torch_dtype"}
    assert import_config(bare, dtype="fp16").document["dtype"] == "float16"
    assert import_config(LLAMA, dtype="fp16").document["dtype"] == "bfloat16"


def test_a_mistral_without_sliding_window_is_full_and_warned() -> None:
    """Trimmed copies drop the null of v0.2 and later."""
    config = LLAMA | {"model_type": "mistral"}
    found = import_config(config)
    assert "window" not in found.document["attention"]
    assert found.exact is False
    assert import_config(config | {"sliding_window": None}).exact is True
    assert import_config(config | {"sliding_window": 4096}).document["attention"]["window"] == 4096
