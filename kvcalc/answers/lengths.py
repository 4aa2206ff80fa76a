"""`fit --workload`: beside what fits at the asked context, how many sessions of real lengths the same GPUs hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvcalc.answers.fit import Required, fit
from kvcalc.answers.sessions import Question, case_of, held_record, missing_bytes

if TYPE_CHECKING:
    from kvcalc.answers.common import Ask
    from kvcalc.core.gpu import Gpu
    from kvcalc.core.result import Requirement
    from kvcalc.targets import Target


def fit_lengths(
    target: Target, asks: tuple[Ask, Ask], gpu: Gpu | None, required: Required, question: Question
) -> dict[str, Any]:
    """The answer of `kvcalc fit` with `at_lengths`, which is what `kvcalc sessions` says of the same layout.

    asks: of `fit`, and of `sessions`. A required number of sessions is one of sessions of these lengths.

    Raises: UsageError, EngineRefusal.
    """
    answer = fit(target, asks[0], gpu, required._replace(require_sessions=None))
    case = case_of(target, asks[1]._replace(tp=answer["layout"]["tp"]), gpu, question.workload)
    record = held_record(case, question)
    said = [*case.ledger.assumptions, *question.workload.notes, *case.rule.notes]
    requirements: list[Requirement] = []
    if (number := required.require_sessions) is not None:
        held = record["max_sessions"]
        met = held is None or held >= number
        missing = 0 if met else missing_bytes(case, question, number)
        what = "sessions of these lengths"
        requirements = [{"what": what, "required": number, "held": held, "met": met, "missing_bytes": missing}]
    return {
        **answer,
        "inputs": {**answer["inputs"], **required._asdict(), **question.targets._asdict()},
        "assumptions": list(dict.fromkeys([*answer["assumptions"], *said])),
        "requirements": [*requirements, *answer["requirements"]],
        "at_lengths": record,
    }
