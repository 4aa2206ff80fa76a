"""Shrinks a config of any architecture: few layers, tiny and distinctive dimensions.

Distinctive: no two dimensions that a formula could confuse are equal (heads 6, KV heads 2, head_dim 16,
hidden / heads 12 ...), so that a prediction which reads the wrong key is wrong.
"""

from __future__ import annotations

from typing import Any

LAYERS = 7
WINDOW = 8
WIDE_WINDOW = 40

#: Key of a config -> the small value it gets wherever the config has that key.
GENERIC: dict[str, Any] = {
    # sizes that only cost time
    "vocab_size": 131, "decoder_vocab_size": 131, "src_vocab_size": 131, "tgt_vocab_size": 131,
    "vocab_size_per_layer_input": 131, "hidden_size_per_layer_input": 8, "embedding_size": 22,
    "intermediate_size": 44, "ffn_dim": 44, "ffn_hidden_size": 44, "n_inner": 44, "d_ff": 44, "dff": 44, "dim_ff": 44,
    "d_inner": 44, "encoder_ffn_dim": 44, "decoder_ffn_dim": 44, "moe_intermediate_size": 26,
    "shared_expert_intermediate_size": 26, "shared_intermediate_size": 26, "moe_shared_expert_intermediate_size": 26,
    "shared_experts_intermediate_size": 26, "intermediate_size_mlp": 38, "expert_ffn_hidden_size": 26,
    "expert_dim": 26, "max_position_embeddings": 512, "n_positions": 512, "n_ctx": 512, "max_source_positions": 512,
    "max_target_positions": 512, "max_encoder_position_embeddings": 512, "max_decoder_position_embeddings": 512,
    "rotary_dim": 8, "original_max_position_embeddings": 512, "type_vocab_size": 2,
    # experts
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4, "num_experts_per_tok": 2,
    "num_experts_per_token": 2, "moe_topk": 2, "moe_k": 2, "n_group": 1, "topk_group": 1, "n_shared_experts": 1,
    "zero_expert_num": 1, "num_expert_groups": 1,
    # what the cache reads
    "hidden_size": 72, "d_model": 72, "n_embd": 72,
    "num_attention_heads": 6, "n_head": 6, "n_heads": 6, "num_heads": 6, "attention_heads": 6,
    "encoder_attention_heads": 4, "decoder_attention_heads": 6, "num_encoder_attention_heads": 4,
    "num_decoder_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 16, "kv_channels": 16, "d_kv": 10, "d_head": 12, "dim_head": 16,
    "num_hidden_layers": LAYERS, "n_layer": LAYERS, "n_layers": LAYERS, "num_layers": LAYERS,
    "decoder_layers": 3, "encoder_layers": 3, "num_encoder_layers": 3, "num_decoder_layers": 3,
    "sliding_window": WINDOW, "attention_chunk_size": WINDOW, "attention_window_size": WINDOW,
    "sliding_window_size": WINDOW,
    "kv_lora_rank": 20, "q_lora_rank": 28, "qk_rope_head_dim": 8, "qk_nope_head_dim": 12, "v_head_dim": 10,
    "qk_head_dim": 20, "index_head_dim": 18, "index_n_heads": 4, "index_topk": 4, "indexer_head_dim": 18,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 10, "linear_value_head_dim": 14,
    "linear_conv_kernel_dim": 3, "linear_num_heads": 3, "linear_head_dim": 10,
    "mamba_n_heads": 9, "mamba_num_heads": 9, "mamba_d_head": 16, "mamba_head_dim": 16, "mamba_headdim": 16,
    "mamba_n_groups": 3, "mamba_ngroups": 3, "mamba_d_state": 10, "mamba_d_conv": 3, "mamba_expand": 2,
    "mamba_dt_rank": 5, "state_size": 10, "ssm_state_size": 10, "conv_kernel": 3, "conv_kernel_size": 3, "n_groups": 3,
    "time_step_rank": 5, "conv_L_cache": 3, "lru_width": 54, "conv1d_width": 3, "attention_head_dim": 16,
    "num_nextn_predict_layers": 0, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip

_LINEAR_AND_FULL = ["linear_attention", "full_attention"]
_CSA, _HCA, _SLIDING = "compressed_sparse_attention", "heavily_compressed_attention", "sliding_attention"
_RATES = {_CSA: 4, _HCA: 5}
_SWA_DIMS = {"swa_num_attention_heads": 6, "swa_num_key_value_heads": 3, "swa_head_dim": 14}
_MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}}
_MROPE6 = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 2]}}

_MROPE3 = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 1]}}

#: A value that drops the generic one.
DROP = object()

