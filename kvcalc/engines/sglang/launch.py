"""What SGLang sets aside when it is started without --mem-fraction-static, and the budget that follows.

Sizes in MiB as `nvidia-smi` counts them, in SGLang's own float steps. CUDA, no speculation, no DeepEP, no
disaggregation, vision models not adjusted.

Source: sglang 0.5.23, srt/arg_groups/memory_hook.py `_handle_gpu_memory_settings`, `reserve_for_graph_mb`;
srt/arg_groups/cuda_graph_hook.py `generate_prefill_cuda_graph_batch_sizes`;
srt/mem_cache/kv_cache_configurator.py `_profile_available_bytes`.
"""

from __future__ import annotations

from typing import NamedTuple

#: GPUs up to this many MiB -> (chunked_prefill_size, decode graph batch, the same from tp 4 on).
_TIERS = (
    (20 * 1024, 2048, 8, 8),
    (35 * 1024, 4096, 48, 160),
    (60 * 1024, 4096, 32, 160),
    (160 * 1024, 8192, 256, 512),
)
_LARGEST = (16384, 512)
#: Above this size at least 10 GiB stay free.
_LARGE, _LARGE_RESERVE = 60 * 1024, 10 * 1024


class Tier(NamedTuple):
    """Defaults by the size of the GPU."""

    chunked_prefill_size: int
    decode_batch: int


def tier(gpu_mib: int, tp: int) -> Tier:
    """The defaults for a GPU.

    >>> tier(81559, 1), tier(24564, 4)
    (Tier(chunked_prefill_size=8192, decode_batch=256), Tier(chunked_prefill_size=4096, decode_batch=160))
    """
    for most, chunk, few, many in _TIERS:
        if gpu_mib < most:
            return Tier(chunk, few if tp < 4 else many)
    return Tier(*_LARGEST)


def prefill_graphs(most_tokens: int) -> int:
    """How many prefill graphs are captured, up to `most_tokens` tokens."""
    steps = (
        (4, 33, 4),
        (48, 257, 16),
        (288, 513, 32),
        (576, 1025, 64),
        (1280, 4097, 256),
        (4608, most_tokens + 1, 512),
    )
    return sum(1 for start, stop, step in steps for size in range(start, stop, step) if size <= most_tokens)


def default_mem_fraction_static(
    gpu_mib: int,
    *,
    tp: int = 1,
    pp: int = 1,
    latent: bool = False,
    attn_dp: int = 1,
    max_running_requests: int | None = None,
    chunked_prefill_size: int | None = None,
    prefill_graph: bool = True,
) -> float:
    """The share of the memory free at start that weights and cache may take.

    latent: the model caches MLA latents, whose prefill graphs take a fixed 1.5 GiB.

    >>> default_mem_fraction_static(24564, prefill_graph=False), default_mem_fraction_static(81559, prefill_graph=False)
    (0.72, 0.835)
    """
    chosen = tier(gpu_mib, tp)
    chunk = chunked_prefill_size or chosen.chunked_prefill_size
    batch = min(chosen.decode_batch, max_running_requests or chosen.decode_batch)
    reserved = 512 + max(chunk, 2048) * 1.5 + tp * pp / 8 * 1024 + batch * 2
    if attn_dp > 1:
        reserved += batch * attn_dp * (4.5 if batch > 300 else 3)
    if prefill_graph:
        reserved += 1536 if latent else 8 * prefill_graphs(chunk)
    if gpu_mib > _LARGE:
        reserved = max(reserved, _LARGE_RESERVE)
    return round((gpu_mib - reserved) / gpu_mib, 3)


def kv_budget_bytes(free_before_gib: float, free_after_gib: float, mem_fraction_static: float) -> int:
    """The KV budget: what is free after the weights, less the share of the memory free before them that stays free.

    It is what `--pool` takes; memory kept back for images and recurrent states come out of it.
    """
    return int((free_after_gib - free_before_gib * (1 - mem_fraction_static)) * 2**30)
