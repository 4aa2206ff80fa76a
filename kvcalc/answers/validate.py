"""`validate`: whether model files are sound, and what they hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kvcalc.answers.common import header
from kvcalc.errors import KvcalcError
from kvcalc.targets import load_path


def validate(files: Sequence[str]) -> dict[str, Any]:
    """One row per file: ok with what it holds, or broken with the fault, its line and its fix."""
    return {**header("validate", {"files": list(files)}), "results": [_row(file) for file in files]}


def _row(file: str) -> dict[str, Any]:
    try:
        target = load_path(file)
        target.model.stage_blocks(0, 1)
    except KvcalcError as error:
        fault = error.as_dict()["error"]
        text = error.sentence.removeprefix(file).removeprefix(":").strip()  # the file has a column of its own
        message = f"{text} ({error.fix})" if error.fix else text
        return {"file": file, "status": "broken", "message": message, "error": fault}
    kinds = " + ".join(f"{count} {kind}" for kind, count in target.model.kinds_summary().items())
    said = f"{target.model.name}: {len(target.model.layers)} layers, {kinds}"
    return {"file": file, "status": "ok", "message": said, "error": None}
