"""Attention that caches one compressed latent per token instead of heads: MLA."""

from __future__ import annotations

from collections.abc import Mapping

from kvcalc.core.component import Component, whole_part
from kvcalc.core.light import Literal, Record
from kvcalc.core.model import Kind
from kvcalc.kinds._check import need_int, need_optional_int
from kvcalc.kinds._retention import check_retention, retention_law
from kvcalc.kinds.indexer import Indexer


class LatentAttention(Record):
    """Multi-head latent attention: `latent_dim` + `rope_dim` elements per kept token, for all heads together.

    The latent has no head axis, so every tensor-parallel rank stores all of it.
    nope_dim, v_head_dim: the head dims it expands to; they do not change the cache, only `mha_ratio`.
    rope_dim 0: a layer without rotary key (NoPE).

    Source: DeepSeek-V2 (arXiv:2405.04434) section 2.1.2-2.1.3, table 1: (d_c + d_h^R) per token;
    transformers 5.23 deepseek_v3/modeling_deepseek_v3.py:459; vLLM 0.33 MLAAttentionSpec.

    >>> sum(c.elements_per_slot for c in LatentAttention(kind="mla", heads=128, latent_dim=512, rope_dim=64).lower())
    576
    """

    kind: Literal["mla"]
    heads: int
    latent_dim: int
    rope_dim: int
    nope_dim: int | None = None
    v_head_dim: int | None = None
    window: int | None = None
    chunk: int | None = None
    sinks: int = 0
    indexer: Indexer | None = None

    def __post_init__(self) -> None:
        need_int("heads", self.heads)
        need_int("latent_dim", self.latent_dim)
        need_int("rope_dim", self.rope_dim, least=0)
        need_optional_int("nope_dim", self.nope_dim, least=0)
        need_optional_int("v_head_dim", self.v_head_dim)
        check_retention(self.window, self.chunk, self.sinks)

    def lower(self) -> tuple[Component, ...]:
        """latent [latent_dim] and rope_key [rope_dim] per kept token, replicated; then the indexer's key."""
        law = retention_law(self.window, self.chunk, self.sinks)
        parts = [Component(name="latent", role="key", law=law, parts=whole_part(self.latent_dim))]
        if self.rope_dim:
            parts.append(Component(name="rope_key", role="key", law=law, parts=whole_part(self.rope_dim)))
        return (*parts, *(self.indexer.lower() if self.indexer is not None else ()))

    def mha_widths(self, blocks: Mapping[str, Kind]) -> tuple[int, int] | None:
        if self.nope_dim is None or self.v_head_dim is None:
            return None
        return self.heads * (self.nope_dim + self.rope_dim), self.heads * self.v_head_dim
