"""Lines that engines printed at start-up, as users quoted them, beside what their engine here says.

SGLang and TensorRT-LLM print GiB as "GB" or "GiB". Each figure has the address it was read at.
"""

from __future__ import annotations

from typing import Any

from recorded import prepared

from kvcalc.core.model import Model
from kvcalc.core.plan import Load
from kvcalc.document import model_from_document
from kvcalc.engines.sglang.launch import default_mem_fraction_static, kv_budget_bytes
from kvcalc.registry import load_registry


def shipped(name: str) -> Model:
    """A model of the registry."""
    return load_registry().model(name)


def sglang_log(model: str, *, tp: int = 1, kv: str = "auto", **options: Any) -> list[str]:
    """The log of a pool that is larger than `max_total_tokens` asks for."""
    planner = prepared("sglang", shipped(model), tp=tp, kv_cache_dtype=kv, **options)
    log = planner.report(Load(4096), 10**15)["log"]
    assert isinstance(log, list)
    return log


def test_qwen3_235b_on_four_gpus() -> None:
    """https://github.com/vllm-project/vllm/issues/21348: #tokens: 367404, K size: 8.23 GB, V size: 8.23 GB."""
    (line,) = sglang_log("qwen3-235b-a22b", tp=4, max_total_tokens=367404)
    assert line.endswith("#tokens: 367404, K size: 8.23 GB, V size: 8.23 GB")


def test_qwen3_30b() -> None:
    """https://github.com/sgl-project/sglang/pull/18263: #tokens 1,669,816, K size 76.44 GB."""
    (line,) = sglang_log("qwen3-30b-a3b", max_total_tokens=1669816)
    assert "#tokens: 1669816, K size: 76.44 GB" in line


def test_mimo_v2_flash_sliding_pool() -> None:
    """https://github.com/sgl-project/sglang/pull/18039: #tokens: 300288, K size: 8.38 GB, V size: 5.59 GB.

    The pages (64 tokens) make the padding that V needs to print 5.59; 375360 x 0.8 = 300288.
    """
    log = sglang_log("mimo-v2-flash", tp=4, page_size=64, max_total_tokens=375360)
    assert any(line.endswith("#tokens: 300288, K size: 8.38 GB, V size: 5.59 GB") for line in log)


def test_deepseek_v32_with_attention_data_parallelism() -> None:
    """https://github.com/sgl-project/sglang/pull/11309: #tokens: 975424, KV size: 43.67 GB, indexer keys included."""
    (line,) = sglang_log("deepseek-v3.2", tp=8, kv="fp8_e4m3", dp_size=8, max_total_tokens=975424)
    assert line.endswith("#tokens: 975424, KV size: 43.67 GB")


def test_kimi_k2_latents_are_whole_on_every_gpu() -> None:
    """https://github.com/sgl-project/sglang/pull/13466: #tokens: 8050, KV size: 0.53 GB."""
    (line,) = sglang_log("kimi-k2", tp=8, max_total_tokens=8050)
    assert line.endswith("#tokens: 8050, KV size: 0.53 GB")


def test_default_memory_fractions() -> None:
    """SGLang 0.5.23's own rule on an RTX 4090, an H100 and an H200; with latents on the last two."""
    plain = [default_mem_fraction_static(mib, prefill_graph=False) for mib in (24564, 81559, 143771)]
    latent = [default_mem_fraction_static(mib, latent=True) for mib in (81559, 143771)]
    assert (plain, latent) == ([0.72, 0.835, 0.907], [0.816, 0.896])


def test_budget_of_a_recorded_start() -> None:
    """SGLang 0.5.23, recorded: 79.1 GiB free before the weights, 63.25 GiB after them, fraction 0.875."""
    assert kv_budget_bytes(79.1, 63.25, 0.875) == 57297548083


def test_tensorrt_llm_llama_2_7b() -> None:
    """https://github.com/NVIDIA/TensorRT-LLM/issues/1400: 69524783104 bytes, 132608 tokens, fp16."""
    report = prepared("tensorrt-llm", shipped("llama-2-7b")).report(Load(4096), 69524783104)
    assert (report["max_tokens"], report["cache_bytes_per_token"]) == (132608, 524288)
    older = prepared("tensorrt-llm", shipped("llama-2-7b"), use_kv_cache_manager_v2="false", tokens_per_block=64)
    assert older.report(Load(4096), 69524783104)["allocated_bytes"] == 69524783104
    assert older.plan(Load(132608)).total_bytes == 69524783104


def test_tensorrt_llm_qwen25_coder() -> None:
    """https://github.com/NVIDIA/TensorRT-LLM/issues/1188: 4.53 GiB for 395776 tokens."""
    size = prepared("tensorrt-llm", shipped("qwen2.5-0.5b")).plan(Load(395776)).total_bytes
    assert f"{size / 2**30:.2f}" == "4.53"


def test_tensorrt_llm_rounded_blocks_up() -> None:
    """https://github.com/NVIDIA/TensorRT-LLM/issues/2268: 631 blocks of 64 tokens from 0.9 of 21.89 GiB, Qwen1.5-7B.

    The quotient is 630.4; the C++ runtime of that time rounded it up.
    """
    model = model_from_document(
        {
            "name": "qwen1.5-7b",
            "layers": 32,
            "dtype": "float16",
            "attention": {"kind": "mha", "heads": 32, "head_dim": 128},
        }
    )
    free = int(21.89 * 2**30)
    options: dict[str, Any] = {"tokens_per_block": 64, "free_gpu_memory_fraction": 0.9}
    assert prepared("tensorrt-llm@0.8", model, **options).report(Load(4096), free)["max_num_blocks"] == 631
    assert prepared("tensorrt-llm", model, **options).report(Load(4096), free)["max_num_blocks"] == 630
