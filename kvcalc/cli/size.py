from __future__ import annotations

from kvcalc.cli.given import Given
from kvcalc.errors import EXIT_OK


def run(given: Given) -> int:
    from kvcalc.answers.size import size

    ask, registry = given.ask(), given.registry()
    if ask.gpu is not None:
        registry.gpu(ask.gpu)
    target = given.target(registry)
    answer = size(target, ask)
    code = given.measure(answer, [answer], [target], ask) if given.values["measure"] else EXIT_OK
    given.emit(answer)
    return code
