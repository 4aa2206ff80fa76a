from __future__ import annotations

from kvcalc.cli.given import Given


def run(given: Given) -> int:
    from kvcalc.answers.explain import explain

    ask, registry = given.ask(), given.registry()
    given.emit(explain(given.target(registry), ask, given.card(ask, registry)))
    return 0
