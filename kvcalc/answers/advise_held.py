"""What `advise` asks of one setting: the fit record of a model on so many GPUs, in short."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from kvcalc.answers.common import Ask, Prepared, prepare
from kvcalc.answers.fit import fit_record, tensor_parallel
from kvcalc.core.gpu import Gpu
from kvcalc.core.model import Model
from kvcalc.engines import LAYERWISE, get_engine
from kvcalc.errors import EngineRefusal, KvcalcError
from kvcalc.kinds.heads import HeadAttention
from kvcalc.kinds.latent import LatentAttention
from kvcalc.planning.layouts import Division, divisors
from kvcalc.targets import Target

if TYPE_CHECKING:
    from kvcalc.core.advised import HeldRecord
    from kvcalc.core.result import FitRecord


class Judged(NamedTuple):
    """One setting, answered."""

    ready: Prepared
    record: FitRecord
    held: HeldRecord
    notes: list[str]


def judge(target: Target, ask: Ask, gpu: Gpu) -> Judged:
    """The fit record of one setting and its short form.

    Raises: UsageError, EngineRefusal.
    """
    tp, notes = tensor_parallel(target, ask, gpu)
    ready = prepare(target, ask, tp=tp, gpu=gpu)
    record = fit_record(ready, ask, gpu)
    return Judged(ready, record, _held(ready, record, gpu), notes)


def _held(ready: Prepared, record: FitRecord, gpu: Gpu) -> HeldRecord:
    load = ready.load
    need = ready.planner.plan(load).max_rank_bytes
    return {
        "gpu": gpu.name,
        "gpus": ready.setup.layout.ranks,
        "layout": record["layout"],
        "kv_dtype": ready.setup.dtypes.key,
        "context_tokens": load.context_tokens,
        "sessions": load.sessions,
        "gpu_bytes": record["ledger"][0]["bytes"],
        "weights_bytes": -sum(line["bytes"] for line in record["ledger"] if line["item"] == "weights"),
        "pool_bytes": record["pool_bytes"],
        "needed_bytes": need,
        "spare_bytes": record["pool_bytes"] - need,
        "fits": record["fits"],
        "verdict": record["verdict"],
        "max_context_tokens": record["max_context_tokens"],
        "model_max_context": record["model_max_context"],
        "max_sessions": record["max_sessions"],
        "low_sessions": record["low_sessions"],
        "binding_limit": record["binding_limit"],
        "exactness": record["exactness"],
    }


def divided(ask: Ask, division: Division) -> Ask:
    """The question under one layout."""
    layout = division.layout
    return ask._replace(
        tp=layout.tp, pp=layout.pp, dp=layout.dp, dcp=layout.dcp, ep=division.ep, gpu_count=layout.ranks
    )


def on_gpus(target: Target, ask: Ask, gpu: Gpu, count: int) -> Judged:
    """A model on exactly `count` GPUs: the best of TP and replicas, as its engine takes them.

    Replicas are only looked at where the engine refuses the TP degree or its ranks would store the same heads.

    Raises: the first refusal where no division is taken.
    """
    first: KvcalcError | None = None
    best: Judged | None = None
    layerwise = get_engine(ask.engine)[0].name in LAYERWISE
    alone = ask._replace(dcp=1, ep=False, gpu_count=count)
    for replicas in divisors(count):
        each = count // replicas
        asked = alone._replace(tp=1, pp=each, dp=replicas) if layerwise else alone._replace(tp=each, pp=1, dp=replicas)
        try:
            found = judge(target, asked, gpu)
        except KvcalcError as error:
            first = first or error
            continue
        best = found if best is None or better(found.held) > better(best.held) else best
        if layerwise or not _repeats(target.model, each):
            break
    if best is not None:
        return best
    raise first or EngineRefusal(f"no layout of {count} GPUs", fix="ask for another number of GPUs")


def _repeats(model: Model, tp: int) -> bool:
    """Whether some of `tp` ranks would store the same heads, or every one the same latent."""
    return (
        any(
            isinstance(kind, LatentAttention) or (isinstance(kind, HeadAttention) and kind.kv_heads < tp)
            for kind in model.blocks.values()
        )
        and tp > 1
    )


def better(held: HeldRecord) -> tuple[bool, float, float, int]:
    """Sort key, best last: holds the load, most sessions, longest context, fewest GPUs."""
    return (held["fits"], number(held["max_sessions"]), number(held["max_context_tokens"]), -held["gpus"])


def number(value: int | None) -> float:
    """None is unlimited."""
    return float("inf") if value is None else value
