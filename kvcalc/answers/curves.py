"""`plot`: the numbers of a picture: cache or sessions against context, or the memory of a GPU, per model and engine.

Every value is the answer of the same planner that `size` and `fit` ask; nothing is interpolated here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from kvcalc.answers.common import Ask, Prepared, engine_info, header, model_info, prepare
from kvcalc.answers.compare import gathered, one
from kvcalc.answers.fit import gpu_info, grown, layout_info, pool_of, tensor_parallel
from kvcalc.core.capacity import max_sessions
from kvcalc.core.exactness import weakest
from kvcalc.core.gpu import Gpu
from kvcalc.core.plan import Load, Planner
from kvcalc.dtypes import get_dtype
from kvcalc.engines import get_engine
from kvcalc.errors import EngineRefusal, KvcalcError, UsageError, short
from kvcalc.targets import Target

if TYPE_CHECKING:
    from kvcalc.core.drawn import Curve, CurvePoint, LedgerBar, SessionsPoint

WHAT = ("context", "sessions", "ledger")
#: Contexts between a power of two and the next; integers, because 2**k * 8 / 8 is one from k = 3 on.
PER_OCTAVE = 8
#: More lines than a person can tell apart.
MAX_SERIES = 24
#: Where the axis ends when no model says how long it may be.
DEFAULT_LAST = 131072


class Wanted(NamedTuple):
    """What to draw. first, last: contexts in tokens, None: from the models; kv_dtypes: None is the model's own."""

    what: str = "context"
    engines: tuple[str, ...] = ("ideal",)
    kv_dtypes: tuple[str | None, ...] = (None,)
    first: int | None = None
    last: int | None = None
    scale: str = "log"


class Single(NamedTuple):
    """One line or bar to be: which model, under which engine, in which type, and what it is called."""

    target: Target
    engine: str
    kv_dtype: str | None
    name: str


def curves(targets: Sequence[Target], ask: Ask, gpu: Gpu | None, wanted: Wanted) -> dict[str, Any]:
    """The answer of `kvcalc plot`: a record per target, engine and type; those that refuse are named with the reason.

    gpu: None only for `context`, or together with `ask.pool_bytes`.

    Raises: UsageError, EngineRefusal: nothing can be drawn, or nobody could read it.
    """
    singles = _singles(targets, wanted)
    first, last = span([target.model.max_context for target in targets], wanted)
    found: list[Curve | LedgerBar] = []
    said: list[tuple[str, str, str]] = []
    refused: list[dict[str, Any]] = []
    errors: list[KvcalcError] = []
    for single in singles:
        asked = ask._replace(engine=single.engine, kv_dtype=single.kv_dtype)
        if wanted.what != "ledger":
            asked = asked._replace(context_tokens=first)
        try:
            record, notes = _record(single, asked, gpu, (wanted.what, first, last))
        except KvcalcError as error:
            errors.append(error)
            refused.append({"model": single.target.model.name, **_why(single, error)})
            continue
        found.append(record)
        said.extend((word, single.name, text) for word, text in notes)
    if not found:
        raise errors[0]
    return {
        **header("plot", _inputs(targets, ask, wanted, (first, last))),
        "exactness": weakest(*(record["exactness"] for record in found)),
        "assumptions": gathered([(name, text) for word, name, text in said if word == "assumed"], len(found)),
        "warnings": gathered([(name, text) for word, name, text in said if word == "warning"], len(found)),
        "results": found,
        "refused": refused,
    }


def _why(single: Single, error: KvcalcError) -> dict[str, Any]:
    return {"engine": single.engine, "reason": str(error), "fix": error.fix}


def _inputs(targets: Sequence[Target], ask: Ask, wanted: Wanted, ends: tuple[int, int]) -> dict[str, Any]:
    """What decides the picture, as it was resolved."""
    ledger = wanted.what == "ledger"
    return {
        "targets": [target.origin for target in targets],
        "what": wanted.what,
        "scale": wanted.scale,
        "engines": list(wanted.engines),
        "kv_dtypes": list(wanted.kv_dtypes),
        "first_tokens": None if ledger else ends[0],
        "last_tokens": None if ledger else ends[1],
        "context_tokens": ask.context_tokens if ledger else None,
        "sessions": None if wanted.what == "sessions" else ask.sessions,
        "engine_options": list(ask.engine_options),
        "gpu": ask.gpu,
        "tp": ask.tp,
        "pp": ask.pp,
        "dp": ask.dp,
        "dcp": ask.dcp,
        "pool_bytes": ask.pool_bytes,
    }


