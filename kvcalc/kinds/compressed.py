"""Attention that compresses groups of tokens into one entry: CSA and HCA of DeepSeek-V4."""

from __future__ import annotations

from collections.abc import Mapping

from kvcalc.core.component import Component, Remainder, Strided, Windowed, whole_part
from kvcalc.core.light import Literal, Record
from kvcalc.core.model import Kind
from kvcalc.errors import ModelFileError
from kvcalc.kinds._check import MAX_WINDOW, need_int, need_optional_int


class CompressedAttention(Record):
    """One shared K=V latent of `head_dim` per `tokens_per_slot` tokens, beside a short window of raw latents.

    csa (compressed sparse attention) also keeps an indexer key of `index_dim` per entry and compresses
    overlapping groups, so the inputs of its open group are twice as wide; hca (heavily compressed) does neither.
    pending_kv, pending_gate: inputs of the group that is not complete yet.

    Source: DeepSeek-V4 `compress_ratios`; transformers 5.23 deepseek_v4/modeling_deepseek_v4.py:156-311
    (window), 405-437 (HCA compressor), 646-697 (CSA compressor), 530-571 (indexer).
    """

    kind: Literal["csa", "hca"]
    heads: int
    head_dim: int
    tokens_per_slot: int
    window: int
    index_dim: int | None = None

    def __post_init__(self) -> None:
        need_int("heads", self.heads)
        need_int("head_dim", self.head_dim)
        need_int("tokens_per_slot", self.tokens_per_slot, least=2)
        need_int("window", self.window, most=MAX_WINDOW)
        need_optional_int("index_dim", self.index_dim)
        if (self.kind == "csa") != (self.index_dim is not None):
            raise ModelFileError(
                "csa needs index_dim (its indexer's key), hca has none",
                fix="add index_dim to csa, drop it from hca",
                field="index_dim",
                value=self.index_dim,
            )

    def lower(self) -> tuple[Component, ...]:
        """window_kv [head_dim], compressed_kv [head_dim], index_key [index_dim], and the open group's inputs."""
        closed, pending = Strided(self.tokens_per_slot), Remainder(self.tokens_per_slot)
        overlap = 2 if self.kind == "csa" else 1  # csa projects each token for two neighbouring groups
        open_width = overlap * (self.head_dim + (self.index_dim or 0))
        window = Component(name="window_kv", role="key", law=Windowed(self.window), parts=whole_part(self.head_dim))
        entry = Component(name="compressed_kv", role="key", law=closed, parts=whole_part(self.head_dim))
        side = tuple(
            Component(name="index_key", role="index", law=closed, parts=whole_part(width))
            for width in (self.index_dim,)
            if width is not None
        )
        inputs = tuple(
            Component(name=name, role="pending", law=pending, parts=whole_part(open_width))
            for name in ("pending_kv", "pending_gate")
        )
        return (window, entry, *side, *inputs)

    def mha_widths(self, blocks: Mapping[str, Kind]) -> tuple[int, int] | None:
        return self.heads * self.head_dim, self.heads * self.head_dim
