"""Start vLLM's CPU engine with dummy weights from a config directory and print what it decided, as one JSON line.

Run by test_cpu_engine.py in a process of its own: `python engine_probe.py DIR MAX_MODEL_LEN`.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def main(directory: str, length: int) -> dict[str, Any]:
    from vllm import LLM

    llm = LLM(
        model=directory,
        load_format="dummy",
        skip_tokenizer_init=True,
        max_model_len=length,
        max_num_batched_tokens=512,
        max_num_seqs=4,
        enforce_eager=True,
        dtype="bfloat16",
    )
    config = llm.llm_engine.vllm_config
    cache = config.cache_config
    return {
        "num_gpu_blocks": cache.num_gpu_blocks,
        "block_size": cache.block_size,
        "kv_cache_tokens": cache.kv_cache_size_tokens,
        "max_concurrency": cache.kv_cache_max_concurrency,
        "max_model_len": config.model_config.max_model_len,
        "enable_prefix_caching": cache.enable_prefix_caching,
        "mamba_ssm_cache_dtype": cache.mamba_ssm_cache_dtype,
        "async_scheduling": config.scheduler_config.async_scheduling,
    }


if __name__ == "__main__":
    sys.stdout.write("PROBE " + json.dumps(main(sys.argv[1], int(sys.argv[2]))) + "\n")
