"""What is shipped: model_configs/*.yaml and gpus.yaml, found by name or alias.

Checking 190 YAML files with pydantic takes half a second, so the checked documents are kept in the user's cache
directory under a hash of the files they were made from (and kvcalc's version): never stale, deletable at any time,
off with KVCALC_NO_CACHE=1.
"""

from __future__ import annotations

import json
import os
from time import time_ns

from kvcalc.core.gpu import Gpu, gpu_from_document
from kvcalc.core.model import Model
from kvcalc.document import model_from_document
from kvcalc.errors import ModelFileError, UsageError, did_you_mean, short
from kvcalc.version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

try:  # hashlib also loads OpenSSL: 2 ms of every start for one function
    from _blake2 import blake2b
except ImportError:  # an interpreter built without it
    from hashlib import blake2b

#: Raised when the cached form changes.
CACHE_FORMAT = 2
_MAX_FILE_BYTES = 2**20
_SUFFIXES = (".yaml", ".yml")
#: Longer than any file system's clock takes for a tick (FAT: 2 s).
_SETTLED_NS = 3 * 10**9
_KEEP = 8  # cache files of other versions and directories that stay


def normal(name: str) -> str:
    """Names are matched without case and punctuation: `Qwen3-8B`, `qwen3_8b` and `qwen3 8b` are one."""
    return "".join(char for char in name.lower() if char.isalnum() and char.isascii())


def package_dir() -> str:
    return os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - pathlib costs 3 ms of every start


def bundled_dir() -> str:
    """The shipped models: inside an installed package, beside it in a checkout."""
    inside = os.path.join(package_dir(), "_model_configs")  # noqa: PTH118
    return inside if os.path.isdir(inside) else os.path.join(os.path.dirname(package_dir()), "model_configs")  # noqa: PTH112, PTH118, PTH120


class Registry:
    """Models and GPUs by name and alias, read when the first is asked for: a path on the command line needs none.

    models_dir: more model files, which win on equal names. KVCALC_MODELS where it is None.
    """

    _models: dict[str, tuple[int, int]]  # name -> where its JSON lies in `_documents`
    _aliases: dict[str, str]
    _gpus: dict[str, tuple[int, int]]
    _gpu_aliases: dict[str, str]
    _documents: bytes

    def __init__(self, models_dir: str | None = None) -> None:
        self._models_dir = models_dir

    def __getattr__(self, name: str) -> Any:
        """Reads everything, once.

        Raises: UsageError when the directory cannot be read.
        """
        if name not in Registry.__annotations__:
            raise AttributeError(name)
        index, self._documents = _read(self._models_dir)
        for part in ("models", "aliases", "gpus", "gpu_aliases"):
            setattr(self, f"_{part}", index[part])
        return getattr(self, name)

    def _document(self, place: tuple[int, int]) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._documents[slice(*place)])
        return found

    def model_names(self) -> list[str]:
        return sorted(self._models)

    def gpu_names(self) -> list[str]:
        return list(self._gpus)

    def aliases_of(self, name: str) -> list[str]:
        return list(self._document(self._models[name]).get("doc", {}).get("aliases", []))

    def has_model(self, name: str) -> bool:
        return normal(name) in self._aliases

    def model(self, name: str) -> Model:
        """The model called `name` (or an alias of it).

        Raises: UsageError with near names; ModelFileError for a broken file of a --models-dir.
        """
        found = self._aliases.get(normal(name))
        if found is None:
            near = did_you_mean(name, self._all_model_words())
            raise UsageError(
                f"unknown model {short(name)}",
                fix=near or "`kvcalc models` lists the shipped ones; a YAML, config.json or GGUF path works too",
                field="target",
                value=name,
            )
        entry = self._document(self._models[found])
        if "error" in entry:
            fault = entry["error"]
            raise ModelFileError(
                fault["what"], fix=fault["fix"], file=fault["file"], line=fault["line"], field=fault["field"]
            )
        return model_from_document(entry["doc"])

    def _all_model_words(self) -> list[str]:
        return [*self._models, *(alias for name in self._models for alias in self.aliases_of(name))]

    def _all_gpu_words(self) -> list[str]:
        return [word for gpu in self.gpus() for word in (gpu.name, *gpu.aliases)]

    def models(self) -> list[Model]:
        """Every model that loads, by name."""
        broken = self.broken()
        return [self.model(name) for name in self.model_names() if name not in broken]

    def broken(self) -> dict[str, str]:
        """Name -> fault of the files of a --models-dir that do not load."""
        entries = {name: self._document(place) for name, place in self._models.items()}
        return {name: entry["error"]["what"] for name, entry in entries.items() if "error" in entry}

    def gpu(self, name: str) -> Gpu:
        """The GPU called `name` (or an alias of it).

        Raises: UsageError with near names.
        """
        found = self._gpu_aliases.get(normal(name))
        if found is None:
            raise UsageError(
                f"unknown GPU {short(name)}",
                fix=did_you_mean(name, self._all_gpu_words()) or "`kvcalc gpus` lists them; or give --pool",
                field="gpu",
                value=name,
            )
        return gpu_from_document(self._document(self._gpus[found]))

    def gpus(self) -> list[Gpu]:
        return [gpu_from_document(self._document(place)) for place in self._gpus.values()]


