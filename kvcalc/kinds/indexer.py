"""The side cache of sparse attention: one small key per token, by which a layer picks the tokens it reads.

The selection does not shrink the main cache; the indexer only adds to it.
"""

from __future__ import annotations

from kvcalc.core.component import Component, Linear, Strided, whole_part
from kvcalc.core.light import Record
from kvcalc.errors import ModelFileError
from kvcalc.kinds._check import need_int


class Indexer(Record):
    """Indexer keys: `heads` x `head_dim` elements, one slot per `tokens_per_slot` tokens; none when `shared`.

    shared: the layer reuses the selection of an earlier one and stores no key of its own.

    Source: DeepSeek-V3.2 report section 2 (lightning indexer); transformers 5.23
    deepseek_v32/modeling_deepseek_v32.py:225; shared: `indexer_types` of glm_moe_dsa.
    """

    head_dim: int
    heads: int = 1
    tokens_per_slot: int = 1
    shared: bool = False

    def __post_init__(self) -> None:
        need_int("head_dim", self.head_dim)
        need_int("heads", self.heads)
        need_int("tokens_per_slot", self.tokens_per_slot)
        if type(self.shared) is not bool:
            raise ModelFileError(
                "shared must be true or false", fix="write true, or leave it out", field="shared", value=self.shared
            )

    def lower(self) -> tuple[Component, ...]:
        """index_key: replicated on every TP rank, like the latent it belongs to."""
        if self.shared:
            return ()
        law = Linear() if self.tokens_per_slot == 1 else Strided(self.tokens_per_slot)
        width = self.heads * self.head_dim
        return (Component(name="index_key", role="index", law=law, parts=whole_part(width)),)
