"""`size`: the bytes of a context x sessions, component by component."""

from __future__ import annotations

from kvcalc.answers.common import Ask, Prepared, engine_info, header, model_info, prepare
from kvcalc.core.capacity import growth
from kvcalc.core.exactness import weakest
from kvcalc.core.gpu import Gpu
from kvcalc.core.plan import CachePlan, Load, beyond
from kvcalc.targets import Target

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from kvcalc.core.result import CacheRecord, ComponentBytes


def size(target: Target, ask: Ask, gpu: Gpu | None = None) -> dict[str, Any]:
    """The answer of `kvcalc size`.

    Raises: UsageError, EngineRefusal.
    """
    ready = prepare(target, ask, gpu=gpu)
    return {**header("size", ready.inputs), **cache_record(ready)}


def cache_record(ready: Prepared) -> CacheRecord:
    """What the asked load takes on the asked layout, and one session's cost on an undivided copy."""
    load = ready.load
    plan = ready.planner.plan(load)
    alone = ready.single.plan(Load(load.context_tokens, 1, load.encoder_tokens))
    rate = growth(ready.single, encoder_tokens=load.encoder_tokens)
    return {
        "model": model_info(ready.target),
        "engine": engine_info(ready.engine, ready.setup.version),
        "exactness": weakest(ready.target.exactness, ready.planner.exactness),
        "assumptions": list(ready.assumptions),
        "warnings": [*ready.warnings, *([said] if (said := beyond(ready.planner, load)) else [])],
        "total_bytes": plan.total_bytes,
        "per_session_bytes": alone.total_bytes,
        "fixed_bytes_per_session": rate.fixed_bytes,
        "marginal_bytes_per_token": rate.marginal_bytes,
        "ranks": [{"rank": rank, "bytes": size_} for rank, size_ in plan.by_rank().items()],
        "components": components(plan),
        "engine_report": ready.planner.report(load),
    }


def components(plan: CachePlan) -> list[ComponentBytes]:
    """The plan's tensors summed over ranks: one row per array of one block."""
    rows: dict[tuple[str, str, str], ComponentBytes] = {}
    layers: dict[tuple[str, str, str], set[int]] = {}
    for rank in plan.ranks:
        for tensor in rank.tensors:
            key = (tensor.block, tensor.name, tensor.dtype)
            row = rows.get(key)
            if row is None:
                row = rows[key] = {
                    "name": tensor.name,
                    "kind": tensor.kind,
                    "block": tensor.block,
                    "layers": 0,
                    "law": tensor.law,
                    "slots": tensor.slots,
                    "dtype": tensor.dtype,
                    "bytes": 0,
                }
            layers.setdefault(key, set()).update(tensor.layers)
            row["bytes"] += tensor.bytes * len(rank.ranks)
    for key, row in rows.items():
        row["layers"] = len(layers[key])
    return list(rows.values())
