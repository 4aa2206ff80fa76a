"""`compare`: models side by side on the same GPU: bytes per token, cache, ratio to MHA, context, sessions."""

from __future__ import annotations

from collections.abc import Sequence

from kvcalc.answers.common import Ask, header, prepare
from kvcalc.answers.fit import fit_record, tensor_parallel
from kvcalc.core.exactness import weakest
from kvcalc.core.gpu import Gpu
from kvcalc.targets import Target

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from kvcalc.core.result import FitRecord


def compare(targets: Sequence[Target], ask: Ask, gpu: Gpu | None) -> dict[str, Any]:
    """The answer of `kvcalc compare`: a fit record and `mha_ratio` per target, in the order asked.

    Raises: UsageError, EngineRefusal.
    """
    return comparison(targets, ask, [one(target, ask, gpu) for target in targets])


def comparison(
    targets: Sequence[Target],
    ask: Ask,
    results: Sequence[tuple[FitRecord, dict[str, Any]]],
    called: Sequence[str] | None = None,
) -> dict[str, Any]:
    """The answer of these records, each with the inputs it was made from.

    called: what each record is called where its model's name does not tell it from the others.
    """
    inputs = {key: value for key, value in results[0][1].items() if key != "tp"}
    records = [record for record, _ in results]
    named = list(zip(called or [record["model"]["name"] for record in records], records, strict=True))
    return {
        **header("compare", {"targets": [target.origin for target in targets], **inputs, "tp": ask.tp}),
        "engine": records[0]["engine"],
        "exactness": weakest(*(record["exactness"] for record in records)),
        "assumptions": gathered([(name, text) for name, record in named for text in record["assumptions"]], len(named)),
        "warnings": gathered([(name, text) for name, record in named for text in record["warnings"]], len(named)),
        "results": records,
    }


def one(target: Target, ask: Ask, gpu: Gpu | None) -> tuple[FitRecord, dict[str, Any]]:
    """The record of one target under the asked engine, and the inputs it was made from."""
    tp, notes = tensor_parallel(target, ask, gpu)
    ready = prepare(target, ask, tp=tp, gpu=gpu)
    record = fit_record(ready, ask, gpu)
    record["assumptions"] = [*notes, *record["assumptions"]]
    return record, ready.inputs


def gathered(said: list[tuple[str, str]], models: int) -> list[str]:
    """Each sentence once; which models it is about, unless it is about all."""
    about: dict[str, list[str]] = {}
    for name, text in said:
        about.setdefault(text, []).append(name)
    return [text if len(names) == models else f"{', '.join(names)}: {text}" for text, names in about.items()]
