from __future__ import annotations

from kvcalc.cli.given import Given


def run(given: Given) -> int:
    from kvcalc.answers.listings import list_models

    given.emit(list_models(given.registry(), match=given.values["match"]))
    return 0
