"""What engines say beside their numbers: assumptions and warnings appear where they hold and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest
from starting import model_of, started

from kvcalc.core.plan import Layout, Load

HEADS = {"kind": "gqa", "heads": 8, "groups": 2, "head_dim": 64}
LOCAL = HEADS | {"window": 128}
MLA = {"kind": "mla", "heads": 8, "latent_dim": 512, "rope_dim": 64}
INDEXED = MLA | {"indexer": {"head_dim": 128}}
DELTA = {"kind": "gated_deltanet", "key_heads": 2, "value_heads": 4, "key_dim": 32, "value_dim": 16, "conv_kernel": 4}


def pair(first: dict[str, Any], second: dict[str, Any], **more: Any) -> Any:
    return model_of({"a": first, "b": second}, pattern=["a", "b"], **more)


LLAMA = model_of(HEADS, cls="LlamaForCausalLM", max_context=4096)
#: engine, model, how it is started, words, whether they are said.
SAID: list[tuple[str, Any, dict[str, Any], str, bool]] = [
    ("sglang", LLAMA, {}, "mem_fraction_static decides", False),
    ("sglang", LLAMA, {"mem_fraction_static": 0.8}, "mem_fraction_static decides", True),
    ("sglang", LLAMA, {}, "page_size 1: the attention backend", True),
    ("sglang", LLAMA, {"page_size": 16}, "the attention backend of a real GPU", False),
    ("sglang", LLAMA, {}, "names no architectures", False),
    ("sglang", model_of(HEADS), {}, "names no architectures", True),
    ("sglang", LLAMA, {}, "recurrent states in", False),
    ("sglang", pair(DELTA, HEADS, cls="Qwen3NextForCausalLM"), {}, "recurrent states in float32", True),
    ("sglang", LLAMA, {"kv_cache_dtype": "nvfp4"}, "attention_backend trtllm_mha", True),
    ("sglang", LLAMA, {"kv_cache_dtype": "nvfp4", "attention_backend": "fa4"}, "attention_backend trtllm_mha", False),
    ("sglang", LLAMA, {"kv_cache_dtype": "fp4_mx_block16"}, "attention_backend trtllm_mha", False),
    ("sglang", LLAMA, {}, "MiB of the budget stay free", False),
    ("sglang", model_of(HEADS, cls="Qwen2VLForConditionalGeneration"), {}, "100 MiB of the budget stay free", True),
    ("sglang", pair(LOCAL, HEADS, cls="Gemma3ForCausalLM"), {}, "keeps every token in all layers", True),
    ("sglang", pair(LOCAL, HEADS, cls="GptOssForCausalLM"), {}, "keeps every token in all layers", False),
    ("sglang", LLAMA, {}, "keeps every token in all layers", False),
    ("sglang", model_of(HEADS, max_context=2**18), {}, "req_to_token takes", False),
    ("sglang", model_of(HEADS, max_context=2**18 + 1), {}, "req_to_token takes 2.0 GiB", True),
    ("sglang", model_of(HEADS, max_context=2**20), {}, "req_to_token takes 8.0 GiB", True),
    ("sglang", model_of(HEADS, max_context=2**20), {"max_running_requests": 8}, "req_to_token takes", False),
    ("sglang", model_of(INDEXED, cls="DeepseekV32ForCausalLM"), {"kv_cache_dtype": "nvfp4"}, "priced at half", True),
    ("sglang", model_of(INDEXED, cls="DeepseekV32ForCausalLM"), {}, "priced at half a byte", False),
    ("sglang", model_of(MLA, cls="DeepseekV3ForCausalLM"), {"kv_cache_dtype": "nvfp4"}, "priced at half", False),
    ("lmdeploy", model_of(HEADS), {}, "names no architectures", True),
    ("lmdeploy", LLAMA, {}, "names no architectures", False),
    ("lmdeploy", LLAMA, {}, "the pool is the cache memory", True),
    ("lmdeploy", model_of(HEADS, vocab_size=9), {"cache_max_entry_count": 0.8}, "the pool is the cache memory", False),
    ("lmdeploy", model_of(LOCAL), {}, "sliding and chunked layers keep every token", True),
    ("lmdeploy", LLAMA, {}, "sliding and chunked layers keep every token", False),
    ("lmdeploy", pair(DELTA, HEADS), {}, "sliding and chunked layers keep every token", False),
    ("lmdeploy", pair(DELTA, HEADS), {}, "max_batch_size: as many as sessions; 128", True),
    ("lmdeploy", pair(DELTA, HEADS), {"max_batch_size": 4}, "max_batch_size: as many", False),
    ("lmdeploy", LLAMA, {}, "max_batch_size: as many", False),
    ("tensorrt-llm", LLAMA, {}, "KV cache manager V1", True),
    ("tensorrt-llm", model_of(HEADS, architecture="llama"), {}, "KV cache manager V2", True),
    ("tensorrt-llm", model_of(HEADS, architecture="qwen2"), {}, "KV cache manager V1", True),
    ("tensorrt-llm", pair(DELTA, HEADS), {"use_kv_cache_manager_v2": "false"}, "KV cache manager V1", True),
    ("tensorrt-llm", LLAMA, {"free_gpu_memory_fraction": 0.9}, "the pool is the KV memory", False),
    ("tensorrt-llm", LLAMA, {}, "TensorRT-LLM's default is 0.9", True),
    ("tensorrt-llm", LLAMA, {}, "sliding layers keep every token", False),
    ("tensorrt-llm", LLAMA, {"max_tokens": 9, "use_kv_cache_manager_v2": "true"}, "max_tokens is not applied", True),
    ("tensorrt-llm", LLAMA, {"max_tokens": 9}, "max_tokens is not applied", False),
    ("tensorrt-llm", LLAMA, {"use_kv_cache_manager_v2": "true"}, "max_tokens is not applied", False),
    ("tensorrt-llm", model_of(LOCAL), {"use_kv_cache_manager_v2": "true"}, "V2 splits its grains", False),
    ("llama.cpp", model_of(HEADS, architecture="llama"), {"n_ctx": 1000}, "n_ctx is fixed", True),
    ("llama.cpp", model_of(HEADS, architecture="llama"), {}, "n_ctx is fixed", False),
    ("llama.cpp", model_of(HEADS, architecture="llama"), {"layout": Layout(pp=2)}, "layers are split evenly", True),
    ("llama.cpp", model_of(HEADS, architecture="llama"), {}, "layers are split evenly", False),
    (
        "llama.cpp",
        model_of(HEADS, architecture="llama"),
        {"types": {"key": "q8_0", "value": "q8_0"}},
        "CUDA pads quantised rows",
        True,
    ),
    ("llama.cpp", model_of(HEADS, architecture="llama"), {"types": {"key": "q8_0"}}, "CUDA pads quantised rows", True),
    ("llama.cpp", model_of(HEADS, architecture="llama"), {}, "CUDA pads quantised rows", False),
    ("transformers", model_of(HEADS, architecture="llama", cache_dtype="fp8_e4m3"), {}, "is ignored", True),
    ("transformers", model_of(HEADS, architecture="llama", cache_dtype="bfloat16"), {}, "is ignored", False),
    ("transformers", model_of(HEADS, architecture="llama"), {}, "is ignored", False),
]


@pytest.mark.parametrize(("engine", "model", "asked", "words", "expected"), SAID)
def test_what_an_engine_says(engine: str, model: Any, asked: dict[str, Any], words: str, expected: bool) -> None:
    """The sentence is among the assumptions or warnings exactly where it holds."""
    made = started(engine, model, **asked)
    assert any(words in text for text in (*made.assumptions, *made.warnings)) == expected


def test_growth_begins_after_the_windows() -> None:
    """SGLang: pages of 16, a window of 127: regular from 4 x 127 + 16 pages on, in steps of 1000 pages."""
    made = started("sglang", pair(LOCAL, HEADS, cls="GptOssForCausalLM", max_context=4096), page_size=16)
    assert (made.period_tokens, made.saturation_tokens, made.exactness) == (16_000, 764, "exact")
    plain = started("sglang", LLAMA, page_size=16)
    assert (plain.period_tokens, plain.saturation_tokens) == (16, 256)
    rotating = started("mlx-lm", pair(LOCAL, HEADS, architecture="gpt_oss"))
    assert (rotating.period_tokens, rotating.saturation_tokens) == (256, 128 + 2048)
    assert started("mlx-lm", model_of(HEADS)).saturation_tokens == 0
    assert started("exllamav3", LLAMA).period_tokens == 256
    assert started("lmdeploy", LLAMA).period_tokens == 64
    assert started("tensorrt-llm", LLAMA, tokens_per_block=16).period_tokens == 16


def test_images_are_charged_to_the_pool() -> None:
    """100 MiB of a multimodal model's budget, beside 2 layers x 2 heads x 128 x 2 bytes a token."""
    model = model_of(HEADS, cls="Qwen2VLForConditionalGeneration", max_context=4096)
    assert started("sglang", model).plan(Load(10)).max_rank_bytes == 10 * 1024 + 100 * 2**20