def load_registry(models_dir: str | None = None) -> Registry:
    """The shipped models and GPUs, and those of `models_dir` (or KVCALC_MODELS), which win on equal names.

    Raises: UsageError when the directory cannot be read.
    """
    registry = Registry(models_dir)
    registry.gpu_names()
    return registry


def _read(models_dir: str | None) -> tuple[dict[str, Any], bytes]:
    """(index, documents): names, aliases and places of the JSON documents, from the cache or from the files."""
    extra = models_dir if models_dir is not None else os.environ.get("KVCALC_MODELS") or None
    shipped, gpus = bundled_dir(), os.path.join(package_dir(), "gpus.yaml")  # noqa: PTH118
    theirs = [] if extra is None else _files(extra)
    key = blake2b(f"{__version__}/{CACHE_FORMAT}".encode(), digest_size=16)
    key.update(_stamps(shipped, gpus) or _hashed([*_files(shipped), *_files(gpus)]))
    key.update(_hashed(theirs))
    digest = key.hexdigest()
    found = _read_cache(digest)
    if found is None:
        found = _build(_files(shipped) + theirs, _files(gpus)[0][1])
        _write_cache(digest, *found)
    return found


def _stamps(directory: str, file: str) -> bytes | None:
    """What tells today's shipped files from any other: path, inode, size, times; opening all takes three times as long.

    A file's ctime cannot be set back, so a changed file has another stamp; only a change within the clock's grain of
    the last one might not, hence None (read the files) while one of them is younger than `_SETTLED_NS`. Source: git's
    "racy" index entries, Documentation/technical/racy-git.txt.
    """
    try:
        with os.scandir(directory) as entries:
            found = [(entry.path, entry.stat()) for entry in entries if entry.name.endswith(_SUFFIXES)]
        found.append((file, os.stat(file)))  # noqa: PTH116
    except OSError:
        return None  # reading them says what is wrong
    if max(stat.st_ctime_ns for _, stat in found) > time_ns() - _SETTLED_NS:
        return None
    found.sort()
    lines = [f"{path}\0{stat.st_ino}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}" for path, stat in found]
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def _hashed(files: list[tuple[str, bytes]]) -> bytes:
    """A digest of names and contents."""
    key = blake2b(digest_size=16)
    for path, raw in files:
        key.update(f"\0{path}\0{len(raw)}\0".encode("utf-8", "surrogateescape"))
        key.update(raw)
    return key.digest()


