"""Between a model document (the plain dict of a YAML file) and a `Model`. Standard library only.

`schema` checks a document's shape and types first; here meaning is given: blocks, the layer pattern, kinds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from kvcalc.core.light import Record
from kvcalc.core.model import Check, Kind, Model, Mtp, Source, Weights
from kvcalc.dtypes import get_dtype
from kvcalc.engines import engine_names
from kvcalc.errors import KvcalcError, ModelFileError, did_you_mean, short
from kvcalc.kinds import kind_class
from kvcalc.units import MAX_BYTES, MAX_SESSIONS, MAX_TOKENS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_LAYERS = 10_000
MAX_BLOCKS = 1_000
#: Patterns stay text until one is needed: compiling takes longer than most answers use it.
_ITEM = r"([A-Za-z_][A-Za-z0-9_.-]*)(?:\s*\*\s*([0-9]{1,6}))?"
_REQUIRED = object()
_PLAIN_FIELDS = ("architecture", "parameters", "max_context", "hidden_size", "vocab_size")
#: Largest value of each whole number beside the kinds' own.
LIMITS = {
    "layers": MAX_LAYERS,
    "parameters": 2**60,
    "max_context": MAX_TOKENS,
    "hidden_size": 2**31,
    "vocab_size": 2**31,
    "weights.bytes": MAX_BYTES,
    "mtp.layers": MAX_LAYERS,
}
_CHECK_LIMITS = {"context": MAX_TOKENS, "bytes": MAX_BYTES, "sessions": MAX_SESSIONS}
MAX_NAME = 200
COMPUTE_TYPES = ("bfloat16", "float16", "float32")


def model_from_document(doc: Mapping[str, Any], *, file: str | None = None) -> Model:
    """The model a document describes. Its shape must be right: `schema` checks one that a person wrote.

    Raises: ModelFileError with the field (a path like `attention.local.groups`) at fault, and `file`.
    """
    try:
        return _model(doc)
    except KvcalcError as error:
        if isinstance(error, ModelFileError):
            error.file = error.file or file
        raise


def _model(doc: Mapping[str, Any]) -> Model:
    _check_numbers(doc)
    _check_text(doc)
    blocks, single = _blocks(doc["attention"])
    layers = _layers(doc["layers"], doc.get("pattern"), blocks, single)
    mtp = Mtp(**doc["mtp"]) if doc.get("mtp") is not None else None
    used = {name for layer in layers for name in layer}
    if mtp is not None:
        used.add(_known(mtp.block, "mtp.block", blocks))
    if unused := [name for name in blocks if name not in used]:
        raise ModelFileError(
            f"block {unused[0]!r} is in no layer of the pattern",
            fix="use it in pattern, or remove it from attention",
            field=f"attention.{unused[0]}",
        )
    if "none" in used and "none" not in blocks:
        blocks["none"] = kind_class("none")()
    _check_shared(blocks)
    return Model(
        name=doc["name"],
        layers=layers,
        blocks=blocks,
        dtype=_compute_type(doc["dtype"]),
        cache_dtype=_dtype(doc.get("cache_dtype"), "cache_dtype"),
        state_dtype=_dtype(doc.get("state_dtype"), "state_dtype"),
        index_dtype=_dtype(doc.get("index_dtype"), "index_dtype"),
        **{key: doc.get(key) for key in _PLAIN_FIELDS},
        mtp=mtp,
        facts=dict(doc.get("facts", {})),
        weights=_weights(doc.get("weights")),
        source=Source(**doc.get("source", {})),
        aliases=tuple(doc.get("aliases", ())),
        checks=tuple(_check(index, check) for index, check in enumerate(doc.get("checks", ()))),
        notes=tuple(doc.get("notes", ())),
    )


def _check_numbers(doc: Mapping[str, Any]) -> None:
    """Every whole number that no kind checks is one, and within its limits."""
    for field, most in LIMITS.items():
        group, _, key = field.rpartition(".")
        _in_range(field, ((doc.get(group) or {}) if group else doc).get(key), most)
    for index, check in enumerate(doc.get("checks", ())):
        for key, most in _CHECK_LIMITS.items():
            _in_range(f"checks.{index}.{key}", check.get(key), most)


def _in_range(field: str, value: object, most: int) -> None:
    if value is not None and (type(value) is not int or not 1 <= value <= most):
        raise ModelFileError(
            f"{field} is {short(value)}, outside 1 to {most:,}", fix="check the value", field=field, value=value
        )


def _check_text(doc: Mapping[str, Any]) -> None:
    """Names and sources are printed on terminals: no escape codes in them, and a name is no page."""
    for key in ("name", "architecture", "dtype"):
        value = doc.get(key)
        if value is not None and not 1 <= len(value) <= MAX_NAME:
            raise ModelFileError(f"{key} has {len(value)} characters", fix=f"write 1 to {MAX_NAME}", field=key)
    _check_characters(doc, ())


def _check_characters(value: Any, path: tuple[str | int, ...]) -> None:
    if isinstance(value, str):
        if not value.isprintable() and any((c < " " and c not in "\n\t") or "\x7f" <= c <= "\x9f" for c in value):
            field = ".".join(map(str, path))
            raise ModelFileError(f"{field} has control characters: {short(value)}", fix="remove them", field=field)
        return
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        _check_characters(item, (*path, key))


def _dtype(name: str | None, field: str) -> str | None:
    if name is None:
        return None
    try:
        return get_dtype(name, field=field).name
    except KvcalcError as error:
        raise ModelFileError(str(error), fix=error.fix, field=field, value=name) from None


def _compute_type(name: str) -> str:
    """The type a model computes in, which is its cache's where nothing else is said: no quantised or integer one."""
    found = _dtype(name, "dtype") or ""
    if found not in COMPUTE_TYPES:
        raise ModelFileError(
            f"dtype is {found}, which no model computes in",
            fix=f"one of: {', '.join(COMPUTE_TYPES)}; a cache in another type is cache_dtype",
            field="dtype",
            value=name,
        )
    return found


