"""Threads of public issues, answered by the commands a person would type (tests name their threads)."""

from __future__ import annotations

from pathlib import Path

import pytest
from calling import Call

from kvcalc.planning.amount import gib_of
from kvcalc.units import GIB, MIB


def test_gpt_oss_needs_4_54_gib(call: Call) -> None:
    """vllm issue 27508: gpt-oss-120b at 131,072 with 1,024 batched tokens needs 4.54 GiB, 1.71 are there."""
    done = call(
        "fit", "gpt-oss-120b", "-e", "vllm@0.11", "--pool", "1.71GiB", "-c", "128k",
        "-o", "max_num_batched_tokens=1024", "--json",
    )  # fmt: skip
    assert done.code == 1
    refusal = done.answer["engine_report"]["refusal"]
    assert round(refusal["needed_bytes"] / GIB, 2) == 4.54
    assert round(refusal["available_bytes"] / GIB, 2) == 1.71


def test_kimi_latents_are_on_every_rank(call: Call) -> None:
    """sglang pull 13466: 8,050 tokens of Kimi-K2 are 0.53 GiB on each of 8 ranks."""
    answer = call("size", "kimi-k2", "-c", "8050", "--kv-dtype", "bf16", "--tp", "8", "--json").answer
    assert [round(rank["bytes"] / GIB, 2) for rank in answer["ranks"]] == [0.53] * 8


def test_hand_off_of_kimi(call: Call) -> None:
    """aiconfigurator pull 1380: 286 MB per hand-off at ISL 8,150, 0.30 GiB for 9,174 tokens, fp8 KV."""
    base = ("transfer", "kimi-k2", "--kv-dtype", "fp8", "--json", "-c")
    answer = call(*base, "8150", "--rate", "20", "--link", "50GB/s").answer
    assert round(answer["handoff_bytes"] / 10**6, 1) == 286.4
    assert answer["bytes_per_second"] == 20 * answer["handoff_bytes"]
    assert round(answer["handoff_ns"] / 10**6, 1) == 5.7
    assert round(call(*base, "9174").answer["handoff_bytes"] / GIB, 2) == 0.30


def test_scout_over_two_stages(call: Call) -> None:
    """vllm pull 29431: auto-fit of Llama-4-Scout, PP 2, hybrid manager off, 29.72 GiB: 324,640 tokens."""
    answer = call(
        "fit", "llama-4-scout", "-e", "vllm@0.12", "--pp", "2", "--pool", "29.72GiB", "-c", "10485760",
        "-o", "disable_hybrid_kv_cache_manager=on", "--json",
    ).answer  # fmt: skip
    found = answer["engine_report"]["refusal"]["estimated_max_model_len"]
    assert found == pytest.approx(324640, rel=0.0003)  # the log rounds GiB to two decimals


@pytest.mark.parametrize(("model", "tokens", "printed"), [("llama-3.2-3b", 2048, 0.2188), ("qwen3-8b", 10010, 1.3747)])
def test_lmcache_stored(call: Call, model: str, tokens: int, printed: float) -> None:
    """LMCache issue 2262 and pull 1740: what 'Stored N tokens' prints, in GiB."""
    answer = call("offload", model, "-c", str(tokens), "--json").answer
    assert round(answer["session_bytes"] / GIB, 4) == printed


def test_how_much_for_one_short_session(call: Call) -> None:
    """vllm issue 33263: 18.78 GiB give 175,856 tokens of Qwen3-1.7B; one session of 1,024 needs 112 MiB of them."""
    answer = call("fit", "qwen3-1.7b", "-e", "vllm@0.14", "--pool", "18.78GiB", "-c", "1024", "--json").answer
    assert answer["engine_report"]["kv_cache_tokens"] == pytest.approx(175856, rel=0.0004)
    assert answer["engine_report"]["bytes_per_request"] == 112 * MIB


def test_tpu_blocks_of_512(call: Call) -> None:
    """tpu-inference pull 223: 16.00 GiB needed, 0.71 there, 5,632 tokens in blocks of 512."""
    done = call(
        "fit", "llama-3.1-8b", "-e", "vllm@0.10", "--pool", "0.71GiB", "-c", "128k", "-o", "block_size=512", "--json"
    )
    refusal = done.answer["engine_report"]["refusal"]
    assert (done.code, refusal["needed_bytes"]) == (1, 16 * GIB)
    assert refusal["estimated_max_model_len"] == 5632


def test_concurrency_of_given_blocks(call: Call) -> None:
    """vllm pull 12569: 1,381 blocks at 2,048 tokens are 10.79x."""
    answer = call(
        "fit", "llama-3.1-70b", "-e", "vllm@0.9", "--pool", "8GiB", "-c", "2048",
        "-o", "num_gpu_blocks_override=1381", "--json",
    ).answer  # fmt: skip
    assert round(answer["engine_report"]["max_concurrency"], 2) == 10.79


