"""What each recognised number means, in one sentence a user can act on."""

from __future__ import annotations

#: (engine, fact) -> meaning; engine "" for all.
MEANINGS: dict[tuple[str, str], str] = {
    ("", "pool_bytes"): "memory one GPU gives the KV cache",
    ("vllm", "kv_cache_tokens"): "concurrency x max_model_len: tokens of full-length requests, not a count of slots",
    (
        "vllm-blocks",
        "kv_cache_tokens",
    ): "blocks // groups x block size (vLLM up to 0.19): for a model with several groups "
    "of layers it undercounts by up to the number of groups",
    (
        "vllm",
        "max_concurrency",
    ): "requests of max_model_len the pool admits at once, each at its worst; shorter requests "
    "are admitted in larger number",
    ("vllm", "num_gpu_blocks"): "blocks of the pool; one of them is kept as the null block",
    (
        "vllm",
        "block_size",
    ): "tokens per block; hybrid models raise it until an attention page is as large as a state page",
    ("vllm", "needed_bytes"): "KV memory of one request at max_model_len",
    ("vllm", "available_bytes"): "KV memory of one GPU (from 0.29 on less the null block)",
    ("vllm", "estimated_max_model_len"): "the longest max_model_len that would have started",
    ("vllm", "auto_max_model_len"): "the length vLLM chose itself, because the model's own did not fit",
    ("", "gpu_total_bytes"): "memory the runtime sees on one GPU",
    ("", "gpu_free_bytes"): "memory free at that moment",
    ("vllm", "requested_bytes"): "gpu_memory_utilization x total: all that vLLM may use, weights included",
    ("vllm", "suggested_pool_bytes"): "the same pool as a flag for the next start, 150 MiB lower",
    ("", "weights_bytes"): "weights on one GPU",
    ("vllm", "consumed_bytes"): "weights and what is outside torch (driver, communication), on one GPU",
    ("", "cuda_graph_bytes"): "CUDA graphs on one GPU, captured after the cache was sized",
    ("", "activation_bytes"): "peak of the profiling run; it grows with max_num_batched_tokens",
    ("sglang", "kv_cache_tokens"): "token slots of the pool; sizes in 'GB' are GiB",
    ("sglang", "max_total_num_tokens"): "token slots all requests share",
    ("sglang", "max_running_requests"): "the scheduler's own limit of requests",
    ("sglang", "full_layer_tokens"): "token slots of the full-attention layers",
    ("sglang", "swa_layer_tokens"): "token slots of the sliding layers, a fraction of the full ones",
    ("sglang", "max_mamba_cache_size"): "state slots: each running request needs one, whatever its length",
    ("llama.cpp", "cache_bytes"): "KV cache of all slots together",
    ("llama.cpp", "cells"): "cells (token slots) of all slots together",
    ("llama.cpp", "state_bytes"): "recurrent states, one set per slot, whatever the context",
    ("llama.cpp", "swa_cells"): "cells of the sliding layers: window + n_ubatch, rounded up to 256",
    ("llama.cpp", "n_ctx"): "context of all slots together, not of one",
    ("llama.cpp", "n_ctx_seq"): "context of one slot",
    ("llama.cpp", "compute_bytes"): "scratch memory, beside the cache; it grows with n_ubatch and the context",
    ("tensorrt-llm", "kv_cache_tokens"): "token slots all requests share",
    ("tensorrt-llm", "blocks_per_request"): "blocks a request of the engine's maximum length takes",
}

REFUSALS: dict[str, str] = {
    "not_enough_kv_memory": "one request of the longest length does not fit in the KV memory that is left",
    "no_kv_memory": "weights and activations already take what the engine may use: nothing is left for the cache",
    "gpu_not_free": "other processes hold memory that the engine wants: it refuses before loading",
    "out_of_memory": "an allocation was larger than the memory that was free",
    "no_compute_memory": "the cache fitted, the scratch buffers beside it did not",
}


def meaning(engine: str, fact: str, *, by_blocks: bool) -> str | None:
    """The meaning of a fact; by_blocks: vLLM's token line in the wording of up to 0.19."""
    if engine == "vllm" and by_blocks and ("vllm-blocks", fact) in MEANINGS:
        return MEANINGS["vllm-blocks", fact]
    return MEANINGS.get((engine, fact)) or MEANINGS.get(("", fact))
