"""GGUF metadata of models: real ones at their published sizes, and one small one for every architecture's rules.

A shape is what a converter writes (llama.cpp 0c1e57098, conversion/*.py), keys without the architecture's prefix.
"""

# ruff: noqa: E501 - one shape per line reads better than one key per line
from __future__ import annotations

from typing import Any

from gguf_bytes import UINT64, Typed

Keys = dict[str, Any]

MOE: Keys = {
    "expert_count": 8, "expert_used_count": 2, "expert_feed_forward_length": 64, "expert_shared_count": 1,
    "expert_shared_feed_forward_length": 64, "leading_dense_block_count": 1, "expert_gating_func": 2,
    "expert_weights_scale": 1.0, "expert_weights_norm": True, "interleave_moe_layer_step": 1, "expert_group_scale": 1.0,
}  # fmt: skip


def metadata(architecture: str, keys: Keys) -> dict[str, Any]:
    """The whole metadata section of a shape."""
    base: Keys = {
        "vocab_size": 1000, "context_length": 8192, "embedding_length": 512, "block_count": 4,
        "feed_forward_length": 1024, "attention.head_count": 8, "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.layer_norm_epsilon": 1e-5, "logit_scale": 1.0,
    }  # fmt: skip
    head = {"general.architecture": architecture, "general.name": "shape", "tokenizer.ggml.model": "none"}
    full = {**base, **keys}
    plain = {f"{architecture}.{key}": value for key, value in full.items() if not key.startswith("/")}
    return {**head, **plain, **{key[1:]: value for key, value in full.items() if key.startswith("/")}}


def attention(layers: int, embd: int, heads: int | list[int], kv: int | list[int] | None, **rest: Any) -> Keys:
    """The keys every attention model has. dk, dv: key and value length; the rest with __ for the dots."""
    keys: Keys = {"block_count": layers, "embedding_length": embd, "attention.head_count": heads}
    if kv is not None:
        keys["attention.head_count_kv"] = kv
    for short, name in (("dk", "attention.key_length"), ("dv", "attention.value_length"), ("ctx", "context_length"),
                        ("window", "attention.sliding_window"), ("pattern", "attention.sliding_window_pattern"),
                        ("ff", "feed_forward_length")):  # fmt: skip
        if short in rest:
            keys[name] = rest.pop(short)
    return keys | {name.replace("__", "."): value for name, value in rest.items()}


def ssm(conv: int, inner: int, state: int, rank: int, groups: int | None = None) -> Keys:
    keys: Keys = {"ssm.conv_kernel": conv, "ssm.inner_size": inner, "ssm.state_size": state, "ssm.time_step_rank": rank}
    return keys if groups is None else keys | {"ssm.group_count": groups}


def mla(lora: int, rope: int, nope: int, value: int, **rest: Any) -> Keys:
    """What the DeepSeek converter writes: one KV head as wide as the latent and its rotary key."""
    return {
        "attention.q_lora_rank": 96, "attention.kv_lora_rank": lora, "attention.key_length": lora + rope,
        "attention.value_length": lora, "attention.key_length_mla": nope + rope, "attention.value_length_mla": value,
        "attention.head_count_kv": 1, "rope.dimension_count": rope,
    } | {name.replace("__", "."): value for name, value in rest.items()}  # fmt: skip


def indexer(width: int, **rest: Any) -> Keys:
    keys: Keys = {"head_count": 4, "key_length": width, "top_k": 64, "block_size": 16, "local_blocks": 2, **rest}
    return {f"attention.indexer.{name}": value for name, value in keys.items()}


SECTIONS: Keys = {"rope.dimension_sections": [8, 8, 8, 8]}
HYPER: Keys = {
    "hyper_connection.count": 4, "hyper_connection.sinkhorn_iterations": 2, "hyper_connection.epsilon": 1e-5,
    "hyper_connection.magnitude": 1.0, "hyper_connection.low_rank": 8,
}  # fmt: skip
V4: Keys = {
    **MOE, **HYPER, **indexer(64), "attention.q_lora_rank": 96, "attention.output_group_count": 2,
    "attention.output_lora_rank": 32, "attention.compress_rope_freq_base": 160000.0, "hash_layer_count": 0,
    "expert_gating_func": 4, "attention.head_count_kv": 1, "rope.dimension_count": 64,
}  # fmt: skip


