"""Block sizes: the backend's, the alignment of attention pages to recurrent states, pages of mixed KV dtypes.

vLLM does this on every worker for the layers it holds, so a pipeline stage without attention skips it.

Source: vLLM 0.33.0 platforms/interface.py `update_block_size_for_backend`, `_align_hybrid_block_size`,
`_align_heterogeneous_kv_block_size`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import lcm
from typing import NamedTuple

from kvcalc.engines.vllm.backends import DEFAULT_BLOCK, Backend, common_block, largest_kernel_block
from kvcalc.engines.vllm.cachedtypes import is_quantized
from kvcalc.engines.vllm.grouping import Layer
from kvcalc.engines.vllm.layers import Attn, Cache, State
from kvcalc.engines.vllm.settings import Settings
from kvcalc.units import ceil_div

#: Latent attention beside states: split kernel blocks need 128 tokens per block.
_LATENT_ALIGNMENT = 128


class Placed(NamedTuple):
    """One cache of one layer before its block size is known. `plain`: kept in the model's own type."""

    number: int
    block: str
    cache: Cache
    plain: bool = False


class Sizes(NamedTuple):
    """What a worker settles on. state_page, shared_page: padded sizes, None where nothing is padded."""

    block_tokens: int
    state_page: int | None
    shared_page: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The attention of the whole model that alignment is computed with, and its state."""

    attention: Attn | None
    state: State | None


def place(caches: Sequence[Placed], sample: Sample, settings: Settings) -> tuple[list[Layer], Sizes]:
    """The layers of one pipeline stage with their formats."""
    sizes = _sizes(caches, sample, settings)
    layers = []
    for placed in caches:
        cache = placed.cache
        if isinstance(cache, State):
            # Without prefix caching a state has one block for the whole length; 0 stands for max_model_len.
            tokens = sizes.block_tokens if settings.align_states else 0
            layers.append(Layer(placed.number, placed.block, cache.spec(tokens, sizes.state_page)))
            continue
        tokens = sizes.block_tokens
        if cache.kind == "sliding":
            budget = sizes.shared_page or cache.token_bytes * tokens
            tokens = largest_kernel_block(cache.backend, cache.token_bytes, budget)
        layers.append(Layer(placed.number, placed.block, cache.spec(tokens, sizes.shared_page)))
    return layers, sizes


def _sizes(caches: Sequence[Placed], sample: Sample, settings: Settings) -> Sizes:
    backends: list[Backend] = []
    for placed in caches:
        if isinstance(placed.cache, Attn) and placed.cache.backend not in backends:
            backends.append(placed.cache.backend)
    if not backends:
        return Sizes(settings.block_tokens or DEFAULT_BLOCK, None, None)
    block = settings.block_tokens or common_block(backends)
    state_page = None
    if sample.attention is not None and sample.state is not None:
        block, state_page = _align_states(block, backends, sample.attention, sample.state, settings)
    shared = None
    if settings.skip_layers and sample.attention is not None:
        block, shared = _align_dtypes(block, backends[0], sample.attention, state_page, settings)
        if state_page is not None and shared is not None:
            state_page = shared
    return Sizes(block, state_page, shared)


def _align_states(
    block: int, backends: list[Backend], attention: Attn, state: State, settings: Settings
) -> tuple[int, int]:
    """Blocks so long that an attention page holds a state; the state is padded to exactly that page."""
    kernel = max(backends[0].smallest, block)
    if attention.kind in ("mla", "sliding_mla"):
        kernel = max(kernel, _LATENT_ALIGNMENT)
    if settings.align_states and state.checkpoint_multiple:
        kernel = lcm(kernel, state.checkpoint_multiple)
    tokens = kernel * ceil_div(state.state_bytes, kernel * attention.token_bytes)
    common = lcm(*(backend.smallest for backend in backends))
    block = max(block, ceil_div(tokens, common) * common)
    return block, block * attention.token_bytes


def _align_dtypes(
    block: int, backend: Backend, attention: Attn, state_page: int | None, settings: Settings
) -> tuple[int, int | None]:
    """Unquantised layers next to quantised ones: blocks so long that the quantised page covers the other."""
    wide = attention.native_bytes
    packs = settings.kv_dtype in backend.dtypes or not is_quantized(settings.kv_dtype)
    # A backend that does not know the packed format counts one byte per element.
    narrow = attention.token_bytes if packs else attention.native_bytes // settings.native_bytes
    if wide == narrow:
        return block, None
    aligned = max(backend.smallest, block)
    required = max(wide * backend.smallest, state_page or 0)
    block = max(block, aligned * ceil_div(required, aligned * narrow))
    return block, block * narrow
