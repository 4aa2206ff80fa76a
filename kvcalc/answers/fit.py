"""`fit`: the GPU's memory line by line, the longest context and the most sessions it holds."""

from __future__ import annotations

from contextlib import suppress

from kvcalc.answers.common import Ask, Prepared, header, prepare
from kvcalc.answers.size import cache_record
from kvcalc.core.capacity import Beside, max_context, max_sessions, nothing
from kvcalc.core.exactness import weakest
from kvcalc.core.gpu import Gpu
from kvcalc.core.light import NamedTuple
from kvcalc.core.plan import Layout, Load, beyond
from kvcalc.dtypes import DTYPES
from kvcalc.engines import LAYERWISE, NARROW_TYPE, get_engine
from kvcalc.engines.base import read_options
from kvcalc.errors import KvcalcError, UsageError
from kvcalc.planning.ledger import Ledger, LedgerAsk, build_ledger, follows_load, levers, pool_only
from kvcalc.targets import Target

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from kvcalc.core.result import Advice, FitRecord, GpuInfo, LayoutInfo, Requirement

#: Where the automatic layout stops looking for one that holds the weights.
MAX_AUTO_TP = 64


def fit(target: Target, ask: Ask, gpu: Gpu | None, required: Required | None = None) -> dict[str, Any]:
    """The answer of `kvcalc fit`.

    gpu: None only together with `ask.pool_bytes`.

    Raises: UsageError, EngineRefusal.
    """
    required = required or Required()
    tp, notes = tensor_parallel(target, ask, gpu)
    ready = prepare(target, ask, tp=tp, gpu=gpu)
    record = fit_record(ready, ask, gpu)
    record["assumptions"] = [*notes, *record["assumptions"]]
    return {
        **header("fit", {**ready.inputs, **required._asdict()}),
        **record,
        "requirements": _requirements(ready, record, required),
        "advice": _advice(target, ask, gpu, ready, record),
    }


class Required(NamedTuple):
    """What the answer must hold (a gate for scripts); None: nothing asked."""

    require_sessions: int | None = None
    require_context: int | None = None


def _requirements(ready: Prepared, record: FitRecord, required: Required) -> list[Requirement]:
    """Each asked requirement with what is held, and what is missing where it is not."""
    load, pool = ready.load, record["pool_bytes"]
    limit = record["usable_context_tokens"]
    asked = (
        ("sessions", required.require_sessions, record["max_sessions"]),
        ("tokens of context", required.require_context, limit),
    )
    found: list[Requirement] = []
    for what, number, held in asked:
        if number is not None:
            wanted = load._replace(sessions=number) if what == "sessions" else load._replace(context_tokens=number)
            need = ready.planner.plan(wanted).max_rank_bytes
            met = held is None or held >= number
            missing = 0 if met else max(need - max(pool, 0), 0)
            found.append({"what": what, "required": number, "held": held, "met": met, "missing_bytes": missing})
    return found


def _advice(target: Target, ask: Ask, gpu: Gpu | None, ready: Prepared, record: FitRecord) -> list[Advice]:
    """Changes that leave more for the cache (or need less), the largest first."""
    found: list[Advice] = []
    if gpu is not None and ask.pool_bytes is None:
        changes = levers(ledger_ask(target, ask, gpu, ready.setup.layout))
        found = [{"change": lever.change, "gain_bytes": lever.gain_bytes} for lever in changes]
    if record["verdict"] != "FITS" and ask.kv_dtype is None and ready.setup.dtypes.key in ("bfloat16", "float16"):
        need = max(rank["bytes"] for rank in record["ranks"])
        with suppress(KvcalcError):
            narrow = NARROW_TYPE.get(ready.engine.name, "fp8")
            other = prepare(target, ask._replace(kv_dtype=narrow), tp=ready.setup.layout.tp, gpu=gpu)
            gain = need - other.planner.plan(ready.load).max_rank_bytes
            found.append({"change": f"--kv-dtype {narrow}", "gain_bytes": gain})
    return sorted((item for item in found if item["gain_bytes"] > 0), key=lambda item: -item["gain_bytes"])


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


