"""Numbers that vLLM printed in public threads. Logs round GiB to two decimals: any pool that prints alike will do.

Not determined by its thread, so not tested: S25 (https://github.com/vllm-project/vllm/issues/26646: the block size
is not quoted; 672 with 536 blocks fits both printed numbers, see below), S37's absolute numbers (two different
pools), S38 is another engine (transformers), here only its cause.
"""

from __future__ import annotations

from typing import Any

import pytest

from kvcalc.core.capacity import max_sessions
from kvcalc.core.plan import Layout, Load
from kvcalc.document import model_from_document
from kvcalc.engines.base import CacheDtypes, Setup
from kvcalc.engines.vllm import ENGINE
from kvcalc.engines.vllm.memory import SUGGESTION_BUFFER, available_bytes, requested_bytes
from kvcalc.engines.vllm.planner import VllmPlanner

GIB = 2**30


def planner(
    attention: dict[str, Any],
    layers: int,
    version: str = "0.19",
    *,
    tp: int = 1,
    pp: int = 1,
    dp: int = 1,
    **options: Any,
) -> VllmPlanner:
    """A planner of a model written down here; `document` keys other than attention go through options["doc"]."""
    extra = options.pop("doc", {})
    doc = {"name": "quoted", "layers": layers, "dtype": "bfloat16", "attention": attention, **extra}
    model = model_from_document(doc)
    types = options.pop("types", "bfloat16")
    dtypes = CacheDtypes(key=types, value=types, index="bfloat16", pending="bfloat16", conv="bfloat16", state="float32")
    layout = Layout(tp=tp, pp=pp, dp=dp)
    options = {"max_num_batched_tokens": 8192, **options}
    return ENGINE.prepare(model, Setup(version=version, layout=layout, dtypes=dtypes, options=options, gpu="sm90"))


def gqa(groups: int, head_dim: int, heads: int = 0, **more: Any) -> dict[str, Any]:
    return {"kind": "gqa", "heads": heads or 4 * groups, "groups": groups, "head_dim": head_dim, **more}


def pools(printed: str) -> tuple[int, int]:
    """Smallest and largest pool that the log prints as so many GiB."""
    return int((float(printed) - 0.005) * GIB) + 1, int((float(printed) + 0.005) * GIB)


def reports(plan: VllmPlanner, length: int, printed: str) -> list[dict[str, Any]]:
    """The report at both ends of the pools that print alike."""
    return [plan.report(Load(length), size) for size in pools(printed)]


def between(found: list[dict[str, Any]], key: str, quoted: float) -> bool:
    """Whether some pool that prints alike yields the quoted number (numbers only grow with the pool)."""
    return bool(found[0][key] <= quoted <= found[1][key])


def estimate_is_met(plan: VllmPlanner, length: int, printed: str, quoted: int) -> bool:
    """Whether some pool that prints alike is refused with exactly the quoted estimate."""
    low, high = pools(printed)
    while low < high:
        middle = (low + high) // 2
        if estimate(plan, length, middle) >= quoted:
            high = middle
        else:
            low = middle + 1
    return estimate(plan, length, low) == quoted


def estimate(plan: VllmPlanner, length: int, pool: int) -> int:
    report: Any = plan.report(Load(length), pool)
    return int(report["refusal"]["estimated_max_model_len"])


def needed_gib(plan: VllmPlanner, length: int) -> float:
    report: Any = plan.report(Load(length), 1)
    return float(round(report["refusal"]["needed_bytes"] / GIB, 2))


MISTRAL_SMALL_4 = {"kind": "mla", "heads": 32, "latent_dim": 256, "rope_dim": 64}
GPT_OSS = {"full": gqa(8, 64), "local": gqa(8, 64, window=128)}
LLAMA_4 = {"local": gqa(8, 128, 40, chunk=8192), "full": gqa(8, 128, 40)}
QWEN_35_27B = {
    "attn": gqa(4, 256, 24),
    "delta": {
        "kind": "gated_deltanet", "key_heads": 16, "value_heads": 48, "key_dim": 128, "value_dim": 128,
        "conv_kernel": 4,
    },
}  # fmt: skip


def test_s01_mla_is_not_divided_by_tp() -> None:
    """22.5 GiB needed and an estimate of 810,208 tokens in 17.39 GiB, with TP 2.

    https://github.com/kaito-project/kaito/issues/2132
    """
    plan = planner(MISTRAL_SMALL_4, 36, tp=2)
    assert needed_gib(plan, 1_048_576) == 22.5
    assert estimate_is_met(plan, 1_048_576, "17.39", 810_208)