def _weights(doc: Mapping[str, Any] | None) -> Weights | None:
    if doc is None:
        return None
    weights = Weights(**{**doc, "dtype": _dtype(doc.get("dtype"), "weights.dtype")})
    return None if weights == Weights() else weights  # `weights: {}` says nothing


def _check(index: int, doc: Mapping[str, Any]) -> Check:
    dtype = _dtype(doc.get("dtype"), f"checks.{index}.dtype")
    if "engine" in doc and doc["engine"].partition("@")[0] not in engine_names():
        raise ModelFileError(
            f"unknown engine {short(doc['engine'])}",
            fix=f"one of: {', '.join(engine_names())}",
            field=f"checks.{index}.engine",
            value=doc["engine"],
        )
    return Check(**{**doc, "dtype": dtype})


def _blocks(attention: Mapping[str, Any]) -> tuple[dict[str, Kind], bool]:
    """Block name -> kind; True when the document has one unnamed block."""
    if "kind" in attention:
        return {"attention": _kind(attention, "attention")}, True
    if not attention:
        raise ModelFileError("attention is empty", fix="write {kind: ...}, or name blocks", field="attention")
    if len(attention) > MAX_BLOCKS:
        raise ModelFileError(f"more than {MAX_BLOCKS} blocks", fix="name each distinct block once", field="attention")
    return {name: _kind(block, f"attention.{name}") for name, block in attention.items()}, False


def _kind(doc: Mapping[str, Any], path: str) -> Kind:
    cls = kind_class(doc["kind"])
    values = dict(doc)
    try:
        if values.get("indexer") is not None:
            from kvcalc.kinds.indexer import Indexer

            values["indexer"] = Indexer(**values["indexer"])
        return cls(**values)
    except KvcalcError as error:
        error.field = f"{path}.{error.field}" if error.field else path
        raise


def _check_shared(blocks: Mapping[str, Kind]) -> None:
    """Every `of` names a block that has a cache of its own."""
    for name, kind in blocks.items():
        source = getattr(kind, "of", None)  # only `shared` has it
        if source is not None and source not in blocks:
            raise ModelFileError(
                f"block {name!r} shares the cache of {source!r}, which is no block",
                fix=did_you_mean(source, list(blocks)) or f"blocks: {', '.join(blocks)}",
                field=f"attention.{name}.of",
                value=source,
            )
        if source is not None and blocks[source].kind == kind.kind:
            raise ModelFileError(
                f"block {name!r} shares the cache of {source!r}, which has none of its own",
                fix="name the block that writes the cache",
                field=f"attention.{name}.of",
                value=source,
            )


def _layers(
    count: int, pattern: Sequence[Any] | None, blocks: Mapping[str, Kind], single: bool
) -> tuple[tuple[str, ...], ...]:
    """For each layer its block names. The pattern repeats to `count`; a last partial round is cut.

    Raises: ModelFileError.
    """
    if pattern is None:
        if len(blocks) != 1:
            raise ModelFileError(
                f"{len(blocks)} blocks and no pattern: which layer has which?",
                fix=f"add pattern: [{', '.join(blocks)}] (it repeats to `layers`)",
                field="pattern",
            )
        return (tuple(blocks),) * count
    if single:
        raise ModelFileError(
            "pattern names blocks, but attention has one unnamed block",
            fix="name it: attention: {attn: {kind: ...}}",
            field="pattern",
        )
    written: list[tuple[str, ...]] = []
    for index, item in enumerate(pattern):
        written.extend(_pattern_item(item, f"pattern.{index}", blocks))
        if len(written) > count:
            raise ModelFileError(
                f"pattern writes out more layers than layers: {count}",
                fix="shorten pattern, or raise layers",
                field=f"pattern.{index}",
                value=item,
            )
    if not written:
        raise ModelFileError("pattern is empty", fix="name a block for each layer", field="pattern")
    return tuple(written[index % len(written)] for index in range(count))


