from __future__ import annotations

import os
import sys

from kvcalc.cli.given import Given
from kvcalc.errors import UsageError, did_you_mean, short

SHELLS = ("bash", "zsh", "fish")


def run(given: Given) -> int:
    """Print the script that a shell loads; all it knows it asks `kvcalc __complete` (cli/complete.py)."""
    name = given.values["shell"].strip().lower()
    if name not in SHELLS:
        raise UsageError(
            f"no completion for {short(name)}",
            fix=did_you_mean(name, SHELLS) or f"one of: {', '.join(SHELLS)}",
            field="shell",
            value=name,
        )
    with open(script_path(name), encoding="utf-8") as stream:  # noqa: PTH123 - pathlib costs 3 ms of every start
        sys.stdout.write(stream.read())
    return 0


def script_path(shell: str) -> str:
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "shells", f"kvcalc.{shell}")  # noqa: PTH100, PTH118, PTH120
