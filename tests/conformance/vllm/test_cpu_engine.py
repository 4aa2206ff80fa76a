"""vLLM's real CPU engine, started with small dummy-weight models of each cache family: same blocks and tokens.

Minutes, not seconds: run by scripts/vllm-conformance, never in the plain suite. The CPU's own choices (block
size, float32 states) are taken from the engine; what follows from them is compared.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kvcalc.core.plan import Load
from kvcalc.document import model_from_document
from kvcalc.engines.base import CacheDtypes, Setup
from kvcalc.engines.vllm import ENGINE
from kvcalc.engines.vllm.versions import RULES
from kvcalc.importers.hf import import_config

vllm = pytest.importorskip("vllm")

POOL_GIB = 1
LENGTH = 4096
BASE = {
    "vocab_size": 512, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 8192, "torch_dtype": "bfloat16",
    "rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip

MODELS: dict[str, dict[str, Any]] = {
    "llama": {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **BASE},
    "gemma3": {
        "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", **BASE, "num_hidden_layers": 7,
        "sliding_window": 256, "query_pre_attn_scalar": 64, "hidden_activation": "gelu_pytorch_tanh",
        "layer_types": ["sliding_attention"] * 5 + ["full_attention", "sliding_attention"],
    },
    "mistral": {"architectures": ["MistralForCausalLM"], "model_type": "mistral", **BASE, "sliding_window": 512},
    "deepseek": {
        "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", **BASE, "num_key_value_heads": 4,
        "kv_lora_rank": 512, "q_lora_rank": None, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128,
        "n_routed_experts": 4, "first_k_dense_replace": 3, "moe_intermediate_size": 128, "n_shared_experts": 1,
        "num_experts_per_tok": 2, "head_dim": 64, "qk_head_dim": 192, "n_group": 1, "topk_group": 1,
        "topk_method": "greedy", "routed_scaling_factor": 1.0,
    },
    "mamba2": {
        "architectures": ["Mamba2ForCausalLM"], "model_type": "mamba2", "num_heads": 8, "head_dim": 64,
        "vocab_size": 512, "hidden_size": 256, "state_size": 32, "num_hidden_layers": 4, "conv_kernel": 4,
        "n_groups": 2, "expand": 2, "chunk_size": 64, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2,
        "pad_token_id": 0, "tie_word_embeddings": True,
    },
    "falcon-h1": {
        "architectures": ["FalconH1ForCausalLM"], "model_type": "falcon_h1", **BASE, "mamba_d_conv": 4,
        "mamba_d_head": 64, "mamba_d_ssm": 512, "mamba_d_state": 32, "mamba_expand": 2, "mamba_n_groups": 1,
        "mamba_n_heads": 8, "mamba_chunk_size": 64, "attn_layer_indices": None, "mlp_multipliers": [1.0, 1.0],
        "ssm_multipliers": [1.0, 1.0, 1.0, 1.0, 1.0],
    },
    "lfm2": {
        "architectures": ["Lfm2ForCausalLM"], "model_type": "lfm2", **BASE, "conv_L_cache": 3, "conv_bias": False,
        "norm_eps": 1e-6, "block_dim": 256, "conv_dim": 256, "block_ff_dim": 512, "block_auto_adjust_ff_dim": False,
        "layer_types": ["conv", "full_attention", "conv", "full_attention"],
    },
    "qwen3-next": {
        "architectures": ["Qwen3NextForCausalLM"], "model_type": "qwen3_next", **BASE, "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 64, "linear_value_head_dim": 64, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
        "num_experts": 4, "mlp_only_layers": [], "decoder_sparse_step": 1, "partial_rotary_factor": 0.25,
        "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
        "moe_intermediate_size": 128, "shared_expert_intermediate_size": 128, "num_experts_per_tok": 2,
    },
}  # fmt: skip


def started(config: dict[str, Any], directory: Path) -> dict[str, Any]:
    """What the real engine decided for `config`."""
    (directory / "config.json").write_text(json.dumps(config))
    environment = os.environ | {
        "VLLM_CPU_KVCACHE_SPACE": str(POOL_GIB),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "OMP_NUM_THREADS": "1",
    }
    probe = Path(__file__).with_name("engine_probe.py")
    run = subprocess.run(
        [sys.executable, str(probe), str(directory), str(LENGTH)],
        capture_output=True, text=True, env=environment, timeout=600, check=False,
    )  # fmt: skip
    lines = [line for line in run.stdout.splitlines() if line.startswith("PROBE ")]
    if not lines:
        pytest.fail(f"the engine did not start:\n{run.stderr[-3000:]}")
    return dict(json.loads(lines[-1].removeprefix("PROBE ")))


@pytest.mark.parametrize("name", MODELS)
def test_the_real_engine_reports_the_same(name: str, tmp_path: Path) -> None:
    """num_gpu_blocks, tokens and concurrency of the running engine."""
    real = started(MODELS[name], tmp_path)
    model = model_from_document(import_config(MODELS[name], name=name).document)
    version = next(line for line in RULES if vllm.__version__.startswith(line + "."))
    options: dict[str, Any] = {
        "block_size": real["block_size"],
        "max_num_batched_tokens": 512,
        "enable_prefix_caching": real["enable_prefix_caching"],
        "async_scheduling": bool(real["async_scheduling"]),
    }
    if real["mamba_ssm_cache_dtype"] != "auto":
        options["mamba_ssm_cache_dtype"] = real["mamba_ssm_cache_dtype"]
    base = model.dtype
    dtypes = CacheDtypes(key=base, value=base, index=base, pending=base, conv=base, state="float32")
    planner = ENGINE.prepare(model, Setup(version=version, dtypes=dtypes, options=options, gpu="sm89"))
    report = planner.report(Load(LENGTH), POOL_GIB * 2**30)
    names = ("num_gpu_blocks", "block_size", "kv_cache_tokens", "max_concurrency")
    assert {key: report[key] for key in names} == {key: real[key] for key in names}
