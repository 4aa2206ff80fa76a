"""The saved corpus: for every outcome seen the smallest case that led to it, compressed, one JSON line each."""

from __future__ import annotations

import gzip
import random
from functools import cache
from pathlib import Path

from fuzzing.case import Case, from_line, size_of, to_line
from fuzzing.seeds import DATA

FOLDER = DATA / "fuzz"
#: What a corpus may hold: the plain tests read all of it again, and the repository stays small.
MOST_CASES, MOST_BYTES = 700, 6_000
#: Formats whose readers take longer.
MOST_SLOW = {"log": 60, "measurement": 250, "arguments": 400}


@cache
def saved(name: str) -> tuple[Case, ...]:
    """The corpus of one format, in a fixed order; empty where none was saved."""
    path = _path(name)
    if not path.is_file():
        return ()
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        return tuple(from_line(line) for line in stream)


def save(name: str, outcomes: dict[str, Case]) -> int:
    """Write one case per outcome: refusals first, and of the accepted ones as many as there is room for.

    Returns their number. The same outcomes give the same bytes.
    """
    refused = [case for key, case in sorted(outcomes.items()) if not key.startswith("accepted")]
    accepted = [case for key, case in sorted(outcomes.items()) if key.startswith("accepted")]
    random.Random(name).shuffle(accepted)
    random.Random(name).shuffle(refused)
    most = MOST_SLOW.get(name, MOST_CASES)
    small = [case for case in (*refused[: most * 3 // 4], *accepted) if size_of(case) <= MOST_BYTES]
    lines = sorted({to_line(case) for case in small[:most]})
    FOLDER.mkdir(parents=True, exist_ok=True)
    with _path(name).open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as stream:
        stream.write("".join(f"{line}\n" for line in lines).encode())
    return len(lines)


def _path(name: str) -> Path:
    return FOLDER / f"{name}.jsonl.gz"
