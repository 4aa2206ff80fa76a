"""kvcalc called as a person calls it: in this process, or as a program of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Done(NamedTuple):
    """One finished call."""

    code: int
    out: str
    err: str

    @property
    def answer(self) -> dict[str, Any]:
        """The JSON it printed."""
        found: dict[str, Any] = json.loads(self.out)
        return found

    @property
    def error(self) -> dict[str, Any]:
        """The JSON error it printed on stderr: one object, on one line."""
        assert self.err.count("\n") == 1
        found: dict[str, Any] = json.loads(self.err)["error"]
        return found


#: `call("size", "llama3")`, as the fixture `call` offers it.
Call = Callable[..., Done]


def program(
    *arguments: str, env: Mapping[str, str] | None = None, cwd: Path | None = None, text: str | None = None
) -> Done:
    """`python -m kvcalc ...` as a process."""
    done = subprocess.run(
        [sys.executable, "-m", "kvcalc", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
        cwd=cwd,
        input=text,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)
