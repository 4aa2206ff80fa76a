"""Block sizes and refusals per GPU, and what a request really holds, as measured on vLLM 0.33.0's own code."""

from __future__ import annotations

from typing import Any

import pytest
from test_vllm_planning import load_model

from kvcalc.core.plan import Layout, Load
from kvcalc.engines.base import CacheDtypes, Setup
from kvcalc.engines.vllm import ENGINE
from kvcalc.engines.vllm.planner import VllmPlanner
from kvcalc.errors import EngineRefusal

GIB = 2**30


def start(name: str, gpu: str = "sm90", tp: int = 1, dcp: int = 1, **options: Any) -> VllmPlanner:
    model = load_model(name)
    base = model.dtype
    dtypes = CacheDtypes(key=base, value=base, index=base, pending=base, conv=base, state="float32")
    return ENGINE.prepare(
        model, Setup(version="0.33", layout=Layout(tp=tp, dcp=dcp), dtypes=dtypes, options=options, gpu=gpu)
    )


@pytest.mark.parametrize(
    ("name", "gpu", "dtype", "block"),
    [
        ("llama3.1-8b", "sm80", None, 16),
        ("llama3.1-8b", "sm100", None, 16),
        ("llama3.1-8b", "sm90", "turboquant_4bit_nc", 32),
        ("deepseek-v3", "sm80", None, 16),
        ("deepseek-v3", "sm90", None, 16),
        ("deepseek-v3", "sm90", "fp8", 64),
        ("deepseek-v3", "sm100", None, 32),
        ("deepseek-v3", "sm100", "fp8", 32),
        ("deepseek-v3.2", "sm90", None, 64),
        ("deepseek-v3.2", "sm100", "fp8", 64),
        ("deepseek-v4-flash-default", "sm100", None, 256),
        ("gemma4-text-default", "sm90", "fp8", 64),
        ("qwen3-next-80b", "sm80", None, 544),
        ("qwen3-next-80b", "sm90", None, 576),
    ],
)
def test_block_sizes(name: str, gpu: str, dtype: str | None, block: int) -> None:
    """The GPU's attention backends decide the block size."""
    options: dict[str, Any] = {} if dtype is None else {"kv_cache_dtype": dtype}
    assert start(name, gpu, **options).built.block_tokens == block


@pytest.mark.parametrize(
    ("name", "gpu", "dtype"),
    [
        ("gpt-oss-20b", "sm86", "fp8"),
        ("gpt-oss-20b", "sm90", "nvfp4"),
        ("deepseek-v3", "sm80", "fp8"),
        ("llama3.1-8b", "sm100", "turboquant_4bit_nc"),
        ("deepseek-v3.2", "sm80", "auto"),
    ],
)
def test_refusals(name: str, gpu: str, dtype: str) -> None:
    """No attention backend of that GPU takes the cache: vLLM does not start."""
    with pytest.raises(EngineRefusal):
        start(name, gpu, kv_cache_dtype=dtype)


def test_fp8_on_ampere_needs_flashinfer() -> None:
    """FlashInfer reads 8-bit caches from sm80 on; Triton, what is left without it, from sm89 on.

    https://github.com/mitchross/talos-argocd-proxmox/pull/1995 (fp8_e4m3 on two RTX 3090)
    """
    assert start("llama3.1-8b", "sm86", kv_cache_dtype="fp8").built.block_tokens == 16
    with pytest.raises(EngineRefusal, match=r"8\.9"):
        start("llama3.1-8b", "sm86", kv_cache_dtype="fp8", flashinfer=False)


def test_nvfp4_before_blackwell() -> None:
    """FlashInfer's FA2 kernels read nvfp4 on Hopper: 9 bytes per 16 elements."""
    plain, packed = (start("llama3.1-8b", kv_cache_dtype=name).built.stages[0].pool_bytes for name in ("auto", "nvfp4"))
    assert packed * 32 == plain * 9


def test_blackwell_sparse_fp8_is_plain() -> None:
    """fp8 of sparse MLA: 656 packed bytes per token on Hopper, 576 plain ones on Blackwell, and 132 for the indexer."""
    sizes = [start("deepseek-v3.2", gpu, kv_cache_dtype="fp8").built.stages[0].pool_bytes for gpu in ("sm90", "sm100")]
    assert sizes == [61 * 64 * (656 + 132), 61 * 64 * (576 + 132)]


def test_decode_context_parallel() -> None:
    """DeepSeek-V3 over TP 8 and DCP 8 in 17.9 GiB: 17,094 blocks, 16.693x at 131,072."""
    report = start("deepseek-v3", tp=8, dcp=8).report(Load(131_072), int(17.9 * GIB))
    assert report["num_gpu_blocks"] == 17_094
    assert f"{report['max_concurrency']:.3f}" == "16.693"


@pytest.mark.parametrize(
    ("name", "blocks"),
    [("gemma3-27b-text", 1828), ("gpt-oss-20b", 1447), ("qwen3-next-80b", 43), ("deepseek-v4-flash-default", 114)],
)
def test_blocks_held_while_decoding(name: str, blocks: int) -> None:
    """Blocks that vLLM's KVCacheManager held for one request: 20,000 prompt and 3,000 decoded tokens."""
    assert start(name).report(Load(23_000))["steady_blocks_per_request"] == blocks


def test_one_window_block_more() -> None:
    """A model of windows only reserves 513 blocks at 8,192, one more than full attention would."""
    report = start("mistral-7b-v0.1-swa").report(Load(8192))
    assert report["blocks_per_request"] == 513


def test_dcp_refuses_windows() -> None:
    """Windows are not divided over decode-context ranks."""
    with pytest.raises(EngineRefusal, match="windows"):
        start("gemma3-1b", tp=2, dcp=2)
