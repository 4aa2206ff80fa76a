"""JSON: the answer itself. Imports nothing but json, because scripts wait for it."""

from __future__ import annotations

import json
from collections.abc import Mapping


def json_text(answer: Mapping[str, object]) -> str:
    """Indented JSON; integers stay integers, NaN cannot occur."""
    return json.dumps(answer, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