def _alternating(layers: int, period: int, full: int, sliding: int) -> list[int]:
    return [sliding if index % period < period - 1 else full for index in range(layers)]


def _every(layers: int, period: int, hit: int, miss: int = 0, offset: int | None = None) -> list[int]:
    place = period - 1 if offset is None else offset
    return [hit if index % period == place else miss for index in range(layers)]


_MIMO_FULL = (0, 5, 11, 17, 23, 29, 35, 41, 47)
_NEMOTRON = "M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-"

#: Real models: name -> (GGUF architecture, keys).
REAL: dict[str, tuple[str, Keys]] = {
    "llama-3.1-8b": ("llama", attention(32, 4096, 32, 8, ctx=131072)),
    "llama-3.1-70b": ("llama", attention(80, 8192, 64, 8, ctx=131072)),
    "mistral-7b-v0.1": ("llama", attention(32, 4096, 32, 8, ctx=32768, window=4096)),
    "mistral-small-24b": ("llama", attention(40, 5120, 32, 8, dk=128, dv=128, ctx=32768, rope__dimension_count=128)),
    "falcon-7b": ("falcon", attention(32, 4544, 71, 1, ctx=2048)),
    "falcon-40b": ("falcon", attention(60, 8192, 128, 8, ctx=2048)),
    "gpt2-xl": ("gpt2", attention(48, 1600, 25, None, ctx=1024)),
    "qwen2.5-7b": ("qwen2", attention(28, 3584, 28, 4, ctx=131072)),
    "qwen3-8b": ("qwen3", attention(36, 4096, 32, 8, dk=128, dv=128, ctx=40960)),
    "qwen3-30b-a3b": ("qwen3moe", attention(48, 2048, 32, 4, dk=128, dv=128, ctx=40960) | MOE),
    "phi-3-mini": ("phi3", attention(32, 3072, 32, 32, ctx=4096, window=2047)),
    "phi-4": ("phi3", attention(40, 5120, 40, 10, ctx=16384)),
    "gemma-2-9b": ("gemma2", attention(42, 3584, 16, 8, dk=256, dv=256, ctx=8192, window=4096)),
    "gemma-3-4b": ("gemma3", attention(34, 2560, 8, 4, dk=256, dv=256, ctx=131072, window=1024)),
    "gemma-3-27b": ("gemma3", attention(62, 5376, 32, 16, dk=128, dv=128, ctx=131072, window=1024)),
    "gemma-3n-e4b": ("gemma3n", attention(
        35, 2048, 8, 2, dk=256, dv=256, ctx=32768, window=512, pattern=_every(35, 5, 0, 1), ff=[16384] * 35,
        attention__shared_kv_layers=15, embedding_length_per_layer_input=256, altup__num_inputs=4)),
    "gemma-4-26b-a4b": ("gemma4", attention(
        30, 2816, 16, _every(30, 6, 2, 8), dk=512, dv=512, ctx=262144, window=1024, pattern=_every(30, 6, 0, 1),
        attention__key_length_swa=256, attention__value_length_swa=256, attention__shared_kv_layers=0,
        embedding_length_per_layer_input=0) | MOE),
    "gemma-4-e4b": ("gemma4", attention(
        42, 2560, 8, 2, dk=512, dv=512, ctx=131072, window=512, pattern=_every(42, 6, 0, 1),
        attention__key_length_swa=256, attention__value_length_swa=256, attention__shared_kv_layers=18,
        embedding_length_per_layer_input=256)),
    "command-r7b": ("cohere2", attention(32, 4096, 32, 8, ctx=132096, window=4096)),
    "olmo-3-7b": ("olmo2", attention(32, 4096, 32, 32, ctx=65536, window=4096)),
    "exaone-4-32b": ("exaone4", attention(64, 5120, 40, 8, dk=128, dv=128, ctx=131072, window=4096)),
    "gpt-oss-20b": ("gpt-oss", attention(24, 2880, 64, 8, dk=64, dv=64, ctx=131072, window=128) | MOE),
    "gpt-oss-120b": ("gpt-oss", attention(36, 2880, 64, 8, dk=64, dv=64, ctx=131072, window=128) | MOE),
    "llama-4-scout": ("llama4", attention(48, 5120, 40, 8, dk=128, dv=128, ctx=10485760, rope__dimension_count=128) | MOE),
    "smallthinker-21b": ("smallthinker", attention(52, 2560, 28, 4, dk=128, dv=128, ctx=16384, window=4096) | MOE),
    "mimo-v2-flash": ("mimo2", attention(
        48, 4096, 64, [4 if i in _MIMO_FULL else 8 for i in range(48)], dk=192, dv=128, ctx=262144, window=128,
        pattern=[int(i not in _MIMO_FULL) for i in range(48)]) | MOE),
    "step-3.5-flash": ("step35", attention(
        45, 4096, _every(45, 4, 64, 96, 0), 8, dk=128, dv=128, ctx=262144, window=512, pattern=_every(45, 4, 0, 1, 0)) | MOE),
    "deepseek-v2-lite": ("deepseek2", attention(27, 2048, 16, None) | MOE | mla(512, 64, 128, 128)),
    "deepseek-v3": ("deepseek2", attention(61, 7168, 128, None, ctx=163840) | MOE | mla(512, 64, 128, 128)),
    "deepseek-v2-lite-old": ("deepseek2", attention(
        27, 2048, 16, 16, dk=192, dv=128, attention__kv_lora_rank=512, rope__dimension_count=64) | MOE),
    "deepseek-v3.2": ("deepseek32", attention(61, 7168, 128, None, ctx=163840) | MOE | mla(512, 64, 128, 128) | indexer(128)),
    "glm-5": ("glm-dsa", attention(78, 6144, 64, None, ctx=202752) | MOE | mla(512, 64, 192, 256) | indexer(128)),
    "minicpm3-4b": ("minicpm3", attention(
        62, 2560, 40, 40, dk=96, ctx=32768, rope__dimension_count=32, attention__q_lora_rank=768,
        attention__kv_lora_rank=256)),
    "kimi-linear-48b": ("kimi-linear", attention(27, 2304, 32, None, ctx=1048576) | MOE | mla(512, 64, 128, 128) | {
        "attention.head_count_kv": [*_every(26, 4, 1), 1], "attention.value_length": 72, "ssm.conv_kernel": 4,
        "kda.head_dim": 128}),
    "qwen3-next-80b": ("qwen3next", attention(48, 2048, 16, 2, dk=256, dv=256, ctx=262144) | MOE | ssm(4, 4096, 128, 32, 16)),
    "qwen3.5-27b": ("qwen35", attention(64, 5120, 24, 4, dk=256, dv=256, ctx=262144) | SECTIONS | ssm(4, 6144, 128, 48, 16)),
    "minimax-text-01": ("minimax-01", attention(
        80, 6144, 64, 8, dk=128, dv=128, ctx=10240000, residual_scale=1.0) | MOE),
    "mamba-2.8b": ("mamba", attention(64, 2560, 0, None, ctx=1048576, ff=0) | ssm(4, 5120, 16, 160)),
    "mamba2-2.7b": ("mamba2", attention(64, 2560, 0, None, ctx=1048576, ff=0) | ssm(4, 5120, 128, 80, 1)),
    "falcon-mamba-7b": ("mamba", attention(64, 4096, 0, None, ctx=1048576, ff=0, ssm__dt_b_c_rms=True) | ssm(4, 8192, 16, 256)),
    "jamba-1.5-mini": ("jamba", attention(32, 4096, 32, _every(32, 8, 8, 0, 4), ctx=262144) | MOE | ssm(4, 8192, 16, 256)),
    "granite-4-h-small": ("granitehybrid", attention(
        40, 4096, 32, _every(40, 10, 8, 0, 5), ctx=131072) | MOE | ssm(4, 8192, 128, 128, 1)),
    "falcon-h1-34b": ("falcon-h1", attention(72, 5120, 20, 4, dk=128, dv=128, ctx=262144) | ssm(4, 10240, 256, 32, 2)),
    "lfm2-1.2b": ("lfm2", attention(16, 2048, 32, [8 if i in (2, 5, 8, 10, 12, 14) else 0 for i in range(16)],
                                    ctx=128000, shortconv__l_cache=3)),
    "nemotron-nano-9b-v2": ("nemotron_h", attention(
        56, 4480, 40, [8 if c == "*" else 0 for c in _NEMOTRON], dk=128, dv=128, ctx=131072,
        ff=[15680 if c == "-" else 0 for c in _NEMOTRON]) | ssm(4, 10240, 128, 128, 8)),
    "rwkv7-1.5b": ("rwkv7", attention(
        24, 2048, 0, None, wkv__head_size=64, attention__decay_lora_rank=96, attention__iclr_lora_rank=96,
        attention__value_residual_mix_lora_rank=64, attention__gate_lora_rank=256)),
    "glm-4.5-air": ("glm4moe", attention(
        47, 4096, 96, 8, dk=128, dv=128, ctx=131072, nextn_predict_layers=1) | MOE),
    "nemotron-super-49b": ("deci", attention(
        12, 8192, [64, 64, 0, 64, 0, 0, 64, 64, 64, 0, 64, 64], [8, 8, 0, 8, 0, 0, 4, 8, 8, 0, 16, 8], ctx=131072)),
    "openelm-1.1b": ("openelm", attention(
        8, 2048, [16, 16, 16, 20, 20, 20, 24, 32], [4, 4, 4, 5, 5, 5, 6, 8], dk=64, dv=64, ctx=2048,
        ff=[768, 1024, 1280, 1536, 1792, 2048, 2304, 2560])),
    "deepseek-v4-flash": ("deepseek4", V4 | indexer(128) | attention(
        43, 4096, 64, 1, dk=512, dv=512, ctx=1048576, window=128, swiglu_clamp_exp=[7.0] * 43,
        attention__compress_ratios=[0, 0] + [4 if i % 2 == 0 else 128 for i in range(41)])),
}  # fmt: skip

