"""Every way a layer caches. This is the one list: schema, docs and tests walk it.

To add a kind: its record in a file of this package, and its line in `_KINDS`. Modules are imported when a model
needs them: a start pays for every class it defines.
"""

from __future__ import annotations

from functools import reduce
from importlib import import_module
from operator import or_

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from kvcalc.core.model import Kind

#: YAML tag -> (module of this package, class). One class may have several tags.
_KINDS = {
    "mha": ("heads", "HeadAttention"),
    "mqa": ("heads", "HeadAttention"),
    "gqa": ("heads", "HeadAttention"),
    "mla": ("latent", "LatentAttention"),
    "csa": ("compressed", "CompressedAttention"),
    "hca": ("compressed", "CompressedAttention"),
    "mamba1": ("ssm", "Mamba1"),
    "mamba2": ("ssm", "Mamba2"),
    "gated_deltanet": ("linear", "GatedDeltaNet"),
    "kda": ("linear", "KimiDeltaAttention"),
    "lightning": ("linear", "LightningAttention"),
    "mlstm": ("linear", "MatrixLstm"),
    "rglru": ("recurrent", "RgLru"),
    "rwkv": ("recurrent", "Rwkv"),
    "short_conv": ("recurrent", "ShortConv"),
    "cross": ("other", "CrossAttention"),
    "shared": ("other", "SharedCache"),
    "none": ("other", "NoCache"),
}

KIND_TAGS: tuple[str, ...] = tuple(_KINDS)


def kind_class(tag: str) -> type[Kind]:
    """The class of a YAML tag; KeyError for an unknown one."""
    module, name = _KINDS[tag]
    found: type[Kind] = getattr(import_module(f"kvcalc.kinds.{module}"), name)
    return found


def kinds_by_tag() -> dict[str, type[Kind]]:
    """Every tag with its class, in the order of the list."""
    return {tag: kind_class(tag) for tag in _KINDS}


def any_kind() -> Any:
    """The union of all classes, for pydantic's discriminated union."""
    return reduce(or_, dict.fromkeys(kinds_by_tag().values()))
