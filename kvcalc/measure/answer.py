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
from kvcalc.units import MAX_BYTES, MAX_SESSIONS, MAX_TOKENS, gib


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
    asked = inputs.get("asked")
    if not isinstance(asked, dict) or not all(_known(name, value) for name, value in asked.items()):
        raise UsageError(
            "the saved answer asks with options that this version does not have", fix="measure again", field="asked"
        )
    return Ask(**{**asked, "engine_options": tuple(asked.get("engine_options", ()))})


#: What a measurement can be asked with -> the type it is saved as, and the most it can be.
_WHOLE = {
    "context_tokens": MAX_TOKENS, "sessions": MAX_SESSIONS, "tp": 4096, "pp": 4096, "dp": 4096, "dcp": 4096,
    "gpu_count": 4096, "encoder_tokens": MAX_SESSIONS, "pool_bytes": MAX_BYTES, "overhead_bytes": MAX_BYTES,
    "gpu_total_bytes": MAX_BYTES,
}  # fmt: skip
_TEXTS = ("kv_dtype", "state_dtype", "index_dtype", "engine", "gpu", "weight_dtype", "from_log")


def _known(name: str, value: object) -> bool:
    """Whether a field of `Ask` can have this value in a saved answer."""
    field = Ask._field_defaults.get(name, Ask)  # Ask: no such field
    if field is Ask or value is None:
        return field is None
    if name in _WHOLE:
        return type(value) is int and (name == "encoder_tokens" or value > 0) and 0 <= value <= _WHOLE[name]
    if name == "engine_options":
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    return isinstance(value, str) if name in _TEXTS else name == "ep" and type(value) is bool
