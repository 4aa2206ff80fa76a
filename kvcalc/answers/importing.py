"""`import`: a checkpoint's header as a model YAML, with what was derived and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kvcalc.answers.common import header
from kvcalc.document import document_from_model
from kvcalc.errors import UsageError
from kvcalc.files import write_whole
from kvcalc.targets import Target
from kvcalc.yamldump import dump


def import_model(target: Target, *, name: str | None = None) -> dict[str, Any]:
    """The answer of `kvcalc import`: the document, its YAML, and the notes that went into it.

    name: what the model is to be called, instead of what its file says.
    """
    document = document_from_model(target.model)
    if name is not None:
        document["name"] = name
    origin = Path(target.origin)
    if "source" not in document and not target.origin.startswith(("hf:", "registry:")):
        document["source"] = {"file": origin.name}
    said = [*target.assumptions, *(f"warning: {text}" for text in target.warnings)]
    if said:
        document["notes"] = [*document.get("notes", []), *said]
    return {
        **header("import", {"source": target.origin, "name": name}),
        "exactness": target.exactness,
        "assumptions": list(target.assumptions),
        "warnings": list(target.warnings),
        "document": document,
        "yaml": dump(document),
        "results": [{"field": key, "value": str(value)} for key, value in document.items()],
    }


def write_new(path: str, text: str, *, force: bool = False) -> None:
    """Write `text` whole or not at all.

    Raises: UsageError when the file exists (without `force`) or cannot be written.
    """
    if Path(path).exists() and not force:
        raise UsageError(f"{path} exists", fix="name another file, or add --force", field="output", value=path)
    write_whole(path, text.encode())
