from __future__ import annotations

from kvcalc.cli.given import Given
from kvcalc.errors import EXIT_DOES_NOT_FIT, EXIT_OK


def run(given: Given) -> int:
    """Exit 1 when a problem was found, so that a script can ask whether this installation works."""
    from kvcalc.answers.doctor import doctor

    answer = doctor(given.values.get("models_dir"))
    if given.values.get("format") in (None, "table") and not given.values.get("json"):
        try:
            import rich.console  # noqa: F401 - a broken one is a finding, not a reason to say nothing
        except Exception:  # noqa: BLE001
            given = Given({**given.values, "format": "plain"})
    given.emit(answer)
    return EXIT_DOES_NOT_FIT if answer["problems"] else EXIT_OK
