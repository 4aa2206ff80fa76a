"""From a GPU's memory to the bytes vLLM gives the KV cache.

Weights, activation peak, non-torch memory and CUDA graphs come from vLLM's profiling run (its log prints them):
no formula foretells them.

Source: vLLM 0.33.0 v1/worker/utils.py `request_memory`, v1/worker/gpu_worker.py:641-757.
"""

from __future__ import annotations

from math import ceil

from kvcalc.errors import EngineRefusal
from kvcalc.units import gib

#: What the suggested --kv-cache-memory keeps back, so that it fits next time too. Source: gpu_worker.py (150 MiB).
SUGGESTION_BUFFER = 150 * 2**20


def requested_bytes(total_bytes: int, utilization: float) -> int:
    """What vLLM lays claim to: the fraction of the GPU's total, rounded up."""
    return ceil(total_bytes * utilization)


def available_bytes(
    *, requested: int, weights: int, activation_peak: int, non_torch: int, cuda_graphs: int, free: int | None = None
) -> int:
    """KV bytes of one GPU.

    free: memory free at start, where known; vLLM refuses to claim more.

    Raises: EngineRefusal.
    """
    if free is not None and requested > free:
        raise EngineRefusal(
            f"vLLM wants {gib(requested)}, but only {gib(free)} of the GPU are free at start",
            fix="lower gpu_memory_utilization, or free the GPU",
            field="gpu_memory_utilization",
        )
    return requested - weights - activation_peak - non_torch - cuda_graphs
