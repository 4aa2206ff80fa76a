from __future__ import annotations

from kvcalc.cli.given import Given
from kvcalc.errors import EXIT_DOES_NOT_FIT, EXIT_OK


def run(given: Given) -> int:
    from kvcalc.answers.fit import fit

    ask, registry = given.ask(), given.registry()
    target = given.target(registry)
    answer = fit(target, ask, given.gpu(ask, registry))
    code = EXIT_OK if answer["fits"] else EXIT_DOES_NOT_FIT
    if given.values["measure"]:
        code = given.measure(answer, [answer], [target], ask) or code
    given.emit(answer)
    return code
