"""A model on the Hugging Face hub: `hf:org/name[@revision]`. The only module that uses the network.

Downloads config.json (into the hub's own cache) and reads the headers of the safetensors files; never weights. A
config.json that is in the cache is used when the hub cannot be reached.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from kvcalc.errors import KvcalcError, ModelFileError, UsageError, short
from kvcalc.importers.safetensors import BITS, Checkpoint, Tensor, checkpoint, read_folder

TIMEOUT_SECONDS = 10.0
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_TARGET = re.compile(rf"hf:({_NAME}(?:/{_NAME})?)(?:@([A-Za-z0-9][A-Za-z0-9._/-]{{0,127}}))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)
_Value = TypeVar("_Value")
_LOCAL = "or download config.json and name the file"
#: Class in huggingface_hub.errors, what it means, what to do; special classes before those they derive from.
_FAILURES = (
    ("GatedRepoError", "{repo} is gated", "accept its terms at https://huggingface.co/{repo} and run `hf auth login`"),
    (
        "RepositoryNotFoundError",
        "{repo} does not exist on the hub, or is private",
        "check the name; for a private one run `hf auth login`",
    ),
    ("RevisionNotFoundError", "{repo} has no revision {revision}", "name a branch, a tag or a commit"),
    (
        "LocalEntryNotFoundError",
        "the hub cannot be reached, and config.json of {repo} is not in its cache",
        f"check the connection (HF_HUB_OFFLINE, HF_ENDPOINT), {_LOCAL}",
    ),
    (
        "OfflineModeIsEnabled",
        "HF_HUB_OFFLINE is set, and config.json of {repo} is not in the cache",
        f"unset it, {_LOCAL}",
    ),
    ("EntryNotFoundError", "{repo} has no config.json", "name a repository of a transformers model, or a GGUF file"),
    ("HFValidationError", "{repo} is no name of a repository", "write hf:org/name"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HubModel:
    """What the hub knows of one repository. weights None: no safetensors, or not reachable (see `warnings`)."""

    repo: str
    revision: str | None
    config: dict[str, object]
    weights: Checkpoint | None
    warnings: tuple[str, ...]


class _Client(NamedTuple):
    """The modules huggingface_hub and huggingface_hub.errors."""

    package: Any
    errors: Any


def read_hub(target: str) -> HubModel:
    """The config and the weights' sizes of `hf:org/name[@revision]`.

    Raises: UsageError for a malformed target, a missing package, an unreachable, missing or gated repository;
    ModelFileError for a config.json that is no JSON object.
    """
    match = _TARGET.fullmatch(target)
    if match is None or ".." in target or "--" in match.group(1):
        raise UsageError(
            f"{short(target)} is no hub model", fix="write hf:org/name or hf:org/name@revision", field="target"
        )
    repo, revision = match.groups()
    hub = _package()
    path = Path(_asked(hub, repo, revision, lambda: _download(hub, repo, revision)))
    commit = path.parent.name if _COMMIT.fullmatch(path.parent.name) else revision
    weights, warnings = _weights(hub, repo, revision, path.parent)
    return HubModel(repo=repo, revision=commit, config=_config(path, repo), weights=weights, warnings=tuple(warnings))


def _package() -> _Client:
    try:
        hub, utils = import_module("huggingface_hub"), import_module("huggingface_hub.utils")
        errors = import_module("huggingface_hub.errors")
    except ImportError:
        raise UsageError(
            "reading from the hub needs the package huggingface_hub",
            fix="pip install 'kvcalc[hub]', or download config.json and name the file",
            field="target",
        ) from None
    # stderr belongs to our own errors: no progress bars, no reports of retries
    utils.logging.set_verbosity_error()
    utils.disable_progress_bars()
    return _Client(hub, errors)


def _download(hub: _Client, repo: str, revision: str | None) -> str:
    path: str = hub.package.hf_hub_download(repo, "config.json", revision=revision, etag_timeout=TIMEOUT_SECONDS)
    return path


def _asked(hub: _Client, repo: str, revision: str | None, ask: Callable[[], _Value]) -> _Value:
    """`ask()`, with the hub's failures as errors a user can act on.

    Raises: UsageError.
    """
    try:
        return ask()
    except KvcalcError:
        raise
    except Exception as error:  # noqa: BLE001  each release of the hub's HTTP client has classes of its own
        what, fix = _explained(hub, error, repo, revision)
        raise UsageError(what, fix=fix, field="target", value=f"hf:{repo}") from None


def _explained(hub: _Client, error: Exception, repo: str, revision: str | None) -> tuple[str, str]:
    """What happened and what to do about it."""
    words = {"repo": repo, "revision": short(revision)}
    status = _status(error)
    for name, what, fix in _FAILURES:
        kind = getattr(hub.errors, name, None)
        if isinstance(kind, type) and isinstance(error, kind):
            if name == "LocalEntryNotFoundError" and status is not None:
                break  # the hub did answer, with something the client could not use
            return what.format(**words), fix.format(**words)
    if status in (401, 403):
        return f"the hub refuses access to {repo} (HTTP {status})", f"run `hf auth login`, {_LOCAL}"
    if status is not None:
        return f"the hub answered HTTP {status} for {repo}", f"try again later, {_LOCAL}"
    if "timeout" in type(error).__name__.lower():
        return f"the hub did not answer within {TIMEOUT_SECONDS:g} s", f"check the connection, {_LOCAL}"
    return f"cannot read {repo} from the hub ({type(error).__name__})", f"check the connection, {_LOCAL}"


def _status(error: BaseException) -> int | None:
    """The HTTP status behind an error of the client."""
    cause: BaseException | None = error
    while cause is not None:
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if type(status) is int:
            return status
        cause = cause.__cause__
    return None


def _config(path: Path, repo: str) -> dict[str, object]:
    from kvcalc.yamlfile import decode, parse, read_bytes

    name = f"hf:{repo}/config.json"
    doc, _ = parse(decode(read_bytes(path), name), name)
    if not isinstance(doc, dict):
        raise ModelFileError(f"{name} is no JSON object", fix="check the repository", file=name)
    return doc


def _weights(hub: _Client, repo: str, revision: str | None, folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Sizes from the cached files where they are all there, else from the headers on the hub.

    A failure here costs the weights, not the cache: it becomes a warning.
    """
    try:
        cached = read_folder(folder)
        if cached is not None:
            return cached, []
    except ModelFileError as error:
        return None, [f"weights unknown: {error}"]
    try:
        metadata = _asked(hub, repo, revision, lambda: _remote(hub, repo, revision))
    except UsageError as error:
        return None, [f"weights unknown: {error}"]
    if metadata is None:
        return None, [f"weights unknown: {repo} has no safetensors files"]
    return checkpoint(_tensors(metadata), f"safetensors headers of {repo}"), []


def _remote(hub: _Client, repo: str, revision: str | None) -> Any:
    """The hub client's SafetensorsRepoMetadata; None where the repository has none."""
    try:
        return hub.package.get_safetensors_metadata(repo, revision=revision)
    except hub.errors.NotASafetensorsRepoError:
        return None


def _tensors(metadata: Any) -> Iterator[Tensor]:
    for file in metadata.files_metadata.values():
        for name, info in file.tensors.items():
            start, stop = info.data_offsets
            if info.dtype not in BITS:
                raise ModelFileError(f"tensor {short(name)} has the unknown dtype {short(info.dtype)}", fix="report it")
            yield Tensor(name, info.dtype, int(info.parameter_count), stop - start)


__all__ = ["HubModel", "read_hub"]
