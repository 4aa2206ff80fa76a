"""`compare --layouts`: the same GPUs, the model divided in several ways."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kvcalc.answers.common import Ask, prepare
from kvcalc.answers.compare import comparison
from kvcalc.answers.fit import fit_record
from kvcalc.core.gpu import Gpu
from kvcalc.core.plan import Layout
from kvcalc.errors import EngineRefusal, KvcalcError, ModelFileError, UsageError
from kvcalc.planning.layouts import Division, read_divisions, replicas_per_type
from kvcalc.targets import Target

if TYPE_CHECKING:
    from kvcalc.core.result import FitRecord

#: GPU types with their numbers.
Fleet = Sequence[tuple[Gpu, int]]


def compare_layouts(targets: Sequence[Target], ask: Ask, fleet: Fleet, text: str) -> dict[str, Any]:
    """The answer of `kvcalc compare --layouts`: one record per target and layout, in the order asked.

    Layouts that the engine refuses are left out of `all`, with a warning that says why.

    Raises: UsageError, EngineRefusal.
    """
    gpus = sum(count for _, count in fleet)
    every = text.strip().lower() == "all"
    results: list[tuple[FitRecord, dict[str, Any]]] = []
    refused: list[str] = []
    for target in targets:
        for division in read_divisions(text, target.model, gpus):
            try:
                results.append(divided(target, ask, fleet, division))
            except KvcalcError as error:
                if not every or isinstance(error, ModelFileError):
                    raise
                refused.append(f"{division.name} left out: {error}")
    if not results:
        raise UsageError(f"no layout of {gpus} GPUs works: {refused[0]}", fix="try fewer or more GPUs", field="layouts")
    answer = comparison(targets, ask, results)
    answer["inputs"] = {**answer["inputs"], "layouts": text, "gpus": gpus}
    answer["warnings"] = [*answer["warnings"], *dict.fromkeys(refused)]
    return answer


def divided(target: Target, ask: Ask, fleet: Fleet, division: Division) -> tuple[FitRecord, dict[str, Any]]:
    """The record of one layout; replicas of several GPU types add up, the smallest pool is shown.

    Raises: UsageError where a type has too few GPUs for one replica, EngineRefusal.
    """
    counts = [count for _, count in fleet]
    replicas = replicas_per_type(counts, division.replica_gpus)
    if len(fleet) > 1 and sum(replicas) < division.layout.dp:
        raise EngineRefusal(
            f"replicas of {division.replica_gpus} GPUs do not divide the GPUs of each type: {counts}",
            fix="choose tp x pp that divides the number of each type",
            field="layouts",
        )
    found = []
    for (gpu, _), share in zip(fleet, replicas, strict=True):
        layout = division.layout if len(fleet) == 1 else division.layout._replace(dp=share)
        found.append(_one(target, ask._replace(ep=division.ep), gpu, layout))
    record, inputs = min(found, key=lambda item: item[0]["pool_bytes"])
    if len(found) > 1:
        record["max_sessions"] = _sum([item["max_sessions"] for item, _ in found])
        record["low_sessions"] = _sum([item["low_sessions"] for item, _ in found])
        record["layout"]["dp"] = division.layout.dp
        names = " + ".join(f"{count} {gpu.name}" for gpu, count in fleet)
        record["assumptions"] = [*record["assumptions"], f"mixed GPUs {names}: memory of the smaller, sessions of all"]
    return record, inputs


def _one(target: Target, ask: Ask, gpu: Gpu, layout: Layout) -> tuple[FitRecord, dict[str, Any]]:
    asked = ask._replace(tp=layout.tp, pp=layout.pp, dp=layout.dp, dcp=layout.dcp, gpu_count=None)
    ready = prepare(target, asked, gpu=gpu)
    return fit_record(ready, asked, gpu), ready.inputs


def _sum(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
