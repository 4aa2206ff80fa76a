from __future__ import annotations

from kvcalc.cli.given import Given


def run(given: Given) -> int:
    from kvcalc.answers.compare import compare

    ask, registry = given.ask(), given.registry()
    gpu, notes = given.gpu_or_default(ask, registry)
    answer = compare(given.targets(registry), ask, gpu)
    answer["assumptions"] = [*notes, *answer["assumptions"]]
    given.emit(answer)
    return 0
