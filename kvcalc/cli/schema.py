from __future__ import annotations

import sys

from kvcalc.cli.given import Given


def run(given: Given) -> int:
    from kvcalc.answers.schemas import schema_of
    from kvcalc.render.jsonout import json_text

    sys.stdout.write(json_text(schema_of(given.values["of"] or "model")))
    return 0
