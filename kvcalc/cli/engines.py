from __future__ import annotations

from kvcalc.cli.given import Given


def run(given: Given) -> int:
    from kvcalc.answers.listings import list_engines

    given.emit(list_engines(given.values["name"]))
    return 0
