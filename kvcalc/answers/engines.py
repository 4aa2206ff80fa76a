"""`compare --engines`: the same model under several engines, each by its own rules, and what makes them differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kvcalc.answers.common import Ask, prepare
from kvcalc.answers.compare import comparison, one
from kvcalc.core.gpu import Gpu
from kvcalc.engines import engine_names, get_engine
from kvcalc.errors import KvcalcError, UsageError
from kvcalc.targets import Target

if TYPE_CHECKING:
    from kvcalc.core.result import EngineFitRecord, FitRecord


def read_engines(text: str) -> list[str]:
    """`all`, or a list like `vllm,sglang@0.5.23`.

    Raises: UsageError for an unknown engine or version, or one named twice.
    """
    names = list(engine_names()) if text.strip().lower() == "all" else [part.strip() for part in text.split(",")]
    for name in names:
        get_engine(name)
    if len(set(names)) != len(names):
        raise UsageError(f"--engines {text} names an engine twice", fix="name each once", field="engines", value=text)
    return names


def compare_engines(targets: Sequence[Target], ask: Ask, gpu: Gpu | None, names: Sequence[str]) -> dict[str, Any]:
    """A compare answer with a record per target and engine that runs it, and `refused` for those that do not.

    Each record says in `differs` what sets its engine apart.

    Raises: UsageError when no engine runs any of the targets.
    """
    found: list[tuple[FitRecord, dict[str, Any]]] = []
    refused: list[dict[str, Any]] = []
    called: list[str] = []
    for target in targets:
        least = _minimum(target, ask)
        for name in names:
            try:
                record, inputs = one(target, ask._replace(engine=name), gpu)
            except KvcalcError as error:
                refused.append({"model": target.model.name, "engine": name, "reason": str(error), "fix": error.fix})
                continue
            differs = _differs(name, record["per_session_bytes"], least)
            full: EngineFitRecord = {**record, "differs": differs}
            found.append((full, inputs))
            called.append(name if len(targets) == 1 else f"{target.model.name} on {name}")
    if not found:
        raise UsageError(
            f"no engine of {', '.join(names)} runs this: {refused[0]['engine']}: {refused[0]['reason']}",
            fix=refused[0]["fix"],
            field="engines",
        )
    answer = comparison(targets, ask, found, called)
    answer["inputs"]["engines"] = list(names)
    return {**answer, "refused": refused}


def _minimum(target: Target, ask: Ask) -> int:
    """One session's bytes under `ideal`, the tensor-level minimum; 0 where even that refuses."""
    try:
        ready = prepare(target, ask._replace(engine="ideal", engine_options=()), tp=1, gpu=None)
        return ready.single.plan(ready.load._replace(sessions=1)).total_bytes
    except KvcalcError:
        return 0


def _differs(name: str, held: int, least: int) -> str:
    """One phrase: how much more than the minimum one session takes, and by which rule."""
    summary = get_engine(name)[0].summary
    return f"{held / least:.2f} x the minimum: {summary}" if least and held != least else summary
