"""`report`: what a planner sends around: the answers of compare, fit, plot and sessions about the same models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from kvcalc.answers.common import Ask, header
from kvcalc.answers.compare import compare, gathered
from kvcalc.answers.curves import Wanted, curves
from kvcalc.answers.fit import fit
from kvcalc.answers.sessions import Question, sessions
from kvcalc.core.exactness import weakest
from kvcalc.core.gpu import Gpu
from kvcalc.errors import KvcalcError
from kvcalc.targets import Target


class Wish(NamedTuple):
    """question: request lengths, and `session_ask` the options they are asked with; None: no workload is given."""

    command_line: str
    question: Question | None = None
    session_ask: Ask | None = None


def report(targets: Sequence[Target], ask: Ask, gpu: Gpu | None, wish: Wish) -> dict[str, Any]:
    """The answer of `kvcalc report`; models that the engine refuses are named and left out.

    Raises: UsageError, EngineRefusal: nothing is left.
    """
    found: list[dict[str, Any]] = []
    taken: list[Target] = []
    refused: list[dict[str, Any]] = []
    said: list[tuple[str, str]] = []
    errors: list[KvcalcError] = []
    for target in targets:
        name = target.model.name
        try:
            fitted = fit(target, ask, gpu)
        except KvcalcError as error:
            errors.append(error)
            refused.append({"model": name, "engine": ask.engine, "reason": str(error), "fix": error.fix})
            continue
        held, why = _sessions(target, gpu, wish)
        said += [(name, f"no sessions of these lengths: {why}")] if why else []
        found.append({"name": name, "fit": fitted, "sessions": held})
        taken.append(target)
    if not found:
        raise errors[0]
    compared = compare(taken, ask, gpu)
    return {
        **header("report", {**compared["inputs"], "workload": wish.question is not None}),
        "command_line": wish.command_line,
        "exactness": weakest(compared["exactness"], *(record["sessions"]["exactness"] for record in _held(found))),
        "assumptions": [],
        "warnings": gathered(said, len(found)),
        "compare": compared,
        "results": found,
        "curves": _curves(taken, ask, gpu),
        "refused": refused,
    }


def _held(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [record for record in found if record["sessions"] is not None]


def _sessions(target: Target, gpu: Gpu | None, wish: Wish) -> tuple[dict[str, Any] | None, str]:
    """The `sessions` answer, or why there is none (empty: nobody asked)."""
    if wish.question is None or wish.session_ask is None:
        return None, ""
    try:
        return sessions(target, wish.session_ask, gpu, wish.question), ""
    except KvcalcError as error:
        return None, str(error)


def _curves(targets: Sequence[Target], ask: Ask, gpu: Gpu | None) -> list[dict[str, Any]]:
    """The three pictures; without a GPU there is no memory to divide."""
    drawn = ("context", "sessions") if gpu is None else ("context", "sessions", "ledger")
    found = []
    for what in drawn:
        wanted = Wanted(what=what, engines=(ask.engine,), kv_dtypes=(ask.kv_dtype,))
        asked = ask._replace(sessions=1) if what == "sessions" else ask
        found.append(curves(targets, asked, gpu, wanted))
    return found
