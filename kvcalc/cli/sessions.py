from __future__ import annotations

from kvcalc.cli.given import Given


def run(given: Given) -> int:
    from kvcalc.answers.sessions import sessions
    from kvcalc.cli.workloads import read_question

    ask, registry = given.ask(), given.registry()
    question, ask = read_question(given, ask)
    given.emit(sessions(given.target(registry), ask, given.gpu(ask, registry), question))
    return 0
