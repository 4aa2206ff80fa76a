from __future__ import annotations

from kvcalc.cli.given import Given
from kvcalc.errors import EXIT_MODEL_FILE, EXIT_OK


def run(given: Given) -> int:
    from kvcalc.answers.validate import validate

    answer = validate(given.values["files"])
    given.emit(answer)
    return EXIT_OK if all(row["status"] == "ok" for row in answer["results"]) else EXIT_MODEL_FILE
