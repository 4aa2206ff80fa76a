"""Attention that caches a key and a value per KV head: MHA, MQA and GQA, full, sliding or chunked."""

from __future__ import annotations

from collections.abc import Mapping

from kvcalc.core.component import Component, heads_part
from kvcalc.core.light import Literal, Record
from kvcalc.core.model import Kind
from kvcalc.errors import ModelFileError, short
from kvcalc.kinds._check import need_divides, need_int, need_optional_int
from kvcalc.kinds._retention import check_retention, retention_law
from kvcalc.kinds.indexer import Indexer


class HeadAttention(Record):
    """`groups` KV heads serve `heads` query heads: mha has groups = heads, mqa groups = 1, gqa between.

    Stored per kept token: groups x head_dim key elements and groups x v_head_dim value elements
    (`tied_kv`: K and V are one array, stored once).

    Source: mha: arXiv:1706.03762 section 3.2.2; mqa: arXiv:1911.02150 section 3; gqa: arXiv:2305.13245
    section 2.2; unequal K and V widths: MiMo-V2 config `v_head_dim`; tied_kv: DeepSeek-V4 window layers,
    transformers 5.23 deepseek_v4/modeling_deepseek_v4.py:189.

    >>> [c.elements_per_slot for c in HeadAttention(kind="gqa", heads=32, groups=8, head_dim=128).lower()]
    [1024, 1024]
    """

    kind: Literal["mha", "mqa", "gqa"]
    heads: int
    head_dim: int
    groups: int | None = None
    v_head_dim: int | None = None
    window: int | None = None
    chunk: int | None = None
    sinks: int = 0
    tied_kv: bool = False
    indexer: Indexer | None = None

    def __post_init__(self) -> None:
        need_int("heads", self.heads)
        need_int("head_dim", self.head_dim)
        need_optional_int("groups", self.groups)
        need_optional_int("v_head_dim", self.v_head_dim)
        check_retention(self.window, self.chunk, self.sinks)
        if self.kind == "gqa" and self.groups is None:
            raise ModelFileError(
                "gqa needs groups (the number of KV heads)",
                fix="add groups: num_key_value_heads of the config, or use kind mha or mqa",
                field="groups",
            )
        implied = {"mha": self.heads, "mqa": 1}.get(self.kind)
        if implied is not None and self.groups not in (None, implied):
            raise ModelFileError(
                f"{self.kind} means groups = {implied}, but groups is {self.groups}",
                fix=f"drop groups, or use kind: gqa with groups: {self.groups}",
                field="groups",
                value=self.groups,
            )
        need_divides("heads", self.heads, "groups", self.kv_heads)
        if type(self.tied_kv) is not bool:
            raise ModelFileError(
                f"tied_kv must be true or false, not {short(self.tied_kv)}",
                fix="write true, or leave it out",
                field="tied_kv",
            )
        if self.tied_kv and self.v_head_dim not in (None, self.head_dim):
            raise ModelFileError(
                f"tied_kv stores one array for K and V, but v_head_dim ({self.v_head_dim}) is not "
                f"head_dim ({self.head_dim})",
                fix="drop v_head_dim or tied_kv",
                field="v_head_dim",
                value=self.v_head_dim,
            )

    @property
    def kv_heads(self) -> int:
        """KV heads stored per token."""
        if self.groups is not None:
            return self.groups
        return 1 if self.kind == "mqa" else self.heads

    @property
    def value_dim(self) -> int:
        return self.head_dim if self.v_head_dim is None else self.v_head_dim

    def lower(self) -> tuple[Component, ...]:
        """key [groups, head_dim], value [groups, v_head_dim] per kept token; then the indexer's key."""
        law = retention_law(self.window, self.chunk, self.sinks)
        key = Component(name="key", role="key", law=law, parts=heads_part(self.kv_heads, self.head_dim))
        value = Component(name="value", role="value", law=law, parts=heads_part(self.kv_heads, self.value_dim))
        side = self.indexer.lower() if self.indexer is not None else ()
        return (key, *side) if self.tied_kv else (key, value, *side)

    def mha_widths(self, blocks: Mapping[str, Kind]) -> tuple[int, int] | None:
        return self.heads * self.head_dim, self.heads * self.value_dim
