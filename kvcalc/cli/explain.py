from __future__ import annotations

from kvcalc.cli.given import Given


def run(given: Given) -> int:
    from kvcalc.answers.explain import explain

    ask, registry = given.ask(), given.registry()
    if ask.gpu is not None:
        registry.gpu(ask.gpu)
    given.emit(explain(given.target(registry), ask))
    return 0