def test_s03_windows_reserve_the_batch() -> None:
    """4.54 GiB for gpt-oss-120b at 131,072 with 1,024 batched tokens: neither 9.00 (all full) nor 4.504 (window).

    https://github.com/vllm-project/vllm/issues/27508
    """
    doc = {"pattern": ["local", "full"]}
    plan = planner(GPT_OSS, 36, version="0.11", max_num_batched_tokens=1024, doc=doc)
    assert needed_gib(plan, 131_072) == 4.54


def test_s04_the_tokens_line_of_old_versions() -> None:
    """78,384 tokens printed for gpt-oss-120b in 5.38 GiB, though two groups share the pool.

    https://github.com/alvarobartt/hf-mem/issues/60
    """
    plan = planner(GPT_OSS, 36, version="0.11", max_num_batched_tokens=2048, doc={"pattern": ["local", "full"]})
    assert between(reports(plan, 131_072, "5.38"), "kv_cache_tokens", 78_384)


def test_s09_plain_attention() -> None:
    """42,656 tokens and 1.30x at 32,768 for Qwen3-14B in 6.51 GiB.

    https://github.com/LMCache/LMCache/issues/1739
    """
    found = reports(planner(gqa(8, 128, 40), 40, version="0.10"), 32_768, "6.51")
    assert between(found, "kv_cache_tokens", 42_656)
    assert {f"{report['max_concurrency']:.2f}" for report in found} == {"1.30"}


def test_s22_fp8() -> None:
    """230,528 tokens, 2.31x at 100,000 in 10.55 GiB; 10.12 GiB needed at 221,000, estimate 122,080 in 5.59 GiB.

    https://github.com/vllm-project/vllm/issues/25350
    """
    plan = planner(gqa(4, 128, 32), 48, version="0.10", types="fp8_e4m3")
    found = reports(plan, 100_000, "10.55")
    assert between(found, "kv_cache_tokens", 230_528)
    assert "2.31" in {f"{report['max_concurrency']:.2f}" for report in found}
    assert needed_gib(plan, 221_000) == 10.12
    assert estimate_is_met(plan, 221_000, "5.59", 122_080)


def test_s23_the_fullest_stage_decides() -> None:
    """Auto-fit of Llama-4-Scout from 10,485,760 to 324,640 in 29.72 GiB, two stages, hybrid manager off.

    https://github.com/vllm-project/vllm/pull/29431
    """
    doc = {"pattern": ["local", "local", "local", "full"]}
    plan = planner(LLAMA_4, 48, version="0.14", pp=2, disable_hybrid_kv_cache_manager=True, doc=doc)
    low, high = reports(plan, 10_485_760, "29.72")
    assert low["auto_max_model_len"] <= 324_640 <= high["auto_max_model_len"]
    assert low["auto_max_model_len"] % 16 == 0


def test_s24_both_numbers_from_one_integer() -> None:
    """1,487 blocks of 784 tokens: 290,864 tokens printed, and 33.04x at 32,768.

    https://github.com/vllm-project/vllm/issues/40691
    """
    doc = {"pattern": ["delta", "delta", "delta", "attn"], "architecture": "qwen3_5_text", "state_dtype": "float32"}
    plan = planner(QWEN_35_27B, 64, version="0.19", num_gpu_blocks_override=1487, doc=doc)
    report = plan.report(Load(32_768))
    assert report["block_size"] == 784
    assert report["num_gpu_blocks"] == 1487
    assert report["kv_cache_tokens"] == 290_864
    assert f"{report['max_concurrency']:.2f}" == "33.04"
    groups: Any = report["groups"]
    assert sorted(group["blocks_per_request"] for group in groups) == [1, 1, 1, 42]


def test_s25_with_the_block_size_that_fits_both() -> None:
    """With blocks of 672 tokens, 536 of them give 90,048 tokens and 1.66x at 215,040, as printed.

    https://github.com/vllm-project/vllm/issues/26646 (the block size itself is not in the thread)
    """
    delta = QWEN_35_27B["delta"] | {"value_heads": 32}
    doc = {"pattern": ["delta", "delta", "delta", "attn"], "architecture": "qwen3_next"}
    plan = planner(
        {"attn": gqa(2, 256, 16), "delta": delta},
        48,
        version="0.11",
        block_size=672,
        num_gpu_blocks_override=536,
        doc=doc,
    )
    report = plan.report(Load(215_040))
    assert report["kv_cache_tokens"] == 90_048
    assert f"{report['max_concurrency']:.2f}" == "1.66"


def test_s28_and_its_inverse() -> None:
    """175,856 tokens of Qwen3-1.7B in 18.78 GiB; one session of 1,024 tokens needs 112 MiB and the null block.

    https://github.com/vllm-project/vllm/issues/33263
    """
    plan = planner(gqa(8, 128, 16), 28, version="0.14")
    assert between(reports(plan, 1024, "18.78"), "kv_cache_tokens", 175_856)
    null_block = 28 * 16 * 4096
    assert plan.plan(Load(1024)).max_rank_bytes == 112 * 2**20 + null_block


