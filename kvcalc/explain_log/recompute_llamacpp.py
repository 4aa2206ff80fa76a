"""llama.cpp and Ollama: every cache line of the log against the llama.cpp engine."""

from __future__ import annotations

import re
from typing import Any

from kvcalc.core.model import Model
from kvcalc.core.plan import CachePlan, Load, Tensor
from kvcalc.dtypes import get_dtype
from kvcalc.engines import get_engine
from kvcalc.engines.base import CacheDtypes, Setup
from kvcalc.errors import UsageError
from kvcalc.explain_log.compare import Computed, record
from kvcalc.explain_log.facts import Fact, Found

_ENGINE = "llama.cpp"
#: llama.cpp's default: -np 1 in its tools, one context for all.
_DEFAULT_TYPE = "float16"


def recompute_llamacpp(found: Found, model: Model, notes: list[str]) -> list[dict[str, Any]]:
    """Bytes of each cache the log names, by its number of cells.

    Raises: KvcalcError where the rules do not take the model.
    """
    cells = _context(found)
    if cells is None:
        notes.append("no context in the log")
        return []
    slots = found.number("n_seq_max") or 1
    key, value = (_type(found, name, notes) for name in ("type_k", "type_v"))
    options: dict[str, object] = {"n_ctx": cells, "n_parallel": slots}
    if slots > 1 and found.number("n_stream") == 1:
        options["kv_unified"] = True
    if (batch := found.number("n_ubatch")) is not None:
        options["n_ubatch"] = batch
    engine, version = get_engine(_ENGINE)
    types = CacheDtypes(key=key, value=value, index=key, pending="float32", conv="float32", state="float32")
    planner = engine.prepare(model, Setup(version, types, options=options))
    tensors = _tensors(planner.plan(Load(max(cells // slots, 1), slots)))
    rows = [record(fact, _held(fact, tensors)) for fact in _caches(found)]
    for row in rows:
        if row["verdict"] == "differs":
            row["why"] = "another cache type, batch, slots or file than the log shows"
    return rows


def _context(found: Found) -> int | None:
    """n_ctx: the cells of the largest cache over all its streams, else as printed."""
    cells = max((int(fact.value) for name in ("cells", "full_cells") for fact in found.all(name)), default=0)
    return cells * (found.number("n_stream") or 1) or found.number("n_ctx")


def _type(found: Found, name: str, notes: list[str]) -> str:
    fact = found.first(name)
    if fact is None:
        notes.append(f"cache {name} f16: the log does not state it")
        return _DEFAULT_TYPE
    try:
        return get_dtype(str(fact.value), field=name).name
    except UsageError:
        notes.append(f"cache {name} {fact.value} is not known: f16 instead")
        return _DEFAULT_TYPE


def _tensors(plan: CachePlan) -> list[Tensor]:
    """Every tensor of the server, host's included where the plan has them."""
    host = getattr(plan, "host", None)
    ranks = [tensor for rank in plan.ranks for tensor in rank.tensors]
    return ranks + (list(host.tensors) if host is not None else [])


def _caches(found: Found) -> list[Fact]:
    """One fact per printed cache; its cells stand in the same line."""
    return [fact for fact in found.facts if fact.name in ("cache_bytes", "state_bytes")]


def _held(fact: Fact, tensors: list[Tensor]) -> Computed:
    """Bytes of the tensors with the cells of the fact's line; without cells, all of its sort."""
    states = fact.name == "state_bytes"
    mine = [tensor for tensor in tensors if (tensor.law == "constant") == states]
    sizes = {tensor.slots for tensor in mine}
    cells = {size for size in sizes if re.search(rf"\b{size} cells", fact.text)}
    size = sum(tensor.bytes for tensor in mine if not cells or tensor.slots in cells)
    return Computed(fact.name, size, size)
