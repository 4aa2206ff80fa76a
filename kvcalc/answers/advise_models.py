"""The models of `advise`: which shipped ones hold the asked load on the asked GPUs, best first."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from kvcalc.answers.advise_held import better, on_gpus
from kvcalc.answers.common import Ask
from kvcalc.core.gpu import Gpu
from kvcalc.core.model import Model
from kvcalc.errors import KvcalcError
from kvcalc.targets import Target

if TYPE_CHECKING:
    from kvcalc.core.advised import AdvisedModel

#: "Similar size": at least half and at most twice the parameters, all experts counted.
SMALLER, LARGER = (1, 2), (2, 1)


def similar(model: Model, others: Iterable[Model]) -> list[Model]:
    """The models of similar size: parameters within x 0.5 to x 2; without the model itself."""
    size = model.parameters
    if size is None:
        return []
    low, high = -(-size * SMALLER[0] // SMALLER[1]), size * LARGER[0] // LARGER[1]
    return [
        other
        for other in others
        if other.name != model.name and other.parameters is not None and low <= other.parameters <= high
    ]


def ranked(models: Iterable[Model], ask: Ask, gpu: Gpu, count: int) -> list[AdvisedModel]:
    """Every model on `count` GPUs: those that hold the load first, by sessions; refused ones last, with the reason."""
    asked = ask._replace(gpu=gpu.name)
    return sorted((_row(model, asked, gpu, count) for model in models), key=_rank)


def _rank(row: AdvisedModel) -> tuple[bool, bool, bool, bool, float, float, str]:
    held = row["held"]
    if held is None:
        return (True, True, True, True, 0, 0, row["model"])
    fits, sessions, context, _ = better(held)
    return (False, not row["holds"], held["verdict"] != "FITS", not fits, -sessions, -context, row["model"])


def _row(model: Model, ask: Ask, gpu: Gpu, count: int) -> AdvisedModel:
    row: AdvisedModel = {
        "model": model.name,
        "kinds": model.kinds_summary(),
        "parameters": model.parameters,
        "model_max_context": model.max_context,
        "marginal_bytes_per_token": None,
        "holds": False,
        "why": "",
        "held": None,
    }
    try:
        found = on_gpus(Target(model=model, origin=f"registry:{model.name}"), ask, gpu, count)
    except KvcalcError as error:
        return {**row, "why": str(error)}
    held = found.held
    beyond = model.max_context is not None and ask.context_tokens > model.max_context
    why = "weights" if held["pool_bytes"] <= 0 else "memory" if not held["fits"] else "own limit" if beyond else "holds"
    rate = found.record["marginal_bytes_per_token"]
    return {**row, "marginal_bytes_per_token": rate, "holds": why == "holds", "why": why, "held": held}