def test_s29_long_blocks_round_the_estimate() -> None:
    """16.00 GiB needed and an estimate of 5,632 in 0.71 GiB with blocks of 512 tokens.

    https://github.com/vllm-project/tpu-inference/pull/223
    """
    plan = planner(gqa(8, 128, 32), 32, version="0.10", block_size=512)
    assert needed_gib(plan, 131_072) == 16.0
    assert estimate_is_met(plan, 131_072, "0.71", 5632)


def test_s30_blocks_to_concurrency() -> None:
    """1,381 blocks are 10.79x at 2,048.

    https://github.com/vllm-project/vllm/pull/12569
    """
    plan = planner(gqa(8, 128, 64), 80, version="0.9", num_gpu_blocks_override=1381)
    assert f"{plan.report(Load(2048))['max_concurrency']:.2f}" == "10.79"


def test_s37_data_parallel_pools_add_up() -> None:
    """A replicated latent: eight data-parallel pools hold eight times the sessions of one TP-8 pool.

    https://github.com/vllm-project/recipes/issues/762 (7.7x printed, because DP repeats the dense weights)
    """
    latent = {"kind": "mla", "heads": 64, "latent_dim": 512, "rope_dim": 64}
    pool = 64 * GIB
    tensor, data = planner(latent, 43, tp=8), planner(latent, 43, dp=8)
    one = max_sessions(tensor, pool, context_tokens=1_048_576)
    eight = max_sessions(data, pool, context_tokens=1_048_576)
    assert one is not None
    assert eight == 8 * one


def test_s38_heads_are_divided() -> None:
    """With TP 4 a rank's block is a quarter, so the same pool holds four times the blocks (814 -> 3,258).

    https://github.com/huggingface/transformers/pull/48566
    """
    whole, quarter = (planner(gqa(8, 128, 64), 64, tp=tp).built.stages[0].pool_bytes for tp in (1, 4))
    assert whole == 4 * quarter
    assert (814 * whole + whole - 1) // quarter in range(3256, 3261)


def test_s41_the_ledger_closes() -> None:
    """178.36 GiB x 0.9 less what the profile names, less the 150 MiB kept back, is the suggested 141.11 GiB.

    https://github.com/vllm-project/vllm/pull/21489 (--kv-cache-memory=151519866880)
    """
    requested = requested_bytes(int(178.36 * GIB), 0.9)
    assert abs(requested / GIB - 160.53) < 0.01
    parts = {"weights": 8.58, "activation_peak": 9.96, "non_torch": 0.07, "cuda_graphs": 0.65}
    sizes = {name: int(size * GIB) for name, size in parts.items()}
    suggested = available_bytes(requested=requested, **sizes) - SUGGESTION_BUFFER
    # Five numbers rounded to 0.01 GiB each.
    assert abs(suggested - 151_519_866_880) <= 5 * 0.005 * GIB


def test_qwen_3_8_27b_with_two_gpus_and_fp8() -> None:
    """208 blocks of 1,568 tokens in 4.99 GiB are 302,921 tokens and 2.31x at 131,072; two state blocks per group.

    https://github.com/mitchross/talos-argocd-proxmox/pull/1995
    """
    doc = {"pattern": ["delta", "delta", "delta", "attn"], "architecture": "qwen3_5_text", "state_dtype": "float32"}
    plan = planner(QWEN_35_27B, 64, version="0.28", tp=2, types="fp8_e4m3", doc=doc)
    for report in reports(plan, 131_072, "4.99"):
        assert report["block_size"] == 1568
        assert report["num_gpu_blocks"] == 208
        assert report["kv_cache_tokens"] == 302_921
        assert f"{report['max_concurrency']:.2f}" == "2.31"


@pytest.mark.parametrize(
    ("batched", "async_scheduling", "printed"),
    [(8192, True, "3.34"), (2048, True, "4.86"), (16384, True, "2.36"), (8192, False, "4.22")],
)
def test_gemma_3_27b_concurrency_depends_on_the_batch(batched: int, async_scheduling: bool, printed: str) -> None:
    """60 GiB at 131,072: the concurrency line falls with max_num_batched_tokens and async scheduling (0.33)."""
    attention = {"local": gqa(16, 128, 32, window=1024), "full": gqa(16, 128, 32)}
    doc = {"pattern": ["local*5", "full"]}
    plan = planner(
        attention, 62, version="0.33", max_num_batched_tokens=batched, async_scheduling=async_scheduling, doc=doc
    )
    assert f"{plan.report(Load(131_072), 60 * GIB)['max_concurrency']:.2f}" == printed
