"""A GGUF header as a model document: which layers keep what, as llama.cpp's loader reads the metadata.

Which layers slide, which are recurrent and what an absent key means is code in llama.cpp, not metadata: the rules are
in `kvcalc.engines.llamacpp.arch` and here, each named after the loader it is from (llama.cpp 0c1e57098,
src/models/<architecture>.cpp load_arch_hparams, src/llama-model.cpp load_hparams).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kvcalc.core.model import Kind
from kvcalc.document import plain, write_pattern
from kvcalc.engines.llamacpp.arch import ARCHS, NOT_COVERED
from kvcalc.errors import ModelFileError, short
from kvcalc.importers import Imported
from kvcalc.importers.gguf_file import Header, Tensors, read_header
from kvcalc.importers.gguf_layers import layer_kinds
from kvcalc.importers.gguf_metadata import Metadata
from kvcalc.kinds.other import SharedCache

_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$", re.ASCII)
#: More parts than any release has.
_MAX_PARTS = 1_000


def import_gguf(path: str | Path) -> Imported:
    """The model of a GGUF file, or of a split model by its first part.

    Raises: ModelFileError.
    """
    first = Path(path)
    header = read_header(first)
    parts, warnings = _tables(first, header)
    if header.big_endian:
        warnings.append("big-endian GGUF: llama.cpp on a little-endian machine refuses it")
    architecture = _architecture(header)
    metadata = Metadata(header, architecture)
    layers, mtp, derived = layer_kinds(metadata)
    names, blocks = _name_blocks([*layers, *([mtp] if mtp is not None else [])])
    document = _document(metadata, names[: len(layers)], blocks, parts)
    if mtp is not None:
        document["mtp"] = {"layers": metadata.mtp_layers, "block": names[-1][0]}
    return Imported(document=document, derived=tuple(derived), warnings=tuple(warnings))


def _architecture(header: Header) -> str:
    name = header.metadata.get("general.architecture")
    if not isinstance(name, str) or not name:
        raise ModelFileError(
            "the file names no architecture",
            fix="a split model is read by its first part; otherwise this is no model",
            file=header.file,
            field="general.architecture",
        )
    if name not in ARCHS:
        reason = NOT_COVERED.get(name, "it is none that llama.cpp b11549 runs")
        raise ModelFileError(
            f"GGUF architecture {short(name)} is not read: {reason}",
            fix="name the model's config.json instead, if it has one",
            file=header.file,
            field="general.architecture",
            value=name,
        )
    return name


def _tables(first: Path, header: Header) -> tuple[list[Tensors], list[str]]:
    """The tensor tables of all parts of a split model; a part that is missing leaves the weights unknown."""
    count = header.metadata.get("split.count", 1)
    place = header.metadata.get("split.no", 0)
    if type(count) is not int or type(place) is not int or not 0 <= place < max(count, 1) or count > _MAX_PARTS:
        raise ModelFileError(
            f"part {short(place)} of {short(count)} is impossible",
            fix="download the file again",
            file=header.file,
            field="split.no",
        )
    if place:
        raise ModelFileError(
            f"this is part {place + 1} of {count}: only the first part describes the model",
            fix="name the part that ends in -00001-of-" + f"{count:05}.gguf",
            file=header.file,
            field="split.no",
        )
    tables = [header.tensors]
    match = _PART.search(first.name)
    for part in range(2, count + 1):
        name = first.name[: match.start()] + f"-{part:05}-of-{count:05}.gguf" if match else ""
        if not name or not first.with_name(name).is_file():
            return [], [f"part {part} of {count} is not beside {first.name}: weight bytes are unknown"]
        tables.append(read_header(first.with_name(name)).tensors)
    return tables, []


def _document(
    metadata: Metadata, names: list[tuple[str, ...]], blocks: dict[str, Kind], parts: list[Tensors]
) -> dict[str, Any]:
    """Everything of the document but the MTP layers."""
    stated = metadata.header.metadata.get("general.name")
    stem = _PART.sub("", Path(metadata.header.file).name).removesuffix(".gguf")
    document: dict[str, Any] = {
        "name": _slug(stated if isinstance(stated, str) and stated.strip() else stem),
        "source": {"file": Path(metadata.header.file).name, "via": "GGUF header"},
        "architecture": metadata.architecture,
        "layers": len(names),
        "dtype": "float16",  # of the cache, where none is asked: llama.cpp's own default
        "max_context": metadata.required("context_length"),
        "hidden_size": metadata.required("embedding_length"),
    }
    vocabulary = metadata.vocabulary()
    if vocabulary:
        document["vocab_size"] = vocabulary
    elements = sum(table.elements for table in parts)
    if elements:
        document["parameters"] = elements
        if all(table.bytes is not None for table in parts):
            total = sum(table.bytes or 0 for table in parts)
            document["weights"] = {"bytes": total, "source": "tensor table of the GGUF"}
    single = len(blocks) == 1 and all(layer == ("attention",) for layer in names)
    written = {name: plain(kind) for name, kind in blocks.items()}
    document["attention"] = written["attention"] if single else written
    if len(blocks) > 1:
        document["pattern"] = write_pattern(names)
    document["facts"] = metadata.facts()
    return document


def _slug(text: str) -> str:
    """A name that the command line can take: letters, digits, dots and dashes."""
    return re.sub(r"[^a-z0-9.]+", "-", text.strip().lower()[:100]).strip("-.") or "gguf-model"


def _name_blocks(layers: Iterable[tuple[Kind, ...]]) -> tuple[list[tuple[str, ...]], dict[str, Kind]]:
    """A short name for each distinct kind, and each layer as names.

    Until here a shared cache names the layer it reads, as `#18`.
    """
    blocks: dict[str, Kind] = {}
    known: dict[Kind, str] = {}
    named: list[tuple[str, ...]] = []
    for layer in layers:
        for kind in layer:
            if kind not in known:
                if isinstance(kind, SharedCache) and kind.of is not None:
                    known[kind] = _block_name(kind, blocks)
                    blocks[known[kind]] = SharedCache(kind="shared", of=named[int(kind.of[1:])][0])
                    continue
                known[kind] = _block_name(kind, blocks)
                blocks[known[kind]] = kind
        named.append(tuple(known[kind] for kind in layer))
    if len(blocks) == 1:
        (kind,) = blocks.values()
        return [("attention",)] * len(named), {"attention": kind}
    return named, blocks


def _block_name(kind: Kind, taken: dict[str, Kind]) -> str:
    if kind.kind in ("none", "shared", "mla", "csa", "hca"):
        base = kind.kind
    elif kind.kind in ("mha", "mqa", "gqa"):
        base = "local" if getattr(kind, "window", None) or getattr(kind, "chunk", None) else "global"
    else:
        base = "state"
    name, number = base, 2
    while name in taken:
        name, number = f"{base}-{number}", number + 1
    return name
