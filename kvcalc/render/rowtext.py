"""Rows as text, one line each: CSV or JSON lines."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence

LINE_FORMATS = ("csv", "jsonl")


def header_line(columns: Sequence[str], form: str) -> str:
    """What a file begins with: the column names in CSV, nothing in JSON lines."""
    return ",".join(columns) + "\n" if form == "csv" else ""


def lines_of(columns: Sequence[str], rows: Iterable[Sequence[object]], form: str) -> str:
    """The rows; no cell may hold a line end. CSV writes true, false, and nothing for None."""
    if form == "jsonl":
        return "".join(
            json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False, allow_nan=False) + "\n" for row in rows
        )
    stream = io.StringIO()
    words = {True: "true", False: "false"}
    csv.writer(stream, lineterminator="\n").writerows(
        [words[cell] if type(cell) is bool else cell for cell in row] for row in rows
    )
    return stream.getvalue()
