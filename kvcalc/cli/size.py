from __future__ import annotations

from kvcalc.cli.given import Given
from kvcalc.errors import EXIT_OK


def run(given: Given) -> int:
    from kvcalc.answers.size import size

    ask, registry = given.ask(), given.registry()
    gpu = given.card(ask, registry)
    target = given.target(registry)
    answer = size(target, ask, gpu)
    code = given.measure(answer, [answer], [target], ask, gpu) if given.values["measure"] else EXIT_OK
    given.emit(answer)
    return code