def _singles(targets: Sequence[Target], wanted: Wanted) -> list[Single]:
    """Every combination, named by what sets it apart from the others.

    Raises: UsageError for an unknown engine or type, or for more than a picture can show.
    """
    for engine in wanted.engines:
        get_engine(engine)
    number = len(targets) * len(wanted.engines) * len(wanted.kv_dtypes)
    if number > MAX_SERIES:
        raise UsageError(
            f"{number} series are more than one picture shows",
            fix=f"draw up to {MAX_SERIES} models x engines x types",
            field="targets",
        )
    names = [target.model.name for target in targets]
    several = len(targets) > 1 or number == 1
    found: list[Single] = []
    for target in targets:
        alike = names.count(target.model.name) > 1
        for engine in wanted.engines:
            for kv_dtype in wanted.kv_dtypes:
                words = [
                    *([f"{target.model.name} ({target.origin})" if alike else target.model.name] if several else []),
                    *([f"on {engine}" if several else engine] if len(wanted.engines) > 1 else []),
                    *([f"in {_shown(target, kv_dtype)}"] if len(wanted.kv_dtypes) > 1 else []),
                ]
                name = " ".join(words).removeprefix("in ")
                again = sum(single.name.partition(" #")[0] == name for single in found)
                found.append(Single(target, engine, kv_dtype, f"{name} #{again + 1}" if again else name))
    return found


def _shown(target: Target, kv_dtype: str | None) -> str:
    if kv_dtype is None:
        return target.model.cache_dtype or target.model.dtype
    return kv_dtype if "=" in kv_dtype else get_dtype(kv_dtype, field="kv-dtype").name


