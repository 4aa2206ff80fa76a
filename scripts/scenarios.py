"""The table of posted logs on docs/faq.md: what an engine or a tool printed, and what a kvcalc command answers now.

Each row is a public thread. The number is not stored: the command runs, and `shows` picks from its JSON. Where a
model is not shipped or the log leaves something open, the row says so instead of a number.
"""

from __future__ import annotations

import contextlib
import io
import json
import shlex
from typing import Any, NamedTuple

_GITHUB = "https://github.com/"


class Row(NamedTuple):
    """shows: parts joined by "; ", each `path:format` into the JSON of `command`; open_: why there is no number."""

    where: str
    printed: str
    command: str = ""
    shows: tuple[str, ...] = ()
    open_: str = ""


VLLM = (
    Row(
        "kaito-project/kaito/issues/2132",
        "Mistral-Small-4, 2 GPUs: 22.5 GiB needed on each",
        "size mistral-small-4-119b -c 1m --tp 2",
        ("ranks.0.bytes:GiB",),
    ),
    Row(
        "kaito-project/kaito/issues/2132",
        "the same in 17.39 GiB: at most 810,208 tokens",
        "fit mistral-small-4-119b -c 1m --tp 2 -e vllm@0.18 --pool 17.39GiB",
        ("engine_report.auto_max_model_len:int",),
    ),
    Row(
        "vllm-project/vllm/issues/34076",
        "Qwen3-30B-A3B: 24.0 GiB needed",
        "size qwen3-30b-a3b -c 256k",
        ("total_bytes:GiB",),
    ),
    Row(
        "vllm-project/vllm/issues/34076",
        "the same in 3.18 GiB: at most 34,736 tokens",
        "fit qwen3-30b-a3b -c 256k -e vllm@0.15 --pool 3.18GiB",
        ("engine_report.auto_max_model_len:int",),
    ),
    Row(
        "vllm-project/vllm/issues/27508",
        "gpt-oss-120b, batches of 1,024: 4.54 GiB needed",
        "size gpt-oss-120b -c 128k -e vllm@0.11 -o max_num_batched_tokens=1024",
        ("engine_report.bytes_per_request:GiB",),
    ),
    Row(
        "alvarobartt/hf-mem/issues/60",
        "gpt-oss-120b, 5.38 GiB: 78,384 tokens",
        "fit gpt-oss-120b -c 128k -e vllm@0.11 --pool 5.38GiB -o max_num_batched_tokens=2048",
        ("engine_report.kv_cache_tokens:int", "engine_report.max_concurrency:x"),
    ),
    Row(
        "vllm-project/vllm/issues/10517",
        "Llama-3.1-8B, 3.81 GiB: 1,952 blocks, 1.56x at 20,000",
        "fit llama3.1-8b -c 20000 -e vllm@0.9 --pool 3.81GiB",
        ("engine_report.num_gpu_blocks:int", "engine_report.max_concurrency:x"),
    ),
    Row(
        "vllm-project/vllm/issues/10517",
        "the same, 2.89 GiB: 1,478 blocks, 29,000 refused, 23,648 tokens",
        "fit llama3.1-8b -c 29000 -e vllm@0.9 --pool 2.89GiB",
        ("engine_report.num_gpu_blocks:int", "max_context_tokens:int"),
    ),
    Row(
        "LMCache/LMCache/issues/1739",
        "Qwen3-14B, 6.51 GiB: 42,656 tokens, 1.30x",
        "fit qwen3-14b -c 32k -e vllm --pool 6.51GiB",
        ("engine_report.kv_cache_tokens:int", "engine_report.max_concurrency:x"),
    ),
    Row(
        "vllm-project/vllm/issues/25350",
        "Qwen3-30B-A3B in fp8: 10.12 GiB for 221,000",
        "size qwen3-30b-a3b -c 221000 --kv-dtype fp8",
        ("total_bytes:GiB",),
    ),
    Row(
        "vllm-project/vllm/pull/29431",
        "Llama-4-Scout, 2 stages, windows off, 29.72 GiB: fitted to 324,640",
        "fit llama4-scout -c 10m --pp 2 -e vllm@0.13 --pool 29.72GiB -o disable_hybrid_kv_cache_manager=on",
        ("engine_report.auto_max_model_len:int",),
    ),
    Row(
        "vllm-project/vllm/issues/40691",
        "Qwen3.5-27B: 290,864 tokens and 33.04x 32,768",
        "fit qwen3.5-27b -c 32k -e vllm@0.19 --gpu h200 -o num_gpu_blocks_override=1487",
        ("engine_report.kv_cache_tokens:int", "engine_report.max_concurrency:x"),
    ),
    Row(
        "vllm-project/vllm/issues/26646",
        "Qwen3-Next: 90,048 tokens and 1.66x 215,040",
        open_="the block size is not in the log; 1.675x at most",
    ),
    Row(
        "vllm-project/vllm/issues/33263",
        "Qwen3-1.7B: a pool of 18.78 GiB for one session of 1,024",
        "size qwen3-1.7b -c 1024",
        ("total_bytes:MiB",),
    ),
    Row(
        "vllm-project/tpu-inference/pull/223",
        "Llama-3.1-8B: 16.00 GiB needed",
        "size llama3.1-8b -c 128k",
        ("total_bytes:GiB",),
    ),
    Row(
        "vllm-project/tpu-inference/pull/223",
        "the same in 0.71 GiB, blocks of 512: at most 5,632",
        "fit llama3.1-8b -c 128k -e vllm@0.9 --pool 0.71GiB -o block_size=512",
        ("engine_report.auto_max_model_len:int",),
    ),
    Row(
        "vllm-project/vllm/pull/12569",
        "Llama-3.1-70B, 1,381 blocks: 10.79x 2,048",
        "fit llama3.1-70b -c 2048 -e vllm@0.9 --gpu h200:4 -o num_gpu_blocks_override=1381",
        ("engine_report.max_concurrency:x",),
    ),
    Row(
        "syv-ai/qwen38-27b-rtx3090/issues/39",
        "Qwen3.8-27B with a draft model: 4.76 GiB needed",
        "size qwen3.8-27b -c 64k",
        ("total_bytes:GiB",),
        "plus the draft model's cache, whose shape is not printed",
    ),
    Row(
        "vllm-project/vllm/issues/54458",
        "Qwen3.8-Flash-Next: 260,006 and 1,077,542 tokens in the same memory",
        open_="its config is not shipped; a fixed part per request and a block of 1,600 tokens explain both",
    ),
    Row(
        "MiaAI-Lab/GLM-5.3-Flash-EXL3-2x-DGX-Sparks/issues/122",
        "GLM-5.3-Flash: a prompt of 2,400 tokens takes a quarter of the pool",
        open_="its config is not shipped; fixed pages per request, not a rate",
    ),
    Row(
        "vllm-project/recipes/issues/762",
        "DeepSeek-V4-Flash: 7.7 times as many sessions with DP 8 as with TP 8",
        "size deepseek-v4-flash -c 1m --tp 8",
        ("ranks.0.bytes:GiB", "per_session_bytes:GiB"),
        "per rank and in all: TP holds 8 copies, DP none",
    ),
    Row(
        "Tandemn-Labs/tandemn-system/issues/11",
        "Qwen2.5-7B, 77,088 tokens: 72 run, 184 wait",
        "sessions qwen2.5-7b -e vllm@0.10 --pool 4.12GiB --input fixed=1000 --output fixed=142 --wait 0.5",
        ("max_sessions:int",),
    ),
    Row(
        "vllm-project/vllm/pull/21489",
        "gemma-3-4b, B200: 141.11 GiB left of 160.53",
        open_="taken line by line from that log: [logs](recipes/logs.md)",
    ),
    Row(
        "MiaAI-Lab/DeepSeek-v4-Flash-One-DGX-Spark/issues/4",
        "DeepSeek-V4-Flash: pool x 4.3 by smaller batches",
        open_="activations, not cache, and DeepSeek-V4's are not modelled: give `--overhead` or `--from-log`",
    ),
)
OTHERS = (
    Row(
        "vllm-project/vllm/issues/21348",
        'SGLang, Qwen3-235B-A22B, TP 4: K 8.23 + V 8.23 "GB"',
        "size qwen3-235b-a22b -c 367404 --tp 4",
        ("ranks.0.bytes:GiB",),
    ),
    Row(
        "sgl-project/sglang/pull/18039",
        'SGLang, MiMo-V2-Flash, TP 4, windows: K 8.38 + V 5.59 "GB" for 300,288 slots',
        open_="keys and values both reproduced: [published figures](published.md)",
    ),
    Row(
        "sgl-project/sglang/pull/11309",
        'SGLang, DeepSeek-V3.2 in fp8: 43.67 "GB" for 975,424',
        "size deepseek-v3.2 -c 975424 -e sglang --kv-dtype fp8 --gpu h200",
        ("total_bytes:GiB",),
    ),
    Row(
        "sgl-project/sglang/pull/11309",
        'the same, 1,462,784 tokens: 54.52 "GB" printed, 65.49 taken, indexer included',
        "size deepseek-v3.2 -c 1462784 -e sglang --kv-dtype fp8 --gpu h200",
        ("total_bytes:GiB",),
    ),
    Row(
        "sgl-project/sglang/pull/13466",
        'SGLang, Kimi-K2 on each of 8: 0.53 "GB" for 8,050',
        "size kimi-k2 -c 8050 --tp 8",
        ("ranks.0.bytes:GiB",),
    ),
    Row(
        "ai-dynamo/aiconfigurator/pull/1380",
        "Kimi-K2.5 in fp8: 286 MB per hand-off of 8,150",
        "transfer kimi-k2 -c 8150 --kv-dtype fp8",
        ("handoff_bytes:MB",),
    ),
    Row(
        "NVIDIA/TensorRT-LLM/issues/1400",
        "TensorRT-LLM, Llama-2-7B: 69,524,783,104 bytes for 132,608",
        "size llama2-7b -c 132608",
        ("total_bytes:int",),
    ),
    Row(
        "NVIDIA/TensorRT-LLM/issues/1188",
        "TensorRT-LLM, Qwen2.5-0.5B: 4.53 GiB for 395,776",
        "size qwen2.5-0.5b -c 395776",
        ("total_bytes:GiB",),
    ),
    Row(
        "lmstudio-ai/lmstudio-bug-tracker/issues/1862",
        "LM Studio, Qwen3.6-27B: 16384.00 + 598.50 MiB",
        "size qwen3.5-27b -c 256k -e lmstudio",
        ("total_bytes:MiB",),
    ),
    Row(
        "ollama/ollama/pull/17037",
        "llama.cpp, gemma-3-4b: 2560.00 + 174.00 MiB",
        "size gemma3-4b -c 128k -e llama.cpp",
        ("total_bytes:MiB",),
    ),
    Row(
        "qualcomm/GenieX/pull/1346",
        "llama.cpp, Gemma-4-E4B: 64 + 60 MiB at 4,096",
        "size gemma-4-e4b -c 4096 -e llama.cpp -o n_ubatch=1024",
        ("total_bytes:MiB",),
        "its 1,536 cells are the window of 512 and a batch of 1,024",
    ),
    Row(
        "unslothai/unsloth/issues/10489",
        "llama.cpp, Gemma-4-12B, q8_0: 2176.00 + 255.00 MiB",
        open_="its config is not shipped; both are on [published figures](published.md)",
    ),
    Row(
        "ollama/ollama/issues/10735",
        "Ollama, granite3.3:2b: 51200.00 MiB",
        open_="its config is not shipped; 20 hidden slots of 32,768 are the reason, see slots above",
    ),
    Row(
        "ggml-org/llama.cpp/issues/27937",
        "llama.cpp, 28 layers of 8 x 128: 3584.00 MiB at 32,768",
        "size qwen3-1.7b -c 32k -e llama.cpp",
        ("total_bytes:MiB",),
    ),
    Row(
        "fedora-copr/logdetective/pull/106",
        "llama.cpp, Mistral-7B: 4096.00 MiB at 32,768",
        "size mistral-7b -c 32k -e llama.cpp",
        ("total_bytes:MiB",),
        "the compute buffer beside it grew from 164 to 2144 MiB: no cache",
    ),
    Row(
        "ggml-org/llama.cpp/pull/21551",
        "llama.cpp, Mistral-Small-24B, q8_0: 552.50 MiB",
        "size mistral-small-24b-2501 -c 6656 -e llama.cpp --kv-dtype q8_0",
        ("total_bytes:MiB",),
    ),
    Row(
        "ggml-org/llama.cpp/pull/21551",
        "the same, q4_0: 292.50 MiB",
        "size mistral-small-24b-2501 -c 6656 -e llama.cpp --kv-dtype q4_0",
        ("total_bytes:MiB",),
    ),
    Row(
        "LMCache/LMCache/pull/1740",
        'LMCache, Qwen3-8B: 1.3747 "gb" for 10,010',
        "size qwen3-8b -c 10010",
        ("total_bytes:GiB4",),
    ),
    Row(
        "LMCache/LMCache/issues/2262",
        'LMCache, 28 layers of 8 x 128: 0.2188 "gb" for 2,048',
        "size qwen3-1.7b -c 2048",
        ("total_bytes:GiB4",),
    ),
    Row(
        "huggingface/transformers/pull/48566",
        "transformers, Qwen3-32B, TP 4: four times the blocks after a fix",
        "size qwen3-32b -c 1024 --tp 4",
        ("total_bytes:int", "ranks.0.bytes:int"),
    ),
    Row(
        "unslothai/unsloth/pull/4757",
        'Unsloth, Gemma-3-27B: 10.41 "GB"',
        "size gemma3-27b -c 128k",
        ("total_bytes:GiB",),
    ),
    Row(
        "unslothai/unsloth/pull/4757",
        'Unsloth, Qwen3.5-27B: 16.00 "GB"',
        "size qwen3.5-27b -c 256k -e llama.cpp",
        ("total_bytes:GiB",),
        "0.15 GiB of it states, which the 16.00 leaves out",
    ),
    Row(
        "unslothai/unsloth/pull/4757",
        'Unsloth, DeepSeek-V3.1: 10.72 "GB"',
        "size deepseek-v3.1 -c 160k",
        ("total_bytes:GiB",),
    ),
    Row("unslothai/unsloth/pull/4757", 'Unsloth, Kimi-K2.5: 17.16 "GB"', "size kimi-k2 -c 256k", ("total_bytes:GiB",)),
    Row(
        "unslothai/unsloth/pull/4757", 'Unsloth, Qwen3-0.6B: 4.38 "GB"', "size qwen3-0.6b -c 40k", ("total_bytes:GiB",)
    ),
    Row(
        "unslothai/unsloth/pull/4757",
        'Unsloth, GLM-5: 17.18 "GB"',
        "size glm-5 -c 202752",
        ("total_bytes:GiB",),
        "3.77 GiB of it indexer keys; the 17.18 has none, but a 79th layer for multi-token prediction",
    ),
    Row(
        "Andyyyy64/whichllm/pull/124",
        "whichllm, Gemma-3-27B at 128k: 2.20 GB",
        "size gemma3-27b -c 128k",
        ("total_bytes:GiB",),
        "that tool counts too little",
    ),
    Row(
        "alvarobartt/hf-mem/pull/70",
        "hf-mem, gpt-oss-20b, 32 x 8,192: 6.09 GiB, after a change 12.00",
        "size gpt-oss-20b -c 8192 -n 32",
        ("total_bytes:GiB",),
    ),
)
TABLES = {"vllm": VLLM, "others": OTHERS}


