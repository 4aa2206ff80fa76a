from __future__ import annotations

from kvcalc.cli.given import Given
from kvcalc.errors import EXIT_DOES_NOT_FIT, EXIT_OK


def run(given: Given) -> int:
    from kvcalc.answers.fit import fit

    ask, registry = given.ask(), given.registry()
    answer = fit(given.target(registry), ask, given.gpu(ask, registry))
    given.emit(answer)
    return EXIT_OK if answer["fits"] else EXIT_DOES_NOT_FIT
