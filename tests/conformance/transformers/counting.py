"""Runs a shrunken model and counts every tensor that its cache holds, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import torch

#: Counters, not cache: an i64 length per layer, the window as a tensor (8 bytes each).
BOOKKEEPING = {"_sliding_window_tensor", "cumulative_length", "indexer_cumulative_length", "seqlen_offset"}
#: Where a model hands back its cache, and under which name it takes it again.
CACHE_NAMES = ("past_key_values", "cache_params", "state", "mems", "past_buckets_states")


@dataclass
class Counted:
    """Bytes per layer: of the tensors (logical), of the storages behind them (resident)."""

    logical: list[int] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)
    unlayered: int = 0

    @property
    def total(self) -> int:
        return sum(self.logical) + self.unlayered

    @property
    def resident_total(self) -> int:
        return sum(self.resident) + self.unlayered


def tensors_in(value: Any, depth: int = 0) -> Iterator[torch.Tensor]:
    """Every tensor below `value`, counters left out."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            if key not in BOOKKEEPING:
                yield from tensors_in(item, depth)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item, depth)
    elif hasattr(value, "__dict__") and depth < 3:
        yield from tensors_in(vars(value), depth + 1)


def _sizes(tensors: Iterator[torch.Tensor]) -> tuple[int, int]:
    """(logical, resident) bytes; one tensor under two names counts once, one storage under two tensors once."""
    unique = {id(tensor): tensor for tensor in tensors}
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in unique.values()}
    return sum(tensor.numel() * tensor.element_size() for tensor in unique.values()), sum(storages.values())


def count(cache: Any) -> Counted:
    """Count a Cache (by layer), an EncoderDecoderCache (self and cross together), or a list of tensors."""
    found = Counted()
    if hasattr(cache, "self_attention_cache"):
        own, cross = count(cache.self_attention_cache), count(cache.cross_attention_cache)
        for index in range(max(len(own.logical), len(cross.logical))):
            for name in ("logical", "resident"):
                parts = [side[index] for side in (getattr(own, name), getattr(cross, name)) if index < len(side)]
                getattr(found, name).append(sum(parts))
        return found
    if hasattr(cache, "layers"):
        states = getattr(cache, "linear_cache", [])  # MiniMaxCache keeps them beside the layers
        parts = [list(pair) for pair in zip_longest(cache.layers, states)]
    elif isinstance(cache, list | tuple) and all(isinstance(item, torch.Tensor) for item in cache):
        found.unlayered = _sizes(iter(cache))[0]
        return found
    else:
        found.unlayered = _sizes(tensors_in(cache))[0]
        return found
    for part in parts:
        logical, resident = _sizes(tensors_in(part))
        found.logical.append(logical)
        found.resident.append(resident)
    return found


def returned_cache(output: Any) -> tuple[str, Any] | None:
    """The name and the cache in a model's output."""
    return next(((name, cache) for name in CACHE_NAMES if (cache := output.get(name)) is not None), None)
