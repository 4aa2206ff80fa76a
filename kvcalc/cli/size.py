from __future__ import annotations

from kvcalc.cli.given import Given


def run(given: Given) -> int:
    from kvcalc.answers.size import size

    ask, registry = given.ask(), given.registry()
    if ask.gpu is not None:
        registry.gpu(ask.gpu)
    given.emit(size(given.target(registry), ask))
    return 0
