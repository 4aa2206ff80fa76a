"""`explain`: the formula with this model's integers in it, one product per array, and where it was read."""

from __future__ import annotations

from kvcalc.answers.common import Ask, header, prepare
from kvcalc.answers.size import cache_record
from kvcalc.core.gpu import Gpu
from kvcalc.core.plan import Tensor
from kvcalc.dtypes import DTYPES
from kvcalc.targets import Target

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from kvcalc.core.result import Term


def explain(target: Target, ask: Ask, gpu: Gpu | None = None) -> dict[str, Any]:
    """The answer of `kvcalc explain`: the size record and `terms`, whose bytes sum to one rank's bytes.

    Raises: UsageError, EngineRefusal.
    """
    ready = prepare(target, ask, gpu=gpu)
    plan = ready.planner.plan(ready.load)
    fullest = max(plan.ranks, key=lambda rank: rank.bytes)
    sources = {name: _source(type(kind)) for name, kind in target.model.blocks.items()}
    return {
        **header("explain", ready.inputs),
        **cache_record(ready),
        "terms": [_term(tensor, sources.get(tensor.block, "")) for tensor in fullest.tensors],
        "rank_bytes": fullest.bytes,
    }


def _source(cls: type) -> str:
    """The `Source:` paragraph of a kind's docstring, on one line."""
    text = cls.__doc__ or ""
    _, found, rest = text.partition("Source: ")
    return " ".join(rest.split("\n\n")[0].split()) if found else ""


def _term(tensor: Tensor, source: str) -> Term:
    sessions = tensor.shape[0]
    elements = 1
    for width in tensor.shape[2:]:
        elements *= width
    divisor = tensor.count * sessions * tensor.slots
    slot_bytes = tensor.bytes // divisor if divisor else 0
    dtype = DTYPES.get(tensor.dtype)
    per_element = (
        f"{dtype.block_bytes}/{dtype.block_elements}"
        if dtype and dtype.block_elements > 1
        else (str(dtype.block_bytes) if dtype else "?")
    )
    widths = " x ".join(f"{width:,}" for width in tensor.shape[2:])
    return {
        "component": tensor.name,
        "block": tensor.block,
        "kind": tensor.kind,
        "layers": tensor.count,
        "sessions": sessions,
        "slots": tensor.slots,
        "slots_rule": tensor.law,
        "elements_per_slot": elements,
        "bytes_per_slot": slot_bytes,
        "dtype": tensor.dtype,
        "bytes": tensor.bytes,
        "formula": f"layers {tensor.count:,} x sessions {sessions:,} x slots {tensor.slots:,} x elements {widths} "
        f"x {per_element} B = {tensor.bytes:,} B",
        "source": source,
    }
