"""`explain`: the formula with this model's integers in it, one product per array, and where it was read."""

from __future__ import annotations

from math import prod

from kvcalc.answers.common import Ask, header, prepare
from kvcalc.answers.size import cache_record
from kvcalc.core.gpu import Gpu
from kvcalc.core.plan import Load, Tensor
from kvcalc.dtypes import get_dtype
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
        "terms": [_term(tensor, ready.load, sources.get(tensor.block, "")) for tensor in fullest.tensors],
        "rank_bytes": fullest.bytes,
    }


def _source(cls: type) -> str:
    """The `Source:` paragraph of a kind's docstring, on one line."""
    text = cls.__doc__ or ""
    _, found, rest = text.partition("Source: ")
    return " ".join(rest.split("\n\n")[0].split()) if found else ""


def _term(tensor: Tensor, load: Load, source: str) -> Term:
    """One array as a product: by session and slot, or by the shape of a pool that all sessions share."""
    dtype, shape = get_dtype(tensor.dtype), tensor.shape
    each = shape[:2] == (load.sessions, tensor.slots)
    sessions = load.sessions if each else 1
    slots = sessions * tensor.slots
    factors = [f"layers {tensor.count:,}", f"sessions {sessions:,}", f"slots {tensor.slots:,}"]
    if not each:
        factors = [f"tensors {tensor.count:,}"]
    if widths := shape[2:] if each else shape:
        factors.append(("elements " if each else "shape ") + " x ".join(f"{width:,}" for width in widths))
    size = f"{dtype.block_bytes}" if dtype.block_elements == 1 else f"{dtype.block_bytes}/{dtype.block_elements}"
    return {
        "component": tensor.name,
        "block": tensor.block,
        "kind": tensor.kind,
        "layers": tensor.count,
        "sessions": sessions,
        "slots": tensor.slots,
        "slots_rule": tensor.law,
        "elements_per_slot": prod(shape) // slots if slots else 0,
        "bytes_per_slot": tensor.bytes // (tensor.count * slots) if tensor.count * slots else 0,
        "dtype": tensor.dtype,
        "bytes": tensor.bytes,
        "formula": f"{' x '.join(factors)} x {size} B = {tensor.bytes:,} B",
        "source": source,
    }