def span(limits: Sequence[int | None], wanted: Wanted) -> tuple[int, int]:
    """First and last context: asked for, else 1k (or a sixteenth of the end) to the longest that a model allows.

    Raises: UsageError when nothing is between them.

    >>> span([8192, None], Wanted())
    (512, 8192)
    """
    last = wanted.last or max((limit for limit in limits if limit is not None), default=DEFAULT_LAST)
    if wanted.last is None and wanted.first is not None:
        last = max(last, 2 * wanted.first)
    first = wanted.first or min(1024, max(last // 16, 1))
    if first >= last:
        raise UsageError(
            f"from {short(first)} to {short(last)} tokens there is nothing to draw",
            fix="give --from a smaller number than --to",
            field="to",
        )
    return first, last


def grid(first: int, last: int, marks: Sequence[int] = ()) -> list[int]:
    """Rising contexts: both ends, the powers of two between them, seven more in each octave, and the marks.

    >>> grid(4, 9)
    [4, 5, 6, 7, 8, 9]
    """
    found = {first, last, *(mark for mark in marks if first <= mark <= last)}
    power = 1
    while power <= last:
        found.update(power * part // PER_OCTAVE for part in range(PER_OCTAVE, 2 * PER_OCTAVE))
        power *= 2
    return sorted(tokens for tokens in found if first <= tokens <= last)


def _record(
    single: Single, ask: Ask, gpu: Gpu | None, drawn: tuple[str, int, int]
) -> tuple[Curve | LedgerBar, list[tuple[str, str]]]:
    """One line or bar, and what has to be said beside it. drawn: what, first and last context.

    Raises: UsageError, EngineRefusal.
    """
    what, first, last = drawn
    if what == "ledger":
        return _bar(single, ask, gpu)
    tp, notes = tensor_parallel(single.target, ask, gpu) if what == "sessions" else (ask.tp or 1, [])
    ready = prepare(single.target, ask, tp=tp, gpu=gpu)
    marks = [ready.planner.saturation_tokens, single.target.model.max_context or 0]
    contexts = grid(first, last, marks)
    label = weakest(single.target.exactness, ready.planner.exactness)
    said = [*(("assumed", text) for text in [*notes, *ready.assumptions]), *(("warning", t) for t in ready.warnings)]
    points: list[CurvePoint | SessionsPoint]
    if what == "sessions":
        ledger = pool_of(single.target, ask, gpu, ready.setup.layout)
        label = weakest(label, *(line["exactness"] for line in ledger.lines))
        said += [("assumed", text) for text in ledger.assumptions] + [("warning", text) for text in ledger.warnings]
        points = each_point(contexts, lambda tokens: _held(ready, ask, gpu, tokens), said)
    else:
        points = each_point(
            contexts, lambda tokens: _taken(ready.planner, ready.load._replace(context_tokens=tokens)), said
        )
    record: Curve = {
        "name": single.name,
        "model": model_info(single.target),
        "engine": engine_info(ready.engine, ready.setup.version),
        "kv_dtype": {"key": ready.setup.dtypes.key, "value": ready.setup.dtypes.value},
        "layout": layout_info(ready.setup.layout, ep=ask.ep),
        "exactness": label,
        "gpu": None if gpu is None else gpu_info(gpu, ready.setup.layout),
        "points": points,
    }
    return record, said


def each_point(
    contexts: Sequence[int], at: Callable[[int], CurvePoint | SessionsPoint], said: list[tuple[str, str]]
) -> list[CurvePoint | SessionsPoint]:
    """A point per context that the engine takes; the others are told, and when there are none that is the answer.

    Raises: EngineRefusal.
    """
    points, last = [], None
    left_out = []
    for tokens in contexts:
        try:
            points.append(at(tokens))
        except EngineRefusal as error:
            last = error
            left_out.append(tokens)
    if last is not None:
        if not points:
            raise last
        said.append(("warning", f"not drawn from {left_out[0]:,} to {left_out[-1]:,} tokens: {last}"))
    return points


def _taken(planner: Planner, load: Load) -> CurvePoint:
    plan = planner.plan(load)
    tokens = load.context_tokens
    return {"context_tokens": tokens, "total_bytes": plan.total_bytes, "rank_bytes": plan.max_rank_bytes}


def _held(ready: Prepared, ask: Ask, gpu: Gpu | None, tokens: int) -> SessionsPoint:
    """Sessions of `tokens` tokens; the ledger is asked again, because some engines' buffers grow with the context."""
    ask = ask._replace(context_tokens=tokens)
    ledger = pool_of(ready.target, ask, gpu, ready.setup.layout)
    encoder = ready.load.encoder_tokens
    pools = (ledger.pool_bytes, ledger.low_pool_bytes, ledger.high_pool_bytes)
    held = {
        pool: max_sessions(ready.planner, pool, context_tokens=tokens, encoder_tokens=encoder, beside=beside)
        for pool, beside in dict(zip(pools, grown(ready.target, ask, gpu, ready.setup.layout), strict=True)).items()
    }
    best, low, high = (held[pool] for pool in pools)
    return {
        "context_tokens": tokens,
        "pool_bytes": pools[0],
        "max_sessions": best,
        "low_sessions": low,
        "high_sessions": high,
    }


def _bar(single: Single, ask: Ask, gpu: Gpu | None) -> tuple[LedgerBar, list[tuple[str, str]]]:
    """The memory of the GPU as `fit` counts it."""
    record, inputs = one(single.target, ask, gpu)
    said = [("assumed", text) for text in record["assumptions"]] + [("warning", t) for t in record["warnings"]]
    bar: LedgerBar = {
        "name": single.name,
        "model": record["model"],
        "engine": record["engine"],
        "kv_dtype": inputs["kv_dtype"],
        "layout": record["layout"],
        "exactness": record["exactness"],
        "gpu": record["gpu"],
        "ledger": record["ledger"],
        "pool_bytes": record["pool_bytes"],
        "pool_low_bytes": record["pool_low_bytes"],
        "pool_high_bytes": record["pool_high_bytes"],
        "needed_bytes": max(rank["bytes"] for rank in record["ranks"]),
        "verdict": record["verdict"],
    }
    return bar, said
