"""A case: the files of one call by name, the one that is named on the command line first."""

from __future__ import annotations

import base64
import json
from typing import Any

Case = dict[str, bytes]


def to_line(case: Case) -> str:
    """One JSON line; what is no UTF-8 text is written in base64."""
    return json.dumps({name: _written(data) for name, data in case.items()}, ensure_ascii=True, separators=(",", ":"))


def from_line(line: str) -> Case:
    return {name: _read(data) for name, data in json.loads(line).items()}


def _written(data: bytes) -> Any:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return [base64.b64encode(data).decode("ascii")]


def _read(data: Any) -> bytes:
    return data.encode("utf-8") if isinstance(data, str) else base64.b64decode(data[0])


def size_of(case: Case) -> int:
    return sum(len(data) for data in case.values())