def answers(name: str) -> str:
    """The table: thread, what was printed, the command, what it answers."""
    lines = ["| where | printed | command | kvcalc |", "|---|---|---|---|"]
    for row in TABLES[name]:
        link = f"[{row.where.split('/')[1]}#{row.where.rpartition('/')[2]}]({_GITHUB}{row.where})"
        command = f"`kvcalc {row.command}`" if row.command else ""
        said = [number for number in _numbers(row) if number] + ([row.open_] if row.open_ else [])
        lines.append(f"| {link} | {row.printed} | {command} | {'; '.join(said)} |")
    return "\n".join(lines) + "\n"


def _numbers(row: Row) -> list[str]:
    if not row.command:
        return []
    from kvcalc.__main__ import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        main([*shlex.split(row.command), "--json"])
    if not out.getvalue():
        raise SystemExit(f"kvcalc {row.command}: {err.getvalue()}")
    answer = json.loads(out.getvalue())
    return [_shown(answer, *part.split(":")) for part in row.shows]


def _shown(answer: Any, path: str, form: str) -> str:
    """The value at a dotted path, as the log would print it."""
    for step in path.split("."):
        answer = answer[int(step) if step.isdigit() else step]
    if form == "int":
        return f"{answer:,}"
    if form == "x":
        return f"{answer:.2f}x"
    if form == "MB":
        return f"{answer / 1e6:.1f} MB"
    digits = 4 if form == "GiB4" else 2
    return f"{answer / 2**20:.2f} MiB" if form == "MiB" else f"{answer / 2**30:.{digits}f} GiB"
