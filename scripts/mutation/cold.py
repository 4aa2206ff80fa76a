"""Survivors outside functions once more, each in a fresh interpreter that imports the mutant from the start.

What other modules and tests made of a table while they were imported does not follow a change made later.
As a pytest plugin (`-p mutation.cold`) this module puts the mutant named by KVCALC_MUTANT in place of the real module.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType

from mutation.transplant import mutated

ROOT = Path(__file__).resolve().parents[2]
MOST_FILES, MOST_TESTS = 4, 60
LONGEST_SECONDS = 120


def killed(file: str, number: int, tests: list[str]) -> bool:
    """Whether `tests` notice the mutant: the first ones, of few files, because each file costs its imports."""
    by_file: dict[str, list[str]] = {}
    for test in tests:
        by_file.setdefault(test.partition("::")[0], []).append(test)
    quick = sorted(by_file, key=lambda name: not name.startswith("tests/unit/test_"))[:MOST_FILES]
    chosen = [test for name in quick for test in by_file[name][:MOST_TESTS]]
    command = [sys.executable, "-B", "-m", "pytest", "-x", "-q", "--tb=no", "--assert=plain"]
    command += ["-p", "mutation.cold", "-p", "no:randomly", "-p", "no:cacheprovider", "-p", "no:cov", *chosen]
    paths = os.pathsep.join([str(ROOT / "scripts"), str(ROOT)])
    environment = os.environ | {"KVCALC_MUTANT": f"{file}:{number}", "PYTHONPATH": paths}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, timeout=LONGEST_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return True
    return done.returncode != 0


class _Loader:
    """The original `get_code`, but for one file."""

    def __init__(self, path: Path, number: int) -> None:
        self.path, self.number, self.original = path, number, SourceFileLoader.get_code

    def get_code(self, loader: SourceFileLoader, name: str) -> CodeType | None:
        if loader.path == str(self.path):
            return mutated(self.path.read_text(), self.path, self.number)
        return self.original(loader, name)


def _install(named: str) -> None:
    file, _, number = named.rpartition(":")
    put = _Loader(ROOT / file, int(number))
    SourceFileLoader.get_code = lambda loader, name: put.get_code(loader, name)  # type: ignore[method-assign]  # noqa: PLW0108 - binds the loader


if "KVCALC_MUTANT" in os.environ:
    _install(os.environ["KVCALC_MUTANT"])
