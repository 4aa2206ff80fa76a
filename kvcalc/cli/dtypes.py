from __future__ import annotations

from kvcalc.cli.given import Given


def run(given: Given) -> int:
    from kvcalc.answers.listings import list_dtypes

    given.emit(list_dtypes())
    return 0