@pytest.mark.parametrize(
    ("model", "tokens", "printed"),
    [
        ("gemma-3-27b", 131072, 10.41),
        ("deepseek-v3", 163840, 10.72),
        ("kimi-k2", 262144, 17.16),
        ("qwen3-0.6b", 40960, 4.38),
    ],
)
def test_unsloth_corrected_estimates(call: Call, model: str, tokens: int, printed: float) -> None:
    """unsloth pull 4757: the estimates after the fix, 'GB' that are GiB."""
    answer = call("size", model, "-c", str(tokens), "--kv-dtype", "bf16", "--json").answer
    assert round(answer["total_bytes"] / GIB, 2) == pytest.approx(printed, abs=0.011)


def test_unsloth_qwen_hybrid(call: Call) -> None:
    """The same thread: Qwen3.5-27B at 262,144 has 16.00 GiB of keys and values; its states come on top."""
    answer = call("size", "qwen3.5-27b", "-c", "256k", "--json").answer
    grown = sum(row["bytes"] for row in answer["components"] if row["law"] == "linear")
    assert round(grown / GIB, 2) == 16.00


def test_data_parallel_latents(call: Call) -> None:
    """recipes issue 762: DeepSeek-V4-Flash on 8 B200: DP 8 with expert parallel holds 7.7 times what TP 8 does."""
    answer = call(
        "compare", "deepseek-v4-flash", "-e", "vllm", "--gpu", "b200", "--gpus", "8", "--layouts", "tp8,dp8ep8",
        "-c", "1m", "--weight-dtype", "fp8", "--overhead", "10GiB", "--json",
    ).answer  # fmt: skip
    one, eight = (record["engine_report"]["max_concurrency"] for record in answer["results"])
    assert 8 * eight / one == pytest.approx(7.7, rel=0.03)


def test_tensor_parallel_divides_heads(call: Call) -> None:
    """transformers pull 48566: Qwen3-32B over TP 4 holds four times the blocks of one GPU (814 to 3,258)."""
    base = ("fit", "qwen3-32b", "-e", "vllm", "--pool", "50.9GiB", "-c", "1024", "--json", "--tp")
    one, four = (call(*base, tp).answer["engine_report"]["num_gpu_blocks"] for tp in ("1", "4"))
    assert four / one == pytest.approx(3258 / 814, rel=0.001)


def test_real_sessions_of_a_small_gpu(call: Call) -> None:
    """Tandemn issue 11: 77,088 tokens of Qwen2.5-7B run 70 to 80 sessions of about 1,071 live tokens, not 256."""
    answer = call(
        "sessions", "qwen2.5-7b", "-e", "vllm", "--pool", "4.12GiB", "--input", "1000", "--output", "uniform=40-240",
        "-o", "max_num_seqs=256", "-n", "256", "--json",
    ).answer  # fmt: skip
    assert 66 <= answer["max_sessions"] <= 76
    assert answer["binding_limit"] == "wait"
    assert answer["wait_rate"] > 0.99


def test_ledger_of_four_numbers(call: Call, tmp_path: Path) -> None:
    """vllm pull 21489: gemma-3-4b on a B200; the log's own --kv-cache-memory is pool less graphs less 150 MiB."""
    log = tmp_path / "start.log"
    log.write_text(
        "Free memory on device (177.86/178.36 GiB) on startup. Desired GPU memory utilization is (0.9, 160.53 GiB). "
        "Actual usage is 8.58 GiB for weight, 9.96 GiB for peak activation, 0.07 GiB for non-torch memory, and "
        "0.65 GiB for CUDAGraph memory. Replace gpu_memory_utilization config with `--kv-cache-memory=151519866880`"
    )
    answer = call("fit", "gemma-3-4b", "-e", "vllm@0.10", "--gpu", "b200", "--from-log", str(log), "--json").answer
    assert abs(answer["pool_bytes"] - gib_of(0.65) - 150 * MIB - 151519866880) <= GIB // 50


def test_unified_memory_is_not_guessed(call: Call) -> None:
    """DeepSeek-v4-Flash-One-DGX-Spark issue 4: no ledger is offered here, but ways on."""
    done = call("fit", "deepseek-v4-flash", "-e", "vllm", "--gpu", "dgx-spark", "--weight-dtype", "fp8", "--json")
    assert done.code == 2
    assert "shares its memory" in done.error["message"]
    assert "--from-log" in done.error["fix"]


def test_gate_of_the_readme(call: Call) -> None:
    """`fit --require-sessions` exits by the answer and says by how much."""
    done = call("fit", "llama3", "--gpu", "h100-80gb", "--require-sessions", "64", "-c", "8k")
    assert done.code == 1
    assert "64 sessions required, 55 held: 9 short" in done.out
