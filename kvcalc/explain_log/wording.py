"""The lines that engines print about their cache, old wording and new.

Sources: vLLM 0.6 to 0.33 (worker.py, gpu_worker.py, kv_cache_utils.py), SGLang (model_runner.py,
memory_pool.py), llama.cpp (llama-kv-cache.cpp, llama-memory-recurrent.cpp) and Ollama's runner, TensorRT-LLM
(kvCacheManager.cpp), as quoted in public threads.
"""

from __future__ import annotations

import re

from kvcalc.explain_log.facts import Reader, rule

_NUM = r"[0-9][0-9_,]{0,30}"
_SIZE = r"-?[0-9]{1,9}(?:\.[0-9]{1,6})?"
_TIMES = r"[0-9]{1,9}(?:\.[0-9]{1,6})?"
_UNIT = r"(?:GiB|MiB|KiB|TiB)"

VLLM = Reader(
    engine="vllm",
    words=(
        "LLM engine",
        "version",
        "KV cache memory",
        "KV cache size",
        "KV Cache is",
        "kv cache",
        "concurrency",
        "GPU blocks",
        "total_gpu_memory",
        "torch_memory",
        "memory takes",
        "weights t",
        "loading took",
        "max seq len",
        "maximum model length",
        "desired GPU",
        "max_model_len",
        "block size",
        "num_gpu_blocks",
        "Desired GPU",
        "kv-cache-memory",
        "cache blocks",
    ),
    rules=(
        rule(r"V[01] LLM engine \(v(?P<v>[0-9]{1,4}\.[0-9]{1,4}(?:\.[0-9]{1,6})?)", v=("version", "text")),
        rule(r"LLM engine \(v(?P<v>0\.[0-6](?:\.[0-9]{1,6})?)\)", v=("version", "text")),
        rule(r"vLLM (?:API server )?version:? v?(?P<v>[0-9]{1,4}\.[0-9]{1,4}(?:\.[0-9]{1,6})?)", v=("version", "text")),
        rule(rf"Available KV cache memory: (?P<p>{_SIZE}) GiB", p=("pool_bytes", "bytes")),
        rule(rf"KV cache size: (?P<t>{_NUM}) tokens", t=("kv_cache_tokens", "tokens")),
        rule(
            rf"Maximum concurrency for (?P<l>{_NUM}) tokens per request: (?P<c>{_TIMES})x",
            l=("max_model_len", "tokens"),
            c=("max_concurrency", "sessions"),
        ),
        rule(r"(?<![A-Za-z])GPU blocks: (?P<b>[0-9]{1,18})", b=("num_gpu_blocks", "blocks")),
        rule(
            rf"total_gpu_memory=(?P<t>{_SIZE})GiB.{{0,200}}?kv_cache_size=(?P<p>{_SIZE})GiB"
            rf".{{0,40}}?gpu_memory_utilization=(?P<u>{_TIMES})",
            t=("gpu_total_bytes", "bytes"),
            p=("pool_bytes", "bytes"),
            u=("gpu_memory_utilization", "fraction"),
        ),
        rule(rf"peak_torch_memory=(?P<a>{_SIZE})GiB", a=("peak_torch_bytes", "bytes")),
        rule(rf"non_torch_memory(?:=| takes )(?P<n>{_SIZE})GiB", n=("non_torch_bytes", "bytes")),
        rule(
            rf"total_gpu_memory \((?P<t>{_SIZE})GiB\) x gpu_memory_utilization \((?P<u>{_TIMES})\) = (?P<r>{_SIZE})GiB",
            t=("gpu_total_bytes", "bytes"),
            u=("gpu_memory_utilization", "fraction"),
            r=("requested_bytes", "bytes"),
        ),
        rule(rf"model weights take (?P<w>{_SIZE})GiB", w=("weights_bytes", "bytes")),
        rule(rf"activation peak memory takes (?P<a>{_SIZE})GiB", a=("activation_bytes", "bytes")),
        rule(rf"reserved for KV Cache is (?P<p>{_SIZE})GiB", p=("pool_bytes", "bytes")),
        rule(
            rf"(?:Loading model weights took|Model loading took) (?P<w>{_SIZE}) (?:GB|GiB)",
            w=("weights_bytes", "bytes"),
        ),
        rule(
            rf"max seq len \((?P<l>{_NUM})\), \(?(?P<n>{_SIZE}) GiB KV cache is needed.{{0,60}}?"
            rf"available KV cache memory \((?P<a>{_SIZE}) GiB\)",
            l=("max_model_len", "tokens"),
            n=("needed_bytes", "bytes"),
            a=("available_bytes", "bytes"),
        ),
        rule(rf"estimated maximum model length is (?P<e>{_NUM})", e=("estimated_max_model_len", "tokens")),
        rule(
            rf"max seq len \((?P<l>{_NUM})\) is larger than the maximum number of tokens that can be stored in KV "
            rf"cache \((?P<t>{_NUM})\)",
            l=("max_model_len", "tokens"),
            t=("kv_cache_tokens", "tokens"),
        ),
        rule(
            rf"[Ff]ree memory on device(?: \S{{1,20}})? \((?P<f>{_SIZE})/(?P<t>{_SIZE}) GiB\) on startup is less than "
            rf"desired GPU memory utilization \((?P<u>{_TIMES}), (?P<r>{_SIZE}) GiB\)",
            f=("gpu_free_bytes", "bytes"),
            t=("gpu_total_bytes", "bytes"),
            u=("gpu_memory_utilization", "fraction"),
            r=("requested_bytes", "bytes"),
        ),
        rule(
            rf"Auto-fit max_model_len: reduced from (?P<l>{_NUM}) to (?P<e>{_NUM}) to fit in"
            rf".{{0,60}}?\((?P<a>{_SIZE}) GiB",
            l=("asked_max_model_len", "tokens"),
            e=("auto_max_model_len", "tokens"),
            a=("available_bytes", "bytes"),
        ),
        rule(rf"[Ss]etting attention block size to (?P<b>{_NUM}) tokens", b=("block_size", "tokens")),
        rule(rf"Setting kv cache block size to (?P<b>{_NUM})", b=("block_size", "tokens")),
        rule(r"num_gpu_blocks_override=(?P<b>[0-9]{1,18})", b=("num_gpu_blocks", "blocks")),
        rule(
            rf"Desired GPU memory utilization is \((?P<u>{_TIMES}), (?P<r>{_SIZE}) GiB\).{{0,40}}?(?P<w>{_SIZE}) GiB "
            rf"for weight, (?P<a>{_SIZE}) GiB for peak activation, (?P<n>{_SIZE}) GiB for non-torch memory, and "
            rf"(?P<g>{_SIZE}) GiB for CUDAGraph",
            u=("gpu_memory_utilization", "fraction"),
            r=("requested_bytes", "bytes"),
            w=("weights_bytes", "bytes"),
            a=("activation_bytes", "bytes"),
            n=("non_torch_bytes", "bytes"),
            g=("cuda_graph_bytes", "bytes"),
        ),
        rule(
            rf"Desired GPU memory utilization is \((?P<u>{_TIMES}), (?P<r>{_SIZE}) GiB\).{{0,40}}?(?P<w>{_SIZE}) GiB "
            rf"for consumed memory \(weights \+ non-torch\), (?P<a>{_SIZE}) GiB for peak activation, and "
            rf"(?P<g>{_SIZE}) GiB for CUDAGraph",
            u=("gpu_memory_utilization", "fraction"),
            r=("requested_bytes", "bytes"),
            w=("consumed_bytes", "bytes"),
            a=("activation_bytes", "bytes"),
            g=("cuda_graph_bytes", "bytes"),
        ),
        rule(r"--kv-cache-memory(?:-bytes)?=(?P<s>[0-9]{4,15})", size_unit="b", s=("suggested_pool_bytes", "bytes")),
    ),
    refusals=(
        (re.compile(r"KV cache is needed, which is larger"), "not_enough_kv_memory"),
        (
            re.compile(r"larger than the maximum number of tokens that can be stored in KV cache"),
            "not_enough_kv_memory",
        ),
        (re.compile(r"No available memory for the cache blocks"), "no_kv_memory"),
        (re.compile(r"less than desired GPU memory utilization"), "gpu_not_free"),
    ),
)