def ledger_ask(target: Target, ask: Ask, gpu: Gpu, layout: Layout) -> LedgerAsk:
    """What the ledger of this question depends on."""
    engine, version = get_engine(ask.engine)
    return LedgerAsk(
        model=target.model,
        gpu=gpu,
        layout=layout,
        engine=engine.name,
        version=version,
        options=read_options(engine, ask.engine_options),
        load=Load(ask.context_tokens, ask.sessions),
        weight_dtype=ask.weight_dtype,
        expert_parallel=ask.ep,
        lora=ask.lora,
        overhead_bytes=ask.overhead_bytes,
        total_bytes=ask.gpu_total_bytes,
        log=ask.log,
    )


def _ledger(target: Target, ask: Ask, gpu: Gpu, tp: int) -> Ledger:
    return build_ledger(ledger_ask(target, ask, gpu, Layout(tp=tp, pp=ask.pp, dp=ask.dp, dcp=ask.dcp)))


def pool_of(target: Target, ask: Ask, gpu: Gpu | None, layout: Layout) -> Ledger:
    """The ledger of one GPU: the given pool, a log's pool, or the lines of the GPU.

    Raises: UsageError where nothing says how much memory there is.
    """
    if ask.pool_bytes is not None:
        _check_pool_alone(ask)
        return pool_only(ask.pool_bytes, "user", "--pool")
    if gpu is not None:
        return build_ledger(ledger_ask(target, ask, gpu, layout))
    if ask.log is not None and ask.log.pool_bytes is not None:
        return pool_only(ask.log.pool_bytes, "log", "the pool the engine printed")
    raise UsageError("neither a GPU nor a pool is given", fix="add --gpu NAME or --pool BYTES", field="gpu")


def fit_record(ready: Prepared, ask: Ask, gpu: Gpu | None, ledger: Ledger | None = None) -> FitRecord:
    """The cache record and what of it fits in the pool of one GPU. ledger: of another model with the same weights."""
    layout = ready.setup.layout
    ledger = ledger or pool_of(ready.target, ask, gpu, layout)
    pool, low, high = ledger.pool_bytes, ledger.low_pool_bytes, ledger.high_pool_bytes
    load, planner = ready.load, ready.planner
    more = grown(ready.target, ask, gpu, layout)
    context, sessions = _held(ready, pool, more.best)
    low_context, low_sessions = (context, sessions) if low == pool else _held(ready, low, more.low)
    limit = ready.target.model.max_context
    served, options = beyond(planner, load) is None, options_bind(ready, context)
    need = planner.plan(load).max_rank_bytes
    judged = judge(need, (pool, low, high), context, limit, served=served, options=options)
    base = cache_record(ready)
    base["assumptions"] += ledger.assumptions
    base["warnings"] += ledger.warnings
    labels = (base["exactness"], *(line["exactness"] for line in ledger.lines))
    return {
        **base,
        "exactness": weakest(*labels),
        "engine_report": planner.report(load, pool),
        "gpu": None if gpu is None else gpu_info(gpu, layout),
        "layout": layout_info(layout, ep=ask.ep),
        "ledger": list(ledger.lines),
        "pool_bytes": pool,
        "pool_low_bytes": low,
        "pool_high_bytes": high,
        "fits": judged.fits,
        "verdict": judged.verdict,
        "max_context_tokens": context,
        "low_context_tokens": low_context,
        "model_max_context": limit,
        "usable_context_tokens": judged.usable_context_tokens,
        "max_sessions": sessions,
        "low_sessions": low_sessions,
        "binding_limit": judged.binding_limit,
        "mha_ratio": mha_ratio(ready, base["per_session_bytes"]),
    }


class Grown(NamedTuple):
    """What another load than the asked one takes from the pool beside its cache."""

    best: Beside = nothing
    low: Beside = nothing
    high: Beside = nothing