_SMALL_PLAIN = (
    "baichuan", "starcoder", "refact", "bloom", "stablelm", "qwen", "phi2", "plamo", "codeshell", "orion", "internlm2",
    "minicpm", "gemma", "starcoder2", "xverse", "command-r", "olmo", "chatglm", "glm4", "bitnet", "jais", "jais2",
    "nemotron", "exaone", "granite", "arcee", "ernie4_5", "hunyuan-dense", "smollm3", "seed_oss", "pangu-embedded",
    "mistral3", "maincoder", "talkie", "mpt", "cogvlm", "llama-embed", "paddleocr", "pockettts", "hunyuan_vl",
    "neo-bert", "eurobert", "dream",
)  # fmt: skip
_SMALL_MOE = (
    "qwen2moe", "phimoe", "grok", "arctic", "deepseek", "glm4moe", "bailingmoe", "bailingmoe2", "ernie4_5-moe",
    "hunyuan-moe", "hy_v3", "minimax-m2", "granitemoe", "llada-moe", "rnd1",
)  # fmt: skip

#: One small model per rule, with dimensions that are all different: name -> (GGUF architecture, keys).
SMALL: dict[str, tuple[str, Keys]] = {
    **{name: (name, attention(3, 512, 8, 2)) for name in _SMALL_PLAIN},
    **{name: (name, attention(3, 512, 8, 4) | MOE) for name in _SMALL_MOE},
    "apertus": ("apertus", attention(3, 512, 8, 2) | {f"/xielu.{name}": [0.5] * 3 for name in ("alpha_n", "alpha_p", "beta", "eps")}),
    "gemma-embedding": ("gemma-embedding", attention(6, 512, 8, 2, window=128)),
    "chameleon": ("chameleon", attention(3, 512, 8, 8, vocab_size=65536)),
    "deepseek2-ocr": ("deepseek2-ocr", attention(3, 512, 8, 8) | MOE),
    "bert": ("bert", attention(3, 512, 8, 8) | {"/tokenizer.ggml.token_type_count": 2}),
    "grovemoe": ("grovemoe", attention(3, 512, 8, 4, experts_per_group=2) | MOE),
    "dots1": ("dots1", attention(3, 512, 8, 8) | MOE),
    "olmoe": ("olmoe", attention(3, 512, 8, 8) | MOE),
    "gptneox": ("gptneox", attention(3, 512, 8, None, use_parallel_residual=True)),
    "dbrx": ("dbrx", attention(3, 512, 8, 2, attention__clamp_kqv=8.0) | MOE),
    "qwen2vl": ("qwen2vl", attention(3, 512, 8, 2) | SECTIONS),
    "qwen3vl": ("qwen3vl", attention(3, 512, 8, 2, dk=48, dv=48) | SECTIONS),
    "qwen3vlmoe": ("qwen3vlmoe", attention(3, 512, 8, 2, dk=64, dv=64) | SECTIONS | MOE),
    "hd80": ("llama", attention(3, 640, 8, 2)),
    "hd40-swa-ignored": ("llama", attention(3, 320, 8, 8, window=64)),
    "t5": ("t5", attention(4, 512, 8, None, dk=64, dv=64, attention__relative_buckets_count=32)),
    "gemma2-array": ("gemma2", attention(5, 512, 8, 4, dk=48, dv=48, window=300, pattern=[True, True, False, True, False])),
    "gemma2-default": ("gemma2", attention(5, 512, 8, 4, dk=48, dv=48)),
    "gemma3-no-window": ("gemma3", attention(7, 512, 8, 4, dk=32, dv=32)),
    "gemma3-pattern-4": ("gemma3", attention(7, 512, 8, 4, dk=32, dv=32, window=77, pattern=4)),
    "cohere2moe": ("cohere2moe", attention(6, 512, 8, 2, window=700) | MOE),
    "muse-glimmer": ("muse-glimmer", attention(6, 512, 8, 2, window=130)),
    "exaone4-small": ("exaone4", attention(5, 512, 8, 2, window=64)),
    "exaone-moe": ("exaone-moe", attention(6, 512, 8, 2, window=100) | MOE),
    "olmo2-full": ("olmo2", attention(5, 512, 8, 8)),
    "afmoe": ("afmoe", attention(6, 512, 8, 2, window=400) | MOE),
    "mellum": ("mellum", attention(6, 512, 8, 2, window=511) | MOE),
    "plamo3": ("plamo3", attention(9, 512, 8, 2, dk=64, dv=96, window=600, pattern=_every(9, 8, 0, 1))),
    "laguna": ("laguna", attention(6, 512, [8, 12, 12, 12, 8, 12], 4, dk=64, dv=64, window=200) | MOE),
    "smallthinker-full": ("smallthinker", attention(5, 512, 8, 2) | MOE),
    "llama4-full": ("llama4", attention(5, 512, 8, 2, window=0) | MOE),
    "llama4-window": ("llama4", attention(5, 512, 8, 2, window=300) | MOE),
    "maple": ("maple", attention(5, 512, 8, 2, window=90, pattern=[1, 0, 1, 1, 0], swiglu_clamp_exp=[7.0] * 5) | MOE),
    "spark2_5": ("spark2_5", attention(5, 512, 8, 2, window=90, pattern=[1, 0, 1, 1, 0])),
    "granite_swa": ("granite_swa", attention(5, 512, 8, 2, window=90, pattern=[1, 0, 1, 1, 0], residual_scale=1.0, embedding_scale=1.0)),
    "mimo2-mtp": ("mimo2", attention(
        7, 512, 8, [4, 2, 4, 2, 2, 4, 8], dk=96, dv=64, window=150, pattern=[0, 1, 0, 1, 1, 0, 1], nextn_predict_layers=1) | MOE),
    "step35-mtp": ("step35", attention(
        6, 512, [8, 12, 12, 12, 8, 12], 4, dk=64, dv=64, window=200, pattern=[0, 1, 1, 1, 0, 1], nextn_predict_layers=1) | MOE),
    "gemma4-shared": ("gemma4", attention(
        9, 512, 8, [2, 2, 4, 2, 2, 4, 2, 2, 4], dk=96, dv=96, window=333, pattern=[1, 1, 0, 1, 1, 0, 1, 1, 0],
        attention__key_length_swa=64, attention__value_length_swa=64, attention__shared_kv_layers=3,
        embedding_length_per_layer_input=0)),
    "deci-gaps": ("deci", attention(6, 512, [8, 0, 8, 8, 0, 8], [2, 0, 4, 8, 0, 1])),
    "mistral4": ("mistral4", attention(4, 512, 8, None) | MOE | mla(96, 32, 64, 64)),
    "glm-4.7-flash": ("deepseek2", attention(5, 512, 20, None, nextn_predict_layers=1) | MOE | mla(64, 32, 48, 96)),
    "deepseek32-mtp": ("deepseek32", attention(5, 512, 8, None, nextn_predict_layers=1) | MOE | mla(96, 32, 64, 64) | indexer(64)),
    "glm-dsa-shared": ("glm-dsa", attention(
        7, 512, 8, None, nextn_predict_layers=1, attention__indexer__types=[1, 1, 0, 0, 1, 0]) | MOE | mla(96, 32, 64, 64) | indexer(64)),
    "glm-5.2-rule": ("glm-dsa", attention(11, 512, 8, None, ctx=1048576) | MOE | mla(96, 32, 64, 64) | indexer(64)),
    "hy_v4-full": ("hy_v4", attention(4, 512, 8, None) | MOE | HYPER | mla(96, 32, 64, 64)),
    "hy_v4-dsa": ("hy_v4", attention(
        4, 512, 8, None, attention__indexer__types=[1, 0, 1, 0]) | MOE | HYPER | mla(96, 32, 64, 64) | indexer(64)),
    "minimax-m3": ("minimax-m3", attention(5, 512, 8, 2, dk=64, dv=64) | MOE | indexer(96, head_count=2)),
    "dots3note": ("dots3note", attention(
        6, 512, 8, None, window=220, pattern=[0, 1, 1, 0, 1, 1], attention__kv_lora_rank_swa=32,
        attention__key_length_mla_swa=48, attention__value_length_mla_swa=32, attention__key_length_swa=64,
        attention__value_length_swa=32, rope__freq_base_swa=10000.0, rope__dimension_count_swa=32,
        attention__indexer__types=[1, 0, 0, 1, 0, 0]) | MOE | mla(96, 32, 64, 64) | indexer(64)),
    "deepseek4-small": ("deepseek4", V4 | attention(
        6, 512, 8, 1, dk=96, dv=96, window=100, swiglu_clamp_exp=[7.0] * 6, rope__dimension_count=32,
        attention__compress_ratios=[0, 4, 128, 4, 0, 128])),
    "kimi-k3": ("kimi-k3", attention(6, 512, 8, None, attn_res__block_size=2, activation__situ_beta=1.0, activation__situ_linear_beta=1.0) | MOE | mla(96, 32, 64, 64) | {
        "attention.head_count_kv": [0, 1, 0, 0, 1, 0], "ssm.conv_kernel": 4, "kda.head_dim": 48}),
    "bailingmoe3": ("bailingmoe3", attention(6, 512, 8, None, kda__gate_lower_bound=-5.0) | MOE | mla(96, 32, 64, 64) | {
        "attention.head_count_kv": [0, 1, 0, 0, 1, 0], "ssm.conv_kernel": 4, "kda.head_dim": 48}),
    "glm5-next": ("glm5-next", attention(6, 512, 8, None) | MOE | HYPER | mla(96, 0, 64, 64) | indexer(64, kpool=16) | {
        "attention.head_count_kv": [0, 1, 0, 0, 1, 0], "ssm.conv_kernel": 4, "kda.head_dim": 48}),
    "qwen35-recurrent-array": ("qwen35", attention(
        6, 512, 8, 2, dk=96, dv=96, attention__recurrent_layers=[1, 0, 1, 1, 0, 1]) | SECTIONS | ssm(4, 768, 64, 12, 4)),
    "qwen35-mtp": ("qwen35", attention(
        7, 512, 8, 2, dk=96, dv=96, full_attention_interval=3, nextn_predict_layers=1) | SECTIONS | ssm(4, 768, 64, 12, 4)),
    "qwen35moe": ("qwen35moe", attention(6, 512, 8, 2, dk=96, dv=96) | MOE | SECTIONS | ssm(4, 768, 64, 12, 4)),
    "qwen4exp": ("qwen4exp", attention(6, 512, 8, 2, dk=96, dv=96) | MOE | SECTIONS | HYPER | indexer(64) | ssm(4, 768, 64, 12, 4)),
    "qwen4exp-ple": ("qwen4exp", attention(
        6, 512, 8, 2, dk=96, dv=96, ple__layers=[1], ple__ngram_size=3, ple__heads_per_ngram=2, ple__conv_kernel=4,
        ple__eos_token_id=1, ple__layer_multipliers=Typed(UINT64, [3, 5, 7]), ple__head_offsets=Typed(UINT64, [0, 100, 200, 300]),
        ple__head_vocab_sizes=Typed(UINT64, [100, 100, 100, 100]), embedding_length_per_layer_input=128)
        | MOE | SECTIONS | HYPER | indexer(64) | ssm(4, 768, 64, 12, 4)),
    "minimax-01-small": ("minimax-01", attention(9, 512, 8, 2, dk=48, dv=48, residual_scale=1.0, full_attention_interval=3) | MOE),
    "mamba-odd": ("mamba", attention(3, 330, 0, None, ff=0) | ssm(5, 660, 7, 21)),
    "mamba2-groups": ("mamba2", attention(3, 384, 0, None, ff=0) | ssm(4, 768, 24, 12, 4)),
    "jamba-odd": ("jamba", attention(5, 448, 8, [0, 4, 0, 0, 2]) | MOE | ssm(4, 896, 12, 28)),
    "plamo2": ("plamo2", attention(5, 512, 8, [0, 2, 0, 2, 0], dk=64, dv=64) | ssm(4, 1024, 16, 16, 0)),
    "falcon-h1-small": ("falcon-h1", attention(3, 448, 7, 1, dk=64, dv=64) | ssm(4, 896, 48, 14, 2)),
    "granitehybrid-small": ("granitehybrid", attention(5, 448, 7, [0, 1, 0, 7, 0]) | ssm(4, 896, 48, 14, 2)),
    "lfm2-odd": ("lfm2", attention(5, 328, 8, [0, 2, 0, 0, 4], shortconv__l_cache=4)),
    "lfm2-window": ("lfm2", attention(5, 512, 8, [0, 2, 0, 0, 4], shortconv__l_cache=3, window=170)),
    "lfm2moe": ("lfm2moe", attention(5, 512, 8, [0, 2, 0, 0, 4], shortconv__l_cache=3) | MOE),
    "nemotron_h_moe": ("nemotron_h_moe", attention(
        6, 512, 8, [0, 0, 2, 0, 0, 4], dk=64, dv=64, ff=[0, 256, 0, 0, 256, 0]) | MOE | ssm(4, 768, 24, 12, 4)),
    "rwkv6": ("rwkv6", attention(
        3, 512, 0, None, wkv__head_size=64, time_mix_extra_dim=32, time_decay_extra_dim=64, rescale_every_n_layers=6)),
    "arwkv7": ("arwkv7", attention(
        3, 512, 0, None, wkv__head_size=64, attention__decay_lora_rank=32, attention__iclr_lora_rank=32,
        attention__value_residual_mix_lora_rank=32, attention__gate_lora_rank=64, token_shift_count=1)),
    "nanbeige-loops": ("nanbeige", attention(4, 512, 8, 2, num_loops=2)),
    "bert-none": ("modern-bert", attention(3, 512, 8, 8)),
    "llada-none": ("llada", attention(3, 512, 8, 8)),
    "embedding": ("qwen3", attention(3, 512, 8, 2, attention__causal=False)),
    "embedding-swa": ("gemma3", attention(7, 512, 8, 4, dk=32, dv=32, window=300, attention__causal=False)),
}  # fmt: skip

#: Layers that the option sweep keeps of a real model: the library really allocates recurrent states (it ignores no_alloc
#: there), gigabytes with several slots. The whole model is asked for once, with one slot.
CUT = {
    "falcon-h1-34b": 4, "minimax-text-01": 17, "mamba2-2.7b": 8, "granite-4-h-small": 11, "nemotron-nano-9b-v2": 15,
    "qwen3.5-27b": 9, "qwen3-next-80b": 9, "mamba-2.8b": 16, "falcon-mamba-7b": 16, "kimi-linear-48b": 9,
    "jamba-1.5-mini": 9,
}  # fmt: skip


def cut(keys: Keys, layers: int) -> Keys:
    """The first `layers` layers of a model."""
    return {
        key: value[:layers] if isinstance(value, list) and len(value) == keys["block_count"] else value
        for key, value in keys.items()
    } | {"block_count": layers}