SGLANG = Reader(
    engine="sglang",
    words=(
        "allocated",
        "max_total_num_tokens",
        "max_running_requests",
        "context_len",
        "available_gpu_mem",
        "layer_tokens",
        "mem usage",
        "fraction",
        "sglang",
        "Not enough memory",
    ),
    rules=(
        rule(
            rf"KV Cache is allocated\..{{0,60}}?#tokens: (?P<t>{_NUM}), K size: (?P<k>{_SIZE}) GB, "
            rf"V size: (?P<v>{_SIZE}) GB",
            t=("kv_cache_tokens", "tokens"),
            k=("key_bytes", "bytes"),
            v=("value_bytes", "bytes"),
        ),
        rule(
            rf"KV Cache is allocated\..{{0,60}}?#tokens: (?P<t>{_NUM}), KV size: (?P<p>{_SIZE}) GB",
            t=("kv_cache_tokens", "tokens"),
            p=("pool_bytes", "bytes"),
        ),
        rule(rf"max_total_num_tokens=(?P<t>{_NUM})", t=("max_total_num_tokens", "tokens")),
        rule(rf"max_running_requests=(?P<r>{_NUM})", r=("max_running_requests", "count")),
        rule(rf"context_len=(?P<c>{_NUM})", c=("max_model_len", "tokens")),
        rule(rf"available_gpu_mem=(?P<a>{_SIZE}) GB", a=("gpu_free_bytes", "bytes")),
        rule(
            rf"full_layer_tokens=(?P<f>{_NUM}), swa_layer_tokens=(?P<s>{_NUM})",
            f=("full_layer_tokens", "tokens"),
            s=("swa_layer_tokens", "tokens"),
        ),
        rule(
            rf"Mamba Cache is allocated\. max_mamba_cache_size: (?P<m>{_NUM}), conv_state size: (?P<c>{_SIZE})GB,? "
            rf"ssm_state size: (?P<s>{_SIZE})GB",
            m=("max_mamba_cache_size", "count"),
            c=("conv_state_bytes", "bytes"),
            s=("ssm_state_bytes", "bytes"),
        ),
        rule(rf"Load weight end\..{{0,200}}?mem usage=(?P<w>{_SIZE}) GB", w=("weights_bytes", "bytes")),
        rule(rf"graph end\..{{0,80}}?mem usage=(?P<g>{_SIZE}) GB", g=("cuda_graph_bytes", "bytes")),
        rule(r"mem[-_]fraction[-_]static[= ](?P<f>0\.[0-9]+)", f=("mem_fraction_static", "fraction")),
        rule(r"sglang[=-]+v?(?P<v>[0-9]{1,4}\.[0-9]{1,4}\.[0-9]{1,6})", v=("version", "text")),
    ),
    refusals=((re.compile(r"Not enough memory\. Please try to increase --mem-fraction-static"), "no_kv_memory"),),
    ranks=True,
)

