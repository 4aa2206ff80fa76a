"""Every way a layer caches. This is the one list: schema, docs and tests walk it.

To add a kind: its dataclass in a file of this package, and its name in `KIND_CLASSES` and `AnyKind`.
"""

from __future__ import annotations

from typing import get_args

from kvcalc.kinds.compressed import CompressedAttention
from kvcalc.kinds.heads import HeadAttention
from kvcalc.kinds.indexer import Indexer
from kvcalc.kinds.latent import LatentAttention
from kvcalc.kinds.linear import GatedDeltaNet, KimiDeltaAttention, LightningAttention
from kvcalc.kinds.other import CrossAttention, NoCache, SharedCache
from kvcalc.kinds.recurrent import RgLru, Rwkv, ShortConv
from kvcalc.kinds.ssm import Mamba1, Mamba2

AnyKind = (
    HeadAttention
    | LatentAttention
    | CompressedAttention
    | Mamba1
    | Mamba2
    | GatedDeltaNet
    | KimiDeltaAttention
    | LightningAttention
    | RgLru
    | Rwkv
    | ShortConv
    | CrossAttention
    | SharedCache
    | NoCache
)

KIND_CLASSES: tuple[type[AnyKind], ...] = get_args(AnyKind)


def _tags(cls: type[AnyKind]) -> tuple[str, ...]:
    from typing import get_type_hints

    return get_args(get_type_hints(cls)["kind"])


def kinds_by_tag() -> dict[str, type[AnyKind]]:
    """YAML tag -> class, in the order of the list above."""
    return {tag: cls for cls in KIND_CLASSES for tag in _tags(cls)}


__all__ = ["KIND_CLASSES", "AnyKind", "Indexer", "kinds_by_tag"]
