from __future__ import annotations

from kvcalc.cli.given import Given


def run(given: Given) -> int:
    from kvcalc.answers.sessions import Question, sessions
    from kvcalc.cli.workloads import read_targets, read_workload
    from kvcalc.units import MAX_SESSIONS

    ask, registry = given.ask(), given.registry()
    question = Question(read_workload(given), read_targets(given), given.whole("sessions", most=MAX_SESSIONS))
    if given.values.get("context") is None:
        ask = ask._replace(context_tokens=question.workload.longest + question.workload.shared_prompt)
    given.emit(sessions(given.target(registry), ask._replace(sessions=1), given.gpu(ask, registry), question))
    return 0
