"""Layers whose cache is not their own past: cross attention, shared caches, none at all."""

from __future__ import annotations

from collections.abc import Mapping

from kvcalc.core.component import Component, Encoder, heads_part
from kvcalc.core.light import Literal, Record
from kvcalc.core.model import Kind
from kvcalc.errors import ModelFileError, short
from kvcalc.kinds._check import need_divides, need_int, need_optional_int
from kvcalc.kinds.indexer import Indexer


class CrossAttention(Record):
    """Keys and values of the encoder's tokens, computed once and kept for the whole decoding.

    Source: arXiv:1706.03762 section 3.2.3; transformers 5.23 cache_utils.py:2199 (EncoderDecoderCache).
    """

    kind: Literal["cross"]
    heads: int
    head_dim: int
    groups: int | None = None
    v_head_dim: int | None = None

    def __post_init__(self) -> None:
        need_int("heads", self.heads)
        need_int("head_dim", self.head_dim)
        need_optional_int("groups", self.groups)
        need_optional_int("v_head_dim", self.v_head_dim)
        need_divides("heads", self.heads, "groups", self.kv_heads)

    @property
    def kv_heads(self) -> int:
        """KV heads per encoder token; absent groups means one per query head."""
        return self.heads if self.groups is None else self.groups

    @property
    def value_dim(self) -> int:
        return self.head_dim if self.v_head_dim is None else self.v_head_dim

    def lower(self) -> tuple[Component, ...]:
        """cross_key [groups, head_dim], cross_value [groups, v_head_dim] per encoder token."""
        return (
            Component(name="cross_key", role="key", law=Encoder(), parts=heads_part(self.kv_heads, self.head_dim)),
            Component(name="cross_value", role="value", law=Encoder(), parts=heads_part(self.kv_heads, self.value_dim)),
        )

    def mha_widths(self, blocks: Mapping[str, Kind]) -> tuple[int, int] | None:
        return 0, 0  # grows with the encoder, not with the context that mha_ratio compares


class SharedCache(Record):
    """A layer that reads the cache another layer wrote, and stores nothing, unless it has an indexer of its own.

    of: the block whose layers it reads, for the comparison with its own MHA form.

    Source: YOCO (arXiv:2405.05254); CLA (arXiv:2405.12981); Gemma 3n `num_kv_shared_layers`,
    transformers 5.23 cache_utils.py:1930-1939; indexer: Mistral Large 4 `kv_source_layers`,
    mistral_large4/configuration_mistral_large4.py `kv_sharing_modes` (reuse_but_indexer).
    """

    kind: Literal["shared"]
    of: str | None = None
    indexer: Indexer | None = None

    def __post_init__(self) -> None:
        if self.of is not None and (type(self.of) is not str or not self.of):
            raise ModelFileError(
                f"of must name a block, not {short(self.of)}",
                fix="name a block of attention",
                field="of",
                value=self.of,
            )

    def lower(self) -> tuple[Component, ...]:
        """Nothing, or the indexer's key."""
        return self.indexer.lower() if self.indexer is not None else ()

    def mha_widths(self, blocks: Mapping[str, Kind]) -> tuple[int, int] | None:
        source = blocks.get(self.of) if self.of is not None else None
        return None if source is None or isinstance(source, SharedCache) else source.mha_widths(blocks)


class NoCache(Record):
    """A layer without memory of earlier tokens (MLP, MoE), or whose attention is bidirectional and uncached."""

    kind: Literal["none"] = "none"

    def lower(self) -> tuple[Component, ...]:
        return ()

    def mha_widths(self, blocks: Mapping[str, Kind]) -> tuple[int, int] | None:
        return 0, 0
