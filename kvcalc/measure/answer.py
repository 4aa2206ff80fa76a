"""The answer of `kvcalc measure`, and the measurement beside the answers of size, fit and compare."""

from __future__ import annotations

from typing import Any

from kvcalc.answers.common import Ask, Prepared, engine_info, header, model_info, prepare
from kvcalc.core.gpu import Gpu
from kvcalc.core.plan import CachePlan
from kvcalc.errors import UsageError
from kvcalc.measure.full import Progress, until_full
from kvcalc.measure.report import measure_load
from kvcalc.measure.torch_backend import Device
from kvcalc.targets import Target
from kvcalc.units import gib


def measure(  # the parts of one command
    target: Target,
    ask: Ask,
    device: Device,
    *,
    gpu: Gpu | None = None,
    full: bool = False,
    limit_bytes: int | None = None,
    progress: Progress | None = None,
    rank: int | None = None,
) -> dict[str, Any]:
    """The answer of `kvcalc measure`: the engine's plan, allocated.

    gpu: whose architecture the engine plans for; rank: of this process in a distributed run, which measures its own
    plan alone.

    Raises: UsageError, EngineRefusal, CannotMeasure.
    """
    ready = prepare(target, ask, gpu=gpu)
    record = measure_load(ready.planner, ready.load, device, rank=rank)
    answer = {**frame(ready, ask, cache="plan"), **record}
    answer["assumptions"] += notes(ready.planner.plan(ready.load), rank=rank)
    if full:
        found = until_full(ready.planner, ready.load, device, limit_bytes=limit_bytes, progress=progress)
        answer["until_full"] = found
        answer["equal"] = answer["equal"] and found["equal"]
    return answer


def frame(ready: Prepared, ask: Ask, *, cache: str) -> dict[str, Any]:
    """The fields of the answer that are not measured. `inputs.asked` is what `--check` asks again."""
    inputs = {"target": ready.target.origin, "cache": cache, **ready.inputs, "asked": ask._asdict()}
    return {
        **header("measure", inputs),
        "model": model_info(ready.target),
        "engine": engine_info(ready.engine, ready.setup.version),
        "exactness": "measured",
        "assumptions": list(ready.assumptions),
        "warnings": list(ready.warnings),
        "cache": cache,
    }


def notes(plan: CachePlan, *, rank: int | None = None) -> list[str]:
    """What of the plan was allocated once for several ranks, or not at all."""
    equal = [group for group in plan.ranks if len(group.ranks) > 1] if rank is None else []
    said = [f"{len(group.ranks)} ranks hold equal tensors: allocated once ({gib(group.bytes)})" for group in equal]
    if plan.host is not None and plan.host.bytes:
        said.append(f"{gib(plan.host.bytes)} that the engine keeps in the host's memory are not measured")
    return said


def attach(record: dict[str, Any], target: Target, ask: Ask, device: Device, *, gpu: Gpu | None = None) -> list[str]:
    """Measure what a size, fit or compare record predicts and put it there; what has to be said beside it.

    Raises: CannotMeasure.
    """
    layout = record.get("layout")
    ready = prepare(target, ask, tp=layout["tp"] if layout else None, gpu=gpu)
    record["measured"] = measure_load(ready.planner, ready.load, device)
    return notes(ready.planner.plan(ready.load))


def asked_again(inputs: dict[str, Any]) -> Ask:
    """The question of a saved answer.

    Raises: UsageError where this version does not know one of its options.
    """
    asked = dict(inputs.get("asked") or {})
    options = asked.pop("engine_options", ())
    try:
        return Ask(**asked, engine_options=tuple(options))
    except TypeError:
        raise UsageError(
            "the saved answer asks with options that this version does not have", fix="measure again", field="asked"
        ) from None
