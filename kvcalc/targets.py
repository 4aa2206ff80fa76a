"""What a TARGET on the command line is: a shipped model, a model file, a checkpoint's header, the hub."""

from __future__ import annotations

import os

from kvcalc.core.light import NamedTuple
from kvcalc.core.model import Model
from kvcalc.document import model_from_document
from kvcalc.errors import ModelFileError, UsageError, short
from kvcalc.registry import Registry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from kvcalc.importers.safetensors import Checkpoint

_SUFFIXES = (".yaml", ".yml", ".json", ".gguf")


class Target(NamedTuple):
    """A loaded model and what must be said about where it came from."""

    model: Model
    origin: str
    assumptions: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    exactness: str = "exact"


def load_target(text: str, registry: Registry) -> Target:
    """The model of one TARGET.

    A registry name or alias wins; anything with a slash, a known suffix, or that exists on disk is a path;
    `hf:org/name[@revision]` is the hub, and the only form that uses the network.

    Raises: UsageError for an unknown name or a closed model; ModelFileError for a file that cannot be used.
    """
    if not _can_exist(text):
        raise UsageError(f"{short(text)} is no model", fix="name a shipped model or a file", field="target")
    looks_like_path = "/" in text or os.sep in text or text.lower().endswith(_SUFFIXES)
    if not looks_like_path and registry.has_model(text):
        return Target(model=registry.model(text), origin=f"registry:{text}")
    if not os.path.exists(text):  # noqa: PTH110
        from kvcalc.closed import closed_model

        if (closed := closed_model(text, registry)) is not None:
            raise closed
    if text.startswith("hf:"):
        return _hub(text)
    if looks_like_path or os.path.exists(text):  # noqa: PTH110
        return load_path(text)
    return Target(model=registry.model(text), origin=f"registry:{text}")  # raises with near names


def _can_exist(text: str) -> bool:
    """Whether a path like this is one: asking the system about an impossible one raises."""
    try:
        parts = [os.fsencode(part) for part in text.split("/")]
    except UnicodeEncodeError:
        return False
    return 0 < len(text) <= 4096 and "\x00" not in text and all(len(part) < 256 for part in parts)


def load_path(text: str) -> Target:
    """The model of a YAML file, a kvcalc or Hugging Face JSON, a folder with config.json, or a GGUF.

    Raises: ModelFileError.
    """
    from pathlib import Path

    if not _can_exist(text):
        raise ModelFileError(f"{short(text)} does not exist", fix="check the path")
    path = Path(text)
    if path.is_dir():
        config = path / "config.json"
        if not config.is_file():
            raise ModelFileError(
                f"{text} has no config.json", fix="name a model file or a checkpoint folder", file=text
            )
        path = config
    if _is_gguf(path):
        return _gguf(path)
    from kvcalc.yamlfile import decode, parse, read_bytes

    doc, lines = parse(decode(read_bytes(path), str(path)), str(path))
    if path.suffix.lower() == ".json" and isinstance(doc, dict) and ("model_type" in doc or "attention" not in doc):
        return _config(doc, path)
    from kvcalc.schema import check_document

    return Target(model=check_document(doc, file=str(path), lines=lines), origin=str(path))


def _is_gguf(path: Path) -> bool:
    if path.suffix.lower() == ".gguf":
        return True
    try:
        with path.open("rb") as stream:
            return stream.read(4) == b"GGUF"
    except OSError:
        return False


def _config(doc: dict[str, object], path: Path) -> Target:
    """A config.json; in a checkpoint's folder also the sizes that its safetensors headers state."""
    from kvcalc.importers.safetensors import read_folder

    weights, warnings = None, []
    if path.name == "config.json":
        try:
            weights = read_folder(path.parent)
        except ModelFileError as error:  # costs the weights, not the cache
            warnings = [f"weights unknown: {error}"]
    return _imported(doc, file=str(path), origin=str(path), weights=weights, warnings=warnings)


def _imported(
    doc: dict[str, object],
    *,
    file: str,
    origin: str,
    weights: Checkpoint | None,
    warnings: Sequence[str],
    source: dict[str, str] | None = None,
) -> Target:
    from pathlib import Path

    from kvcalc.importers.hf import import_config

    name = source["repo"].rpartition("/")[2].lower() if source else _name(doc, Path(file))
    imported = import_config(doc, file=file, name=name)
    document = imported.document | ({"source": source} if source else {})
    if weights is not None:
        document["weights"] = document.get("weights", {}) | {"bytes": weights.bytes, "source": weights.source}
        if weights.parameters is not None:
            document["parameters"] = weights.parameters  # the headers know; a count from the config only agrees
    return Target(
        model=model_from_document(document, file=file),
        origin=origin,
        assumptions=imported.derived,
        warnings=(*imported.warnings, *warnings),
        exactness="exact" if imported.exact else "estimate",
    )


def _name(doc: dict[str, object], path: Path) -> str | None:
    """The checkpoint's folder or the file's own name, unless the config says what it is."""
    if doc.get("_name_or_path"):
        return None
    return (path.resolve().parent.name if path.name == "config.json" else path.stem) or None


def _gguf(path: object) -> Target:
    from kvcalc.importers.gguf import import_gguf

    imported = import_gguf(str(path))
    return Target(
        model=model_from_document(imported.document, file=str(path)),
        origin=str(path),
        assumptions=imported.derived,
        warnings=imported.warnings,
        exactness="exact" if imported.exact else "estimate",
    )


def _hub(text: str) -> Target:
    from kvcalc.importers.hub import read_hub

    found = read_hub(text)
    source = {"repo": found.repo, "file": "config.json"} | ({"revision": found.revision} if found.revision else {})
    return _imported(
        found.config,
        file=f"hf:{found.repo}/config.json",
        origin=text,
        weights=found.weights,
        warnings=found.warnings,
        source=source,
    )
