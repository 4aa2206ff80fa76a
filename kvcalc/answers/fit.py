"""`fit`: the GPU's memory line by line, the longest context and the most sessions it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvcalc.answers.common import Ask, Prepared, header, prepare
from kvcalc.answers.size import cache_record
from kvcalc.core.capacity import max_context, max_sessions
from kvcalc.core.exactness import weakest
from kvcalc.core.gpu import Gpu
from kvcalc.core.plan import Layout
from kvcalc.dtypes import DTYPES
from kvcalc.engines import LAYERWISE, get_engine
from kvcalc.errors import UsageError
from kvcalc.planning.ledger import Ledger, build_ledger
from kvcalc.targets import Target

if TYPE_CHECKING:
    from kvcalc.core.result import FitRecord, GpuInfo

#: Where the automatic layout stops looking for one that holds the weights.
MAX_AUTO_TP = 64


def fit(target: Target, ask: Ask, gpu: Gpu | None) -> dict[str, Any]:
    """The answer of `kvcalc fit`.

    gpu: None only together with `ask.pool_bytes`.

    Raises: UsageError, EngineRefusal.
    """
    tp, notes = tensor_parallel(target, ask, gpu)
    ready = prepare(target, ask, tp=tp, gpu=gpu)
    record = fit_record(ready, ask, gpu)
    record["assumptions"] = [*notes, *record["assumptions"]]
    return {**header("fit", ready.inputs), **record}


def tensor_parallel(target: Target, ask: Ask, gpu: Gpu | None) -> tuple[int, list[str]]:
    """The TP degree: asked for, else from the GPU count, else the smallest power of two that holds the weights.

    Raises: UsageError when the count and the asked layout contradict.
    """
    others = ask.pp * ask.dp
    if get_engine(ask.engine)[0].name in LAYERWISE:
        return _layerwise(ask), []
    if ask.gpu_count is not None:
        tp = ask.tp or max(ask.gpu_count // others, 1)
        if tp * others != ask.gpu_count:
            raise UsageError(
                f"{ask.gpu_count} GPUs are not tp {tp} x pp {ask.pp} x dp {ask.dp}",
                fix=f"give --gpu NAME:{tp * others}, or degrees whose product is {ask.gpu_count}",
                field="gpu",
            )
        return tp, [] if ask.tp else [f"tensor parallel {tp}: all {ask.gpu_count} GPUs"]
    if ask.tp is not None:
        return ask.tp, []
    if ask.pool_bytes is not None or gpu is None:
        return 1, []
    tp = 1
    while tp < MAX_AUTO_TP and _ledger(target, ask, gpu, tp).pool_bytes <= 0:
        tp *= 2
    if _ledger(target, ask, gpu, tp).pool_bytes <= 0:
        return tp, [f"tensor parallel {tp}: no power of two up to it holds the weights"]
    return tp, [f"tensor parallel {tp}: the smallest power of two that holds the weights"]


def _layerwise(ask: Ask) -> int:
    """An engine that divides a model by layers takes one GPU unless --pp says more; what is left stays on the host."""
    if ask.gpu_count is not None and ask.gpu_count != ask.pp * ask.dp:
        raise UsageError(
            f"{ask.engine} divides a model between {ask.gpu_count} GPUs by layers",
            fix=f"add --pp {max(ask.gpu_count // ask.dp, 1)}",
            field="gpu",
        )
    return ask.tp or 1


def _ledger(target: Target, ask: Ask, gpu: Gpu, tp: int) -> Ledger:
    layout = Layout(tp=tp, pp=ask.pp, dp=ask.dp, dcp=ask.dcp)
    return build_ledger(target.model, gpu, layout, weight_dtype=ask.weight_dtype, overhead=ask.overhead_bytes)


def fit_record(ready: Prepared, ask: Ask, gpu: Gpu | None) -> FitRecord:
    """The cache record and what of it fits in the pool of one GPU."""
    layout = ready.setup.layout
    if ask.pool_bytes is not None:
        _check_pool_alone(ask)
        ledger = Ledger(({"item": "pool", "bytes": ask.pool_bytes, "source": "--pool", "exactness": "exact"},))
    elif gpu is not None:
        ledger = _ledger(ready.target, ask, gpu, layout.tp)
    else:
        raise UsageError("neither a GPU nor a pool is given", fix="add --gpu NAME or --pool BYTES", field="gpu")
    pool = ledger.pool_bytes
    load = ready.load
    fits = pool > 0 and ready.planner.plan(load).max_rank_bytes <= pool
    context = max_context(ready.planner, pool, sessions=load.sessions, encoder_tokens=load.encoder_tokens)
    sessions = max_sessions(ready.planner, pool, context_tokens=load.context_tokens, encoder_tokens=load.encoder_tokens)
    limit = ready.target.model.max_context
    base = cache_record(ready)
    labels = (base["exactness"], *(line["exactness"] for line in ledger.lines))
    return {
        **base,
        "exactness": weakest(*labels),
        "engine_report": ready.planner.report(load, pool),
        "gpu": None if gpu is None else _gpu_info(gpu, layout),
        "layout": {"tp": layout.tp, "pp": layout.pp, "dp": layout.dp, "dcp": layout.dcp},
        "ledger": list(ledger.lines),
        "pool_bytes": pool,
        "fits": fits,
        "max_context_tokens": context,
        "model_max_context": limit,
        "usable_context_tokens": _smaller(context, limit),
        "max_sessions": sessions,
        "binding_limit": _binding(pool, context, limit, fits=fits),
        "mha_ratio": mha_ratio(ready, base["per_session_bytes"]),
    }


def _check_pool_alone(ask: Ask) -> None:
    """A pool is what is left after weights and overhead: neither can change it any more.

    Raises: UsageError.
    """
    for name, value in (("weight-dtype", ask.weight_dtype), ("overhead", ask.overhead_bytes)):
        if value is not None:
            raise UsageError(
                f"--{name} changes nothing beside --pool",
                fix=f"drop --{name}, or give --gpu without --pool",
                field=name,
            )


def _gpu_info(gpu: Gpu, layout: Layout) -> GpuInfo:
    return {"name": gpu.name, "count": layout.ranks, "total_bytes": gpu.total_bytes, "total_is": gpu.total_is}


def _smaller(context: int | None, limit: int | None) -> int | None:
    return min((value for value in (context, limit) if value is not None), default=None)


def _binding(pool: int, context: int | None, limit: int | None, *, fits: bool) -> str:
    """What stops a longer context: weights, memory, or the model itself."""
    if pool <= 0:
        return "weights"
    if not fits or (context is not None and (limit is None or context < limit)):
        return "memory"
    return "none" if limit is None else "model_max_context"


def mha_ratio(ready: Prepared, per_session_bytes: int) -> float | None:
    """The cache of one session over that of the model's own MHA form, same dtypes; None where undefined.

    MHA form: K and V for every query head at the model's own head dims, full length, no state.
    """
    key, value = DTYPES[ready.setup.dtypes.key], DTYPES[ready.setup.dtypes.value]
    # Multiplied out so that block types (34 bytes per 32 elements) stay integers until the division.
    scale = key.block_elements * value.block_elements
    per_token = ready.target.model.mha_bytes_per_token(
        key.block_bytes * value.block_elements, value.block_bytes * key.block_elements
    )
    if not per_token:
        return None
    return per_session_bytes * scale / (per_token * ready.load.context_tokens)