LLAMACPP = Reader(
    engine="llama.cpp",
    words=(
        "KV buffer",
        "KV cache buffer",
        "KV self",
        "SWA KV",
        "buffer for kv",
        "kv_",
        "llama_memory",
        "cells",
        "n_ctx",
        "n_seq_max",
        "n_ubatch",
        "llama-",
        "--ctx-size",
        "--parallel",
        "buffer",
        "allocating",
        "K (",
        "V (",
        "out of memory",
    ),
    rules=(
        rule(
            rf"llama_kv_cache\w*: size = +(?P<p>{_SIZE}) MiB \( *(?P<c>{_NUM}) cells, "
            rf" *(?P<l>[0-9]{{1,18}}) layers, +(?P<s>[0-9]{{1,9}})(?:/(?P<n>[0-9]{{1,9}}))?",
            size_unit="mib",
            p=("cache_bytes", "bytes"),
            c=("cells", "tokens"),
            l=("cache_layers", "count"),
            s=("n_seq_max", "count"),
            n=("n_stream", "count"),
        ),
        rule(
            rf"llama_memory_recurrent: size = +(?P<p>{_SIZE}) MiB \( *(?P<c>[0-9]{{1,18}}) cells,"
            rf" +(?P<l>[0-9]{{1,18}}) layers",
            size_unit="mib",
            p=("state_bytes", "bytes"),
            c=("state_cells", "count"),
            l=("state_layers", "count"),
        ),
        rule(rf"KV self size += +(?P<p>{_SIZE}) MiB", size_unit="mib", p=("cache_bytes", "bytes")),
        rule(
            rf"KV buffer size = +(?P<p>{_SIZE}) MiB",
            size_unit="mib",
            p=("buffer_bytes", "bytes"),
        ),
        rule(rf"KV cache buffer size = +(?P<p>{_SIZE}) MiB", size_unit="mib", p=("buffer_bytes", "bytes")),
        rule(
            r"kv_size = (?P<c>[0-9]{1,18}), offload = [01], type_k = '(?P<k>\w+)', type_v = '(?P<v>\w+)', "
            r"n_layer = (?P<l>[0-9]{1,18})",
            c=("cells", "tokens"),
            k=("type_k", "text"),
            v=("type_v", "text"),
            l=("cache_layers", "count"),
        ),
        rule(r"creating non-SWA KV cache, size = (?P<c>[0-9]{1,18}) cells", c=("full_cells", "tokens")),
        rule(r"creating +SWA KV cache, size = (?P<c>[0-9]{1,18}) cells", c=("swa_cells", "tokens")),
        rule(r"\bK \((?P<k>\w+)\):", k=("type_k", "text")),
        rule(r"\bV \((?P<v>\w+)\):", v=("type_v", "text")),
        rule(r"\bn_ctx +(?:=|:) +(?P<n>[0-9]{1,18})\b", n=("n_ctx", "tokens")),
        rule(r"\bn_ctx_(?:per_)?seq +(?:=|:) +(?P<n>[0-9]{1,18})\b", n=("n_ctx_seq", "tokens")),
        rule(r"\bn_seq_max +(?:=|:) +(?P<n>[0-9]{1,18})\b", n=("n_seq_max", "count")),
        rule(r"\bn_ubatch +(?:=|:) +(?P<n>[0-9]{1,18})\b", n=("n_ubatch", "tokens")),
        rule(r"llama-.{1,400}? -c (?P<n>[0-9]{1,18})\b", n=("n_ctx", "tokens")),
        rule(r"llama-.{1,400}? -np (?P<n>[0-9]{1,18})\b", n=("n_seq_max", "count")),
        rule(r"--ctx-size (?P<n>[0-9]{1,18})", n=("n_ctx", "tokens")),
        rule(r"--parallel (?P<n>[0-9]{1,18})", n=("n_seq_max", "count")),
        rule(rf"compute buffer size = +(?P<p>{_SIZE}) MiB", size_unit="mib", p=("compute_bytes", "bytes")),
        rule(
            r"failed to allocate (?:\w+ )?buffer of size (?P<p>[0-9]{1,18})", size_unit="b", p=("needed_bytes", "bytes")
        ),
        rule(rf"allocating (?P<p>{_SIZE}) MiB on device", size_unit="mib", p=("needed_bytes", "bytes")),
    ),
    refusals=(
        (re.compile(r"failed to allocate buffer for kv cache"), "not_enough_kv_memory"),
        (re.compile(r"failed to allocate compute (?:pp )?buffers"), "no_compute_memory"),
        (re.compile(r"cudaMalloc failed: out of memory"), "out_of_memory"),
    ),
)