#: Keys that an architecture needs otherwise.
OVERRIDES: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {"short_conv_kernel_size": 3},
    "bamba": {"attn_layer_indices": [2, 5]},
    "chameleon": {"vocabulary_map": {"<image>": 4}},
    "codegen": {"n_head": 4},
    "cohere_compass_text": {
        "layer_types": ["full_attention"] * LAYERS,
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}},
    },
    "cosmos3_edge_text": _MROPE,
    "deepseek_ocr2_text": {"mlp_layer_types": ["dense"] + ["sparse"] * (LAYERS - 1)},
    "ernie4_5_vl_moe_text": {"moe_intermediate_size": [26, 26], "rope_parameters": _MROPE6["rope_parameters"]},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 44, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v4": {"compress_rates": _RATES},
    "falcon_h1": {"mamba_d_ssm": 144},
    "gemma3n_text": {
        "num_hidden_layers": 10,
        "num_kv_shared_layers": 0,
        "laurel_rank": 8,
        "activation_sparsity_pattern": None,
        "intermediate_size": [44] * 10,
    },
    "glm4v_moe_text": _MROPE3,
    "glm4v_text": _MROPE6,
    "glm5_next_text": {"index_kpool": 4, "index_topk": 8, "qk_rope_head_dim": 0},
    "glm_image_text": _MROPE6,
    "glm_ocr_text": _MROPE6,
    "gpt_neo": {"num_layers": 4, "attention_types": [[["global", "local"], 2]], "window_size": WINDOW},
    "granitemoehybrid": {"layer_types": (_LINEAR_AND_FULL * 4)[:LAYERS]},
    "helium": {"head_dim": 12},
    "hunyuan_vl_text": _MROPE,
    "inkling2_text": dict(_SWA_DIMS),
    "inkling_text": dict(_SWA_DIMS),
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "conv", "full_attention", "conv", "conv"]},
    "longcat_flash": {"num_layers": 3, "head_dim": 8},
    "mimo_v2_flash": {"num_key_value_heads": 3},
    "mamba2": {"head_dim": 16, "num_heads": 9},
    "mllama_text_model": {"cross_attention_layers": [1, 4]},
    "modernbert-decoder": {"sliding_window": DROP, "local_attention": 2 * WINDOW},
    "nemotron_h": {"layers_block_type": ["mamba", "moe", "attention", "mlp", "mamba", "attention", "moe"]},
    "paddleocr_vl_text": _MROPE,
    "qwen2_5_omni_text": _MROPE6,
    "qwen2_5_vl_text": _MROPE6,
    "qwen2_vl_text": _MROPE6,
    "qwen4_exp_text": {
        "indexer_n_heads": 4,
        "indexer_kv_heads": 1,
        "indexer_budget": 8,
        "indexer_compress_ratio": 2,
        "hc_lowrank": 8,
    },
    "qwen3_omni_moe_text": {"sliding_window": DROP},
    "qwen3_vl_moe_text": {"sliding_window": DROP},
    "rwkv": {"attention_hidden_size": 72},
    "stablelm": {"partial_rotary_factor": 0.5},
    "xlstm": {"num_heads": 4, "hidden_size": 128},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"attention_head_dim": 24, "num_hidden_layers": 13},
    "zamba2": {
        "layers_block_type": ["mamba", "mamba", "hybrid", "mamba", "hybrid", "mamba", "mamba"],
        "n_mamba_heads": 9,
        "attention_head_dim": DROP,
    },
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 12},
}

#: Sections of a multimodal config that must fit the width of its decoder.
WRAPPERS: dict[str, dict[str, dict[str, Any]]] = {
    "dots3_note": {"vision_config": {"adapter_out_dim": 72}, "audio_config": {"adapter_out_dim": 72}},
    "fun_asr_nano": {"adaptor_config": {"hidden_size": 72, "intermediate_size": 18}},
    "granite_docling": {"vision_config": {"out_hidden_size": 72}},
    "inkling2": {"vision_config": {"text_hidden_size": 72}},
    "muse_spark": {"vision_config": {"out_hidden_size": 72}, "audio_config": {"out_hidden_size": 72}},
}

#: Further configs of one architecture: name -> keys.
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "deepseek_v4": {
        "sliding-first": {"layer_types": [_SLIDING, _HCA, _CSA, _CSA, _HCA, _SLIDING, _CSA]},
        "other-rates": {"compress_rates": {_CSA: 3, _HCA: 7}, "index_head_dim": 22},
    },
    "deepseek_v3": {"no-q-lora": {"q_lora_rank": None, "kv_lora_rank": 26}},
    "falcon": {
        "new-decoder": {"new_decoder_architecture": True, "num_kv_heads": 2},
        "many-heads": {"multi_query": False},
    },
    "gemma3n_text": {"shared": {"num_hidden_layers": 12, "num_kv_shared_layers": 2, "intermediate_size": [44] * 12}},
    "gemma4_text": {"shared": {"num_kv_shared_layers": 1, "num_hidden_layers": 13}},
    "glm_moe_dsa": {"shared-index": {"indexer_types": ["full", "full", "shared", "full", "shared", "shared", "full"]}},
    "gpt_bigcode": {"many-heads": {"multi_query": False}},
    "hy_v4": {"shared-index": {"indexer_types": ["full", "shared", "full", "full", "shared", "shared", "full"]}},
    "llama": {
        "derived-head-dim": {"head_dim": DROP},
        "mha": {"num_key_value_heads": 6},
        "mqa": {"num_key_value_heads": 1},
    },
    "mistral": {"no-window": {"sliding_window": None}},
    "mixtral": {"no-window": {"sliding_window": None}},
    "ministral3": {"no-window": {"sliding_window": None}},
    "phi3": {"no-window": {"sliding_window": None}},
    "phimoe": {"no-window": {"sliding_window": None}},
    "starcoder2": {"no-window": {"sliding_window": None}},
    "jamba": {"other-period": {"attn_layer_period": 3, "attn_layer_offset": 1}},
    "mamba": {"wider": {"expand": 3}},
    "mistral_large4_text": {
        "shared-latents": {
            "kv_source_layers": [0, 1, 1, 3, 3, 5, 3],
            "indexer_types": ["full", "full", "full", "full", "shared", "shared", "full"],
        },
    },
    "qwen4_exp_text": {
        "ple": {
            "ple_layer_ids": [1, 3],
            "ple_embed_dim": 16,
            "heads_per_ngram": 2,
            "ngram_vocab_size_base": 50,
            "make_ngram_vocab_size_divisible_by": 2,
        }
    },
    "zaya": {"sliding": {"layer_types": ["hybrid", "hybrid_sliding"] * 3 + ["hybrid"], "sliding_window": WINDOW}},
}
