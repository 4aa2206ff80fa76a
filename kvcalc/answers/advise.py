"""`advise`: does the load fit, what binds, what would change that, which other models hold it. No formula of its own:
it asks `fit`, `variants` and `offload`, and makes sentences of their numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from kvcalc.answers.advise_held import Judged, judge
from kvcalc.answers.advise_levers import Setting, levers
from kvcalc.answers.advise_models import ranked, similar
from kvcalc.answers.advise_words import Facts, bottleneck, decision, ranking_decision
from kvcalc.answers.common import Ask, engine_info, header, model_info
from kvcalc.answers.fit import tensor_parallel
from kvcalc.answers.variants import variants
from kvcalc.core.capacity import max_context
from kvcalc.core.exactness import weakest
from kvcalc.core.gpu import Gpu
from kvcalc.core.model import Model
from kvcalc.core.plan import Layout
from kvcalc.engines import LAYERWISE, get_engine
from kvcalc.errors import EngineRefusal, KvcalcError
from kvcalc.targets import Target

if TYPE_CHECKING:
    from kvcalc.core.result import VariantRecord

#: Models shown to a person.
ROWS = 10
_DIVIDED = "the largest tensor parallel degree that each model's engine takes, replicas where ranks would repeat heads"


class Shipped(NamedTuple):
    """What may be advised: the shipped models and GPUs."""

    models: Sequence[Model]
    gpus: Sequence[Gpu]
    rows: int = ROWS


def advise(target: Target, ask: Ask, gpu: Gpu, shipped: Shipped) -> dict[str, Any]:
    """The answer of `kvcalc advise T`.

    Raises: UsageError where the question itself is wrong; an engine's refusal is part of the answer.
    """
    now, refusal = _now(target, ask, gpu)
    layout = now.ready.setup.layout if now is not None else _layout(target, ask, gpu)
    setting = Setting(target, ask, gpu, layout, None if now is None else now.held)
    found = levers(setting, shipped.gpus, refusal)
    shapes, shape_engine, shape_note = _variants(target, setting.fixed, gpu)
    near = similar(target.model, shipped.models)
    results = ranked(near, ask, gpu, layout.ranks)
    engine, version = get_engine(ask.engine)
    facts = Facts(
        target.model,
        ask,
        gpu,
        layout.ranks,
        refusal,
        None if now is None else now.held,
        None if now is None else now.record,
        None if now is None else _crossover(now),
        found,
        shapes,
        shape_engine,
        results,
    )
    return {
        **header("advise", {"target": target.origin, **_inputs(ask, gpu, layout.ranks), "rows": shipped.rows}),
        "model": model_info(target),
        "engine": engine_info(engine, version),
        "exactness": weakest(target.exactness, "estimate" if now is None else now.record["exactness"]),
        "assumptions": _assumptions(target, now, layout.ranks, gpu),
        "warnings": [*([] if now is None else now.record["warnings"]), *shape_note],
        "now": None if now is None else now.held,
        "refusal": refusal,
        "bottleneck": bottleneck(facts),
        "per_session_bytes": None if now is None else now.record["per_session_bytes"],
        "fixed_bytes_per_session": None if now is None else now.record["fixed_bytes_per_session"],
        "marginal_bytes_per_token": None if now is None else now.record["marginal_bytes_per_token"],
        "mha_ratio": None if now is None else now.record["mha_ratio"],
        "cache_equals_weights_tokens": facts.crossover,
        "levers": found,
        "variants": shapes,
        "results": results,
        "decision": decision(facts),
    }


def advise_models(ask: Ask, gpu: Gpu, shipped: Shipped) -> dict[str, Any]:
    """The answer of `kvcalc advise` without a model: every shipped one on these GPUs, best first."""
    count = ask.gpu_count or 1
    engine, version = get_engine(ask.engine)
    results = ranked(shipped.models, ask, gpu, count)
    said = [] if ask.gpu_count else [f"1 GPU: no number was asked for (--gpu {gpu.name}:4)"]
    held = [row["held"]["exactness"] for row in results if row["held"] is not None]
    return {
        **header("advise", {"target": None, **_inputs(ask, gpu, count), "rows": shipped.rows}),
        "model": None,
        "engine": engine_info(engine, version),
        "exactness": weakest(*held) if held else "estimate",
        "assumptions": [*said, *([_DIVIDED] if count > 1 else [])],
        "warnings": [],
        **dict.fromkeys(("now", "refusal", "bottleneck", "per_session_bytes", "fixed_bytes_per_session")),
        **dict.fromkeys(("marginal_bytes_per_token", "mha_ratio", "cache_equals_weights_tokens")),
        "levers": [],
        "variants": [],
        "results": results,
        "decision": ranking_decision(results, ask, gpu, count),
    }


def _now(target: Target, ask: Ask, gpu: Gpu) -> tuple[Judged | None, str | None]:
    """What is asked, answered; or the engine's reason to refuse it."""
    try:
        return judge(target, ask, gpu), None
    except EngineRefusal as error:
        return None, str(error)


def _layout(target: Target, ask: Ask, gpu: Gpu) -> Layout:
    """The layout of a question that the engine refuses."""
    if get_engine(ask.engine)[0].name in LAYERWISE:
        return Layout(tp=ask.tp or 1, pp=ask.pp, dp=ask.dp, dcp=ask.dcp)
    try:
        tp, _ = tensor_parallel(target, ask, gpu)
    except EngineRefusal:
        tp = ask.tp or 1
    return Layout(tp=tp, pp=ask.pp, dp=ask.dp, dcp=ask.dcp)


def _inputs(ask: Ask, gpu: Gpu, count: int) -> dict[str, Any]:
    return {
        "context_tokens": ask.context_tokens,
        "sessions": ask.sessions,
        "kv_dtype": ask.kv_dtype,
        "weight_dtype": ask.weight_dtype,
        "engine_options": list(ask.engine_options),
        "gpu": gpu.name,
        "gpus": count,
        "tp": ask.tp,
        "pp": ask.pp,
        "dp": ask.dp,
        "dcp": ask.dcp,
        "ep": ask.ep,
    }


def _assumptions(target: Target, now: Judged | None, count: int, gpu: Gpu) -> list[str]:
    said = list(target.assumptions) if now is None else [*now.notes, *now.record["assumptions"]]
    return [
        *said,
        f"similar size: parameters within x 0.5 to x 2, all experts counted, on {count} x {gpu.name}",
        *([_DIVIDED] if count > 1 else []),
        "levers change one thing each and keep the rest",
    ]


def _crossover(now: Judged) -> int | None:
    """Tokens per session up to which the cache of the asked sessions is no larger than the weights, per GPU."""
    load = now.ready.load
    weights = now.held["weights_bytes"]
    return max_context(now.ready.planner, weights, sessions=load.sessions, encoder_tokens=load.encoder_tokens)


def _variants(target: Target, ask: Ask, gpu: Gpu) -> tuple[list[VariantRecord], str, list[str]]:
    """The rows of `variants`; under `ideal` where the engine refuses one of the alternatives."""
    note: list[str] = []
    for engine in dict.fromkeys((ask.engine, "ideal")):
        asked = ask if engine == ask.engine else ask._replace(engine=engine, engine_options=())
        try:
            rows: list[VariantRecord] = variants(target, asked, gpu)["results"]
        except KvcalcError as error:
            note = [f"attention variants by the tensor-level minimum: under {engine}: {error}"]
            last = str(error)
        else:
            return rows, engine, note
    return [], "", [f"no attention variants: {last}"]