def grown(target: Target, ask: Ask, gpu: Gpu | None, layout: Layout) -> Grown:
    """The ledger of another load less the ledger of the asked one, where the engine's buffers grow with the load."""
    if gpu is None or ask.pool_bytes is not None:
        return Grown()
    here = ledger_ask(target, ask, gpu, layout)
    if not follows_load(here):
        return Grown()
    now = build_ledger(here)

    def at(load: Load) -> Ledger:
        return build_ledger(here._replace(load=load))

    return Grown(
        lambda load: now.pool_bytes - at(load).pool_bytes,
        lambda load: now.low_pool_bytes - at(load).low_pool_bytes,
        lambda load: now.high_pool_bytes - at(load).high_pool_bytes,
    )


def _held(ready: Prepared, pool: int, beside: Beside) -> tuple[int | None, int | None]:
    """Longest context of the asked sessions, most sessions of the asked context."""
    load, planner, encoder = ready.load, ready.planner, ready.load.encoder_tokens
    return (
        max_context(planner, pool, sessions=load.sessions, encoder_tokens=encoder, beside=beside),
        max_sessions(planner, pool, context_tokens=load.context_tokens, encoder_tokens=encoder, beside=beside),
    )


def layout_info(layout: Layout, *, ep: bool) -> LayoutInfo:
    return {
        "tp": layout.tp,
        "pp": layout.pp,
        "dp": layout.dp,
        "dcp": layout.dcp,
        "ep": layout.tp * layout.dp if ep else 1,
    }


class Judged(NamedTuple):
    """What a pool means for a load."""

    fits: bool
    verdict: str
    usable_context_tokens: int | None
    binding_limit: str


def judge(
    need: int,
    pools: tuple[int, int, int],
    context: int | None,
    limit: int | None,
    *,
    served: bool = True,
    options: bool = False,
) -> Judged:
    """Whether `need` bytes per GPU fit, and what stops a longer context.

    pools: (best guess, worst case, best case); context: the longest that memory allows; limit: the model's own.
    served: whether the engine's options serve the load; options: whether they stop a longer context.
    """
    pool, low, high = pools
    fits = served and 0 < pool >= need
    return Judged(
        fits=fits,
        verdict=_verdict(need, low, high) if served else "DOES NOT FIT",
        usable_context_tokens=_smaller(context, limit),
        binding_limit=_binding(pool, context, limit, fits=fits, options=options),
    )


def _verdict(need: int, low: int, high: int) -> str:
    """FITS even in the worst case, DOES NOT FIT even in the best, else BORDERLINE."""
    if 0 < low >= need:
        return "FITS"
    return "BORDERLINE" if 0 < high >= need else "DOES NOT FIT"


def _check_pool_alone(ask: Ask) -> None:
    """A pool is what is left after weights and overhead: neither can change it any more.

    Raises: UsageError.
    """
    asked = (
        ("weight-dtype", ask.weight_dtype),
        ("lora", ask.lora),
        ("overhead", ask.overhead_bytes),
        ("gpu-total", ask.gpu_total_bytes),
    )
    for name, value in (*asked, ("from-log", ask.from_log)):
        if value is not None:
            raise UsageError(
                f"--{name} changes nothing beside --pool",
                fix=f"drop --{name}, or give --gpu without --pool",
                field=name,
            )


def gpu_info(gpu: Gpu, layout: Layout) -> GpuInfo:
    return {"name": gpu.name, "count": layout.ranks, "total_bytes": gpu.total_bytes, "total_is": gpu.total_is}


def _smaller(context: int | None, limit: int | None) -> int | None:
    return min((value for value in (context, limit) if value is not None), default=None)


def options_bind(ready: Prepared, context: int | None) -> bool:
    """Whether the engine's own options stop the asked load, or the token after the longest context."""
    longer = ready.load if context is None else ready.load._replace(context_tokens=context + 1)
    return any(beyond(ready.planner, load) is not None for load in (ready.load, longer))


def _binding(pool: int, context: int | None, limit: int | None, *, fits: bool, options: bool) -> str:
    """What stops a longer context: weights, the engine's options, memory, or the model itself."""
    if pool <= 0:
        return "weights"
    if options and (context is None or limit is None or context < limit):
        return "options"
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