TENSORRT = Reader(
    engine="tensorrt-llm",
    words=(
        "k/v cache",
        "paged KV cache",
        "kv cache",
        "tokens per block",
        "blocks",
        "maxSequenceLen",
        "maxBatchSize",
        "available:",
        "maxTokensInPagedKvCache",
    ),
    rules=(
        rule(r"Allocate (?P<p>[0-9]{1,18}) bytes for k/v cache", size_unit="b", p=("pool_bytes", "bytes")),
        rule(rf"Using (?P<t>{_NUM}) tokens in paged KV cache", t=("kv_cache_tokens", "tokens")),
        rule(
            rf"Allocated (?P<p>{_SIZE}) (?P<p_unit>{_UNIT}) for max tokens in paged KV cache \((?P<t>{_NUM})\)",
            p=("pool_bytes", "bytes"),
            t=("kv_cache_tokens", "tokens"),
        ),
        rule(r"tokens per block=(?P<b>[0-9]{1,18})", b=("block_size", "tokens")),
        rule(r"Number of tokens per block: (?P<b>[0-9]{1,18})", b=("block_size", "tokens")),
        rule(r"primary blocks=(?P<n>[0-9]{1,18})", n=("num_gpu_blocks", "blocks")),
        rule(r"Number of blocks in KV cache primary pool: (?P<n>[0-9]{1,18})", n=("num_gpu_blocks", "blocks")),
        rule(r"Max KV cache (?:blocks|pages) per sequence: (?P<n>[0-9]{1,18})", n=("blocks_per_request", "blocks")),
        rule(r"maxSequenceLen: (?P<n>[0-9]{1,18})", n=("max_model_len", "tokens")),
        rule(r"maxBatchSize: (?P<n>[0-9]{1,18})", n=("max_batch_size", "count")),
        rule(
            rf"total: (?P<t>{_SIZE}) (?P<t_unit>{_UNIT}), available: (?P<a>{_SIZE}) (?P<a_unit>{_UNIT})",
            t=("gpu_total_bytes", "bytes"),
            a=("gpu_free_bytes", "bytes"),
        ),
    ),
    refusals=((re.compile(r"maxTokensInPagedKvCache.{0,80}must be (?:large enough|greater)"), "not_enough_kv_memory"),),
)

READERS = (VLLM, SGLANG, TENSORRT, LLAMACPP)
