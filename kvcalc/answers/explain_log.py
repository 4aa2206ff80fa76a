"""`explain-log`: what an engine printed at start-up, what it means, and whether a model's arithmetic agrees."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from kvcalc.answers.common import header
from kvcalc.core.gpu import Gpu
from kvcalc.errors import UsageError
from kvcalc.explain_log import explain
from kvcalc.targets import Target

#: A start-up log is a few hundred lines; a service's whole history is not read.
MAX_LOG_BYTES = 64 * 2**20


def explain_log(file: str, *, target: Target | None = None, gpu: Gpu | None = None) -> dict[str, Any]:
    """The answer of `kvcalc explain-log`. file: a path, or `-` for standard input.

    Raises: UsageError when the file cannot be read or no line of it is recognised.
    """
    said = explain(
        _read(file), model=None if target is None else target.model, gpu=None if gpu is None else gpu.architecture
    )
    inputs = {
        "file": file,
        "model": None if target is None else target.origin,
        "gpu": None if gpu is None else gpu.name,
    }
    if target is not None:
        said["assumptions"] = [*target.assumptions, *said["assumptions"]]
        said["warnings"] = [*target.warnings, *said["warnings"]]
    return {**header("explain-log", inputs), **said}


def _read(file: str) -> str:
    try:
        raw = sys.stdin.buffer.read(MAX_LOG_BYTES + 1) if file == "-" else _bytes(Path(file))
    except OSError as error:
        raise UsageError(
            f"cannot read {file}: {error.strerror or error}",
            fix="name a log file, or - for standard input",
            field="file",
            value=file,
        ) from None
    if len(raw) > MAX_LOG_BYTES:
        raise UsageError(
            f"{file} is above {MAX_LOG_BYTES // 2**20} MiB",
            fix="give the lines of the engine's start",
            field="file",
            value=file,
        )
    return raw.decode("utf-8", errors="replace")


def _bytes(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(MAX_LOG_BYTES + 1)
