from __future__ import annotations

from kvcalc.cli.given import Given
from kvcalc.errors import EXIT_OK


def run(given: Given) -> int:
    from kvcalc.answers.compare import compare

    ask, registry = given.ask(), given.registry()
    gpu, notes = given.gpu_or_default(ask, registry)
    targets = given.targets(registry)
    answer = compare(targets, ask, gpu)
    answer["assumptions"] = [*notes, *answer["assumptions"]]
    code = EXIT_OK
    if given.values["measure"]:
        code = given.measure(answer, answer["results"], targets, ask)
    given.emit(answer)
    return code