def _pattern_item(item: object, path: str, blocks: Mapping[str, Kind]) -> list[tuple[str, ...]]:
    """`name`, `name*3`, or a list of names for a layer with several caches."""
    if isinstance(item, list | tuple):
        if not item or not all(
            isinstance(name, str) and re.fullmatch(_ITEM, name, re.ASCII) and "*" not in name for name in item
        ):
            raise ModelFileError(
                f"a layer with several caches is a list of block names, not {short(item)}",
                fix="write [attn, ssm]",
                field=path,
                value=item,
            )
        if len(set(item)) != len(item) and len(item) > MAX_BLOCKS:
            raise ModelFileError("a layer lists too many caches", fix="name each block once", field=path)
        return [tuple(_known(name, path, blocks) for name in item)]
    match = re.fullmatch(_ITEM, item, re.ASCII) if isinstance(item, str) else None
    if match is None:
        raise ModelFileError(
            f"a pattern item is a block name, not {short(item)}",
            fix="write name, name*3, or [name, name] for a layer with two caches",
            field=path,
            value=item,
        )
    name, times = match.group(1), int(match.group(2) or 1)
    if not 1 <= times <= MAX_LAYERS:
        raise ModelFileError(
            f"{short(item)} repeats {times} times", fix=f"repeat 1 to {MAX_LAYERS} times", field=path, value=item
        )
    return [(_known(name, path, blocks),)] * times


def _known(name: str, path: str, blocks: Mapping[str, Kind]) -> str:
    if name in blocks or name == "none":
        return name
    raise ModelFileError(
        f"{path.partition('.')[0]} names {name!r}, which is no block of attention",
        fix=did_you_mean(name, list(blocks)) or f"blocks: {', '.join(blocks)}",
        field=path,
        value=name,
    )


def document_from_model(model: Model) -> dict[str, Any]:
    """The document that `model_from_document` reads back to an equal model, absent fields left out."""
    used = model.stage_blocks(0, len(model.layers))
    implicit_none = [name for name in used if name == "none" and model.blocks[name].kind == "none"]
    blocks = {name: plain(kind) for name, kind in model.blocks.items() if name not in implicit_none}
    single = list(blocks) == ["attention"] and all(layer == ("attention",) for layer in model.layers)
    plain_layers = len(blocks) == 1 and all(layer == tuple(blocks) for layer in model.layers)
    doc: dict[str, Any] = {
        "name": model.name,
        "aliases": list(model.aliases),
        "source": plain(model.source),
        **{key: getattr(model, key) for key in _PLAIN_FIELDS},
        "weights": plain(model.weights),
        "layers": len(model.layers),
        **{key: getattr(model, key) for key in ("dtype", "cache_dtype", "state_dtype", "index_dtype")},
        "attention": blocks["attention"] if single else blocks,
        "pattern": None if single or plain_layers else write_pattern(model.layers),
        "mtp": plain(model.mtp),
        "facts": dict(model.facts),
        "checks": [plain(check) for check in model.checks],
        "notes": list(model.notes),
    }
    return {key: value for key, value in doc.items() if value not in (None, [], {})}


def plain(value: Any) -> Any:
    """A record as a dict without the fields that have their default value; `kind` always stays."""
    if not isinstance(value, Record):
        return value
    defaults = value.__defaults__
    return {
        name: plain(current)
        for name in value.__slots__
        if (current := getattr(value, name)) != defaults.get(name, _REQUIRED) or name == "kind"
    }


def write_pattern(layers: Sequence[tuple[str, ...]]) -> list[Any]:
    """The shortest repeating round of `layers`, run-length encoded.

    >>> write_pattern([("a",), ("a",), ("a",), ("b",), ("a",), ("a",)])
    ['a*3', 'b']
    """
    period = _period(layers)
    items: list[Any] = []
    index = 0
    while index < period:
        run = 1
        while index + run < period and layers[index + run] == layers[index]:
            run += 1
        names = layers[index]
        if len(names) > 1:
            items.extend([list(names)] * run)
        else:
            items.append(names[0] if run == 1 else f"{names[0]}*{run}")
        index += run
    return items


def _period(layers: Sequence[tuple[str, ...]]) -> int:
    """Smallest p with layers[i] == layers[i - p] from p on: all but the longest border (Knuth-Morris-Pratt, linear).

    >>> _period([("a",), ("b",), ("a",), ("b",), ("a",)])
    2
    """
    border = [0] * len(layers)
    for index in range(1, len(layers)):
        length = border[index - 1]
        while length and layers[index] != layers[length]:
            length = border[length - 1]
        border[index] = length + (layers[index] == layers[length])
    return len(layers) - border[-1]