def _files(place: str) -> list[tuple[str, bytes]]:
    """(path, bytes) of each YAML file of a directory, sorted, or of one file.

    Of a file too large to be a model only the first bytes.
    """
    try:
        if place.endswith(_SUFFIXES) and not os.path.isdir(place):  # noqa: PTH112
            paths = [place]
        else:
            paths = [f"{place}/{name}" for name in sorted(os.listdir(place)) if name.endswith(_SUFFIXES)]  # noqa: PTH208
        found = []
        for path in paths:
            handle = os.open(path, os.O_RDONLY)  # a file object costs twice as much, 190 times
            try:
                found.append((path, os.read(handle, _MAX_FILE_BYTES + 1)))
            finally:
                os.close(handle)
    except OSError as error:
        raise UsageError(
            f"cannot read the models directory {short(place)}: {error.strerror}",
            fix="check --models-dir or KVCALC_MODELS",
            field="models-dir",
            value=place,
        ) from None
    return found


def _cache_dir() -> str | None:
    if os.environ.get("KVCALC_NO_CACHE"):
        return None
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")  # noqa: PTH111, PTH118
    return os.path.join(base, "kvcalc")  # noqa: PTH118


def _read_cache(digest: str) -> tuple[dict[str, Any], bytes] | None:
    """The cached index and documents, if they are there and whole (their own hash comes first in the file)."""
    directory = _cache_dir()
    if directory is None:
        return None
    try:
        with open(f"{directory}/registry-{digest}.json", "rb") as stream:  # noqa: PTH123
            seal, _, body = stream.read().partition(b"\n")
    except OSError:
        return None
    if seal.decode("ascii", "replace") != blake2b(body, digest_size=16).hexdigest():
        return None
    index, _, documents = body.partition(b"\n")
    return json.loads(index), documents


def _write_cache(digest: str, index: dict[str, Any], documents: bytes) -> None:
    """Atomically; a full disk or a read-only home is no error."""
    directory = _cache_dir()
    if directory is None:
        return
    from contextlib import suppress
    from pathlib import Path
    from tempfile import NamedTemporaryFile

    body = json.dumps(index, separators=(",", ":")).encode() + b"\n" + documents
    with suppress(OSError):
        Path(directory).mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=directory, prefix="tmp-", delete=False) as stream:
            stream.write(blake2b(body, digest_size=16).hexdigest().encode() + b"\n" + body)
        Path(stream.name).replace(f"{directory}/registry-{digest}.json")
        old = sorted(Path(directory).glob("registry-*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in old[_KEEP:]:
            path.unlink()


def _bounded(raw: bytes, path: str) -> bytes:
    if len(raw) > _MAX_FILE_BYTES:
        raise ModelFileError(f"{path} is above 1 MiB: no model file is that large", fix="remove it", file=path)
    return raw


def _build(files: list[tuple[str, bytes]], gpus: bytes) -> tuple[dict[str, Any], bytes]:
    """(index, documents) of a registry: every file checked.

    A broken shipped file is a bug; a broken file of the user's is reported when asked for.
    """
    from pathlib import Path

    from kvcalc.document import document_from_model
    from kvcalc.schema import load_text
    from kvcalc.yamlfile import decode, parse

    models: dict[str, Any] = {}
    for path, raw in files:
        name = Path(path).stem
        try:
            model = load_text(_bounded(raw, path), file=path)
            name = model.name
            models[name] = {"doc": document_from_model(model), "file": path}
        except ModelFileError as error:
            fault = {"what": str(error), "fix": error.fix, "file": error.file, "line": error.line, "field": error.field}
            models[name] = {"error": fault, "file": path}
    aliases: dict[str, str] = {}
    for name, entry in models.items():
        for word in entry.get("doc", {}).get("aliases", ()):
            aliases[normal(word)] = name
    aliases.update({normal(name): name for name in models})  # a name always wins over an alias
    listed, _ = parse(decode(gpus, "gpus.yaml"), "gpus.yaml")
    docs = {doc["name"]: doc for doc in listed}
    gpu_aliases = {normal(word): name for name, doc in docs.items() for word in [name, *doc.get("aliases", [])]}
    index: dict[str, Any] = {"models": {}, "aliases": aliases, "gpus": {}, "gpu_aliases": gpu_aliases}
    documents = bytearray()
    for group, entries in (("models", models), ("gpus", docs)):
        for name, entry in entries.items():
            start = len(documents)
            documents += json.dumps(entry, separators=(",", ":")).encode()
            index[group][name] = (start, len(documents))
    return index, bytes(documents)
