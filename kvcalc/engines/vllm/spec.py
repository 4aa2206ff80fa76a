"""The cache format of one layer as vLLM sees it: bytes of a page, and pages that one request may hold.

A *page* is one layer's share of one block; a *block* is `block_tokens` tokens of every layer of a group.

Source: vLLM 0.33.0 v1/kv_cache_interface.py (AttentionSpec and its subclasses, MambaSpec).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import gcd
from typing import Literal, NamedTuple

from kvcalc.errors import EngineRefusal
from kvcalc.units import ceil_div

SpecKind = Literal["full", "mla", "sliding", "sliding_mla", "chunked", "mamba", "cross"]

#: Our short word -> the class name that vLLM prints.
SPEC_CLASSES: dict[SpecKind, str] = {
    "full": "FullAttentionSpec",
    "mla": "MLAAttentionSpec",
    "sliding": "SlidingWindowSpec",
    "sliding_mla": "SlidingWindowMLASpec",
    "chunked": "ChunkedLocalAttentionSpec",
    "mamba": "MambaSpec",
    "cross": "CrossAttentionSpec",
}


#: The block pool keeps block 0 for itself (a placeholder in block tables).
NULL_BLOCKS = 1


class Limits(NamedTuple):
    """What a request's block count depends on, besides its layer: see `Settings` for each."""

    in_flight_tokens: int
    encoder_tokens: int
    dcp: int
    align_states: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One layer's cache. Two layers share a block table when vLLM finds their specs equal.

    body: heads, widths, dtype: all that vLLM compares beside the fields here.
    page_bytes: as allocated (padding included); content_bytes: without padding.
    span: window or chunk; on a full layer the window it computes with, and `chunk` the chunk.
    states: tokens_per_state > 1 stores one entry per that many tokens.
    stride_multiple: kernel block that packed pages must keep whole (0: none); stride_bytes: fixed alignment.
    state_blocks: mamba only, blocks per request with and without prefix caching.
    """

    kind: SpecKind
    block_tokens: int
    page_bytes: int
    content_bytes: int
    body: tuple[object, ...] = ()
    tokens_per_state: int = 1
    span: int = 0
    chunk: int = 0
    extra_tokens: int = 0
    stride_multiple: int = 0
    stride_bytes: int = 1
    dcp_sharded: bool = True
    state_blocks: tuple[int, int] = (0, 0)

    @property
    def padded(self) -> bool:
        return self.page_bytes != self.content_bytes

    @property
    def growing(self) -> bool:
        """Whether it is one of the classes that hold every token (FullAttentionSpec and subclasses)."""
        return self.kind in ("full", "mla")

    def with_block(self, block_tokens: int) -> Spec:
        """The same layer in blocks of `block_tokens`; a page padded before keeps its padded size.

        Raises: EngineRefusal when the content outgrows the padded page (an assert in vLLM).
        """
        content = self.content_bytes // self.block_tokens * block_tokens
        if self.tokens_per_state > 1:
            content = self.entry_bytes * (block_tokens // self.tokens_per_state)
        page = self.page_bytes if self.padded else content
        if page < content:
            raise EngineRefusal(
                f"vLLM fails here: a page padded to {page:,} bytes cannot hold blocks of {block_tokens} tokens",
                fix="remove kv_cache_dtype_skip_layers or choose another KV cache dtype",
            )
        return replace(self, block_tokens=block_tokens, page_bytes=page, content_bytes=content)

    @property
    def entry_bytes(self) -> int:
        """Bytes of one stored entry (one token, or one group of compressed tokens)."""
        return self.content_bytes // max(self.block_tokens // self.tokens_per_state, 1)

    def padded_to(self, page_bytes: int) -> Spec:
        return replace(self, page_bytes=page_bytes)

    @property
    def stride_alignment(self) -> int:
        """Bytes the distance between blocks is a multiple of.

        Source: KVCacheSpec.get_block_stride_alignment.
        """
        if not self.stride_multiple:
            return self.stride_bytes
        kernel = gcd(self.stride_multiple, self.block_tokens)
        return 1 if kernel == self.block_tokens else self.with_block(kernel).page_bytes

    @property
    def stride_page_bytes(self) -> int:
        """The page rounded up to its alignment: what a layer-outer layout strides by."""
        return ceil_div(self.page_bytes, self.stride_alignment) * self.stride_alignment

    def blocks(self, tokens: int, limits: Limits) -> int:
        """Blocks of this layer's table that one request of `tokens` tokens may hold at once.

        Source: max_memory_usage_bytes of each spec class, divided by its page.
        """
        if self.growing:
            own = ceil_div(tokens, limits.dcp) if self.dcp_sharded else tokens
            return ceil_div(own, self.block_tokens)
        if self.kind in ("sliding", "sliding_mla"):
            # window - 1 settled tokens plus what may be scheduled and not settled yet; the window may begin
            # inside a block, hence one block more ([XXCD][EF] holds the 4 tokens CDEF in 2 blocks of 4).
            held = min(self.span - 1 + self.extra_tokens + limits.in_flight_tokens, tokens)
            return ceil_div(held, self.block_tokens) + 1
        if self.kind == "chunked":
            return ceil_div(min(self.span + limits.in_flight_tokens, tokens), self.block_tokens)
        if self.kind == "cross":
            return ceil_div(limits.encoder_tokens, self.block_tokens)
        return self.state_blocks[0] if limits.align_states else self.state_blocks[1]

    def steady_blocks(self, tokens: int) -> int:
        """Blocks a request really holds while it decodes at `tokens` tokens (one token in flight).

        Source: v1/core/single_type_kv_cache_manager.py `remove_skipped_blocks` of each manager.
        """
        total = ceil_div(tokens, self.block_tokens)
        if self.kind in ("sliding", "sliding_mla"):
            return total - max(0, tokens - self.span) // self.block_tokens
        if self.kind == "chunked":
            return total - ((tokens - 1) // self.span * self.span) // self.block_tokens
        return total


def mergeable(specs: Sequence[Spec]) -> bool:
    """Whether the layers share one table with one page size.

    Full-attention layers that differ only in the window they compute with count as equal as long as there is
    one such window (with the hybrid manager off, windowed layers are stored like full ones).

    Raises: EngineRefusal for two windows among them (vLLM fails).
    Source: FullAttentionSpec.merge, MLAAttentionSpec.merge, KVCacheSpec.merge.
    """
    first = specs[0]
    if first.kind != "full":
        return all(spec == first for spec in specs[1:])
    if any(spec.kind != "full" for spec in specs):
        return False
    windows = {spec.span for spec in specs if spec.span}
    chunks = {spec.chunk for spec in specs if spec.chunk}
    if len(windows) > 1 or len(chunks) > 1:
        raise EngineRefusal(
            f"all attention layers of one KV cache group must have one window size, not {sorted(windows | chunks)}",
            fix="drop disable_hybrid_kv_cache_manager",
            field="disable_hybrid_kv_cache_manager",
        )
    if windows and chunks:
        return False
    return all(replace(spec, span=0, chunk=0) == replace(first, span=0, chunk=0) for spec in specs[1:])


def uniform(specs: Sequence[Spec]) -> bool:
    """Whether the layers need the same number of tokens stored, so that one table serves all, whatever their pages.

    Source: UniformTypeKVCacheSpecs.is_uniform_type, is_uniform_with_collection of each class.
    """
    first = specs[0]
    for spec in specs:
        if spec.block_tokens != first.block_tokens or spec.dcp_sharded != first.dcp_sharded:
            return False
        if first.growing:
            same = spec.growing
        elif first.kind == "mamba":
            same = spec.kind == "mamba" and (spec.page_bytes, spec.state_blocks) == (
                first.page_bytes,
                first.state_blocks,
            )
        else:
            # A window of latents is a subclass of a window: it joins one, but not the other way round.
            joins = first.kind == "sliding" and spec.kind == "sliding_mla"
            same = (spec.kind == first.kind or joins) and spec.span == first.span
        if not same:
            return False
    return True
