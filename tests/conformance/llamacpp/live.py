"""Drives `worker.py`: many models, many option sets, one answer each; a dead worker is an answer too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

WORKER = Path(__file__).with_name("worker.py")
Options = dict[str, Any]
Answer = dict[str, Any]


class LiveEngine:
    """A worker process that is started again where the library aborted."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop()

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, text=True, env={**os.environ, "GGML_NO_BACKTRACE": "1"},
            )  # fmt: skip
        return self._process

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def ask(self, gguf: Path, options: Sequence[Options]) -> list[Answer]:
        """One answer per option set: sizes and bytes, {"refused": text}, {"unloadable": log} or {"aborted": True}."""
        answers: list[Answer] = []
        while len(answers) < len(options):
            process = self._started()
            assert process.stdin is not None
            assert process.stdout is not None
            left = options[len(answers) :]
            process.stdin.write(json.dumps({"gguf": str(gguf), "options": left}) + "\n")
            process.stdin.flush()
            for _ in left:
                line = process.stdout.readline()
                if not line:
                    answers.append({"aborted": True})
                    self._stop()
                    break
                answers.append(json.loads(line))
        return answers


def engine_options(options: Mapping[str, Any]) -> Options:
    """The C API's names for one option set of ours."""
    return {"flash_attn_type" if name == "flash_attn" else name: value for name, value in options.items()}
