"""Model documents checked by pydantic: shapes, types, unknown keys; every error with file, line, field and fix.

The kinds are read from the records of `kvcalc.kinds` as one discriminated union: there is no second set of
classes. Meaning (pattern, blocks, contradictions) is `kvcalc.document`'s.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from inspect import cleandoc
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from kvcalc.core.model import Check, Kind, Model, Mtp, Source, Weights
from kvcalc.document import LIMITS, MAX_NAME, model_from_document
from kvcalc.errors import KvcalcError, ModelFileError, did_you_mean, short
from kvcalc.kinds import KIND_TAGS, any_kind, kind_class, kinds_by_tag
from kvcalc.kinds.indexer import Indexer
from kvcalc.yamlfile import FieldPath, decode, parse, read_bytes

if TYPE_CHECKING:
    _Kind = Kind
else:
    _Kind = Annotated[any_kind(), Field(discriminator="kind")]
_Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]
_BlockName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*$", max_length=60)]


def _one_or_named(value: object) -> str:
    """One block, or a mapping of blocks; a block that forgot its kind is told so."""
    blocks = isinstance(value, Mapping) and all(isinstance(block, Mapping) for block in value.values())
    return "one" if isinstance(value, Mapping) and ("kind" in value or not blocks) else "named"


class ModelDocument(BaseModel):
    """One model: layers, what each keeps, and where the numbers were read."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: _Name
    aliases: list[_Name] = []
    source: Source = Source()
    architecture: _Name | None = None
    parameters: Annotated[int, Field(ge=1, le=LIMITS["parameters"])] | None = None
    weights: Weights | None = None
    max_context: Annotated[int, Field(ge=1, le=LIMITS["max_context"])] | None = None
    hidden_size: Annotated[int, Field(ge=1, le=LIMITS["hidden_size"])] | None = None
    vocab_size: Annotated[int, Field(ge=1, le=LIMITS["vocab_size"])] | None = None
    layers: Annotated[int, Field(ge=1, le=LIMITS["layers"])]
    dtype: _Name
    cache_dtype: _Name | None = None
    state_dtype: _Name | None = None
    index_dtype: _Name | None = None
    attention: Annotated[
        Annotated[_Kind, Tag("one")] | Annotated[dict[_BlockName, _Kind], Tag("named")], Discriminator(_one_or_named)
    ]
    pattern: list[str | list[str]] | None = None
    mtp: Mtp | None = None
    facts: dict[str, int | Annotated[float, Field(allow_inf_nan=False)] | str | bool] = {}
    checks: list[Check] = []
    notes: list[str] = []


_UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")

_EXPECTED = {
    "dict_type": "a mapping",
    "list_type": "a list",
    "bool_type": "true or false",
    "dataclass_type": "a mapping",
    "model_type": "a mapping",
}

#: What other tools call our fields (config.json, vLLM, GGUF): too far apart for a spelling suggestion.
_ELSEWHERE = {
    "num_hidden_layers": "layers",
    "num_layers": "layers",
    "block_count": "layers",
    "n_layer": "layers",
    "num_attention_heads": "heads",
    "n_head": "heads",
    "num_key_value_heads": "groups",
    "num_kv_heads": "groups",
    "kv_heads": "groups",
    "head_size": "head_dim",
    "key_length": "head_dim",
    "value_length": "v_head_dim",
    "kv_lora_rank": "latent_dim",
    "qk_rope_head_dim": "rope_dim",
    "qk_nope_head_dim": "nope_dim",
    "sliding_window": "window",
    "attention_chunk_size": "chunk",
    "torch_dtype": "dtype",
    "max_position_embeddings": "max_context",
    "context_length": "max_context",
    "layer_types": "pattern",
}

#: What a missing field is, where that is not obvious from its name.
_HINTS = {
    "layers": "the number of layers (num_hidden_layers)",
    "dtype": "the model's own type, for example bfloat16 (torch_dtype)",
    "attention": "for example {kind: gqa, heads: 32, groups: 8, head_dim: 128}",
    "name": "what the model is called",
    "kind": "one of: " + ", ".join(KIND_TAGS),
    "heads": "the number of query heads (num_attention_heads)",
    "groups": "the number of KV heads (num_key_value_heads)",
    "head_dim": "the width of a head (head_dim; hidden_size / heads only where the config has none)",
    "latent_dim": "the compressed KV width (kv_lora_rank)",
    "rope_dim": "the width of the decoupled rotary key (qk_rope_head_dim; 0 without)",
}


def check_document(doc: Any, *, file: str, lines: Mapping[FieldPath, int] | None = None) -> Model:
    """The model of a parsed document.

    Raises: ModelFileError for the first fault, with file, line, field, value and fix.
    """
    lines = lines or {}
    if not isinstance(doc, dict):
        raise ModelFileError(
            f"a model file is a mapping of fields, not {short(doc)}",
            fix="write name:, layers:, dtype:, attention: (`kvcalc schema` lists all fields)",
            file=file,
            line=lines.get(()),
        )
    try:
        ModelDocument.model_validate_json(json.dumps(doc), strict=True)
        return model_from_document(doc)
    except ValidationError as error:
        raise _translate(error, doc, file, lines) from None
    except KvcalcError as error:
        path = tuple(int(part) if part.isdigit() else part for part in (error.field or "").split(".") if part)
        error.file, error.line = file, _line(path, lines)
        raise


def _line(path: FieldPath, lines: Mapping[FieldPath, int]) -> int | None:
    """The line of a path, or of the nearest thing around it."""
    for end in range(len(path), -1, -1):
        if path[:end] in lines:
            return lines[path[:end]]
    return None


def _document_path(loc: Sequence[str | int], doc: Any) -> tuple[FieldPath, Any]:
    """pydantic's location without its union tags, and the mapping around it."""
    path: list[str | int] = []
    current: Any = doc
    around: Any = doc
    tags = {"one", "named", "int", "float", "constrained-float", "str", "bool", *KIND_TAGS}
    # (attention, one, KIND, ...), (attention, named, block, KIND, ...): a tag, even where a key has the kind's name.
    tag_at = {"one": 2, "named": 3}.get(str(loc[1])) if len(loc) > 1 and loc[0] == "attention" else None
    for place, part in enumerate(loc):
        if place == tag_at:
            continue
        is_key = isinstance(current, dict) and part in current
        if is_key or (isinstance(current, list) and isinstance(part, int) and part < len(current)):
            around, current = current, current[part]
        elif part in tags or str(part).startswith("list["):
            continue  # names a member of a union, not a key of the document
        else:
            around, current = current, None
        path.append(part)
    return tuple(path), around


def _translate(error: ValidationError, doc: Any, file: str, lines: Mapping[FieldPath, int]) -> ModelFileError:
    """pydantic's first fault in the user's words."""
    faults = error.errors(include_url=False)
    # A misspelt key also makes the right one missing: the unknown key is the better message.
    fault = next((item for item in faults if item["type"] in _UNKNOWN_KEY), faults[0])
    path, around = _document_path([part for part in fault["loc"] if part != "[key]"], doc)
    field = ".".join(str(part) for part in path)
    what, fix, value = _wording(fault, path, around)
    cause = fault.get("ctx", {}).get("error")
    if isinstance(cause, KvcalcError):
        what, fix, value = str(cause), cause.fix, cause.value
        if cause.field:
            path, field = (*path, cause.field), f"{field}.{cause.field}" if field else cause.field
    return ModelFileError(what, fix=fix, file=file, line=_line(path, lines), field=field or None, value=value)


def _wording(fault: Mapping[str, Any], path: FieldPath, around: Any) -> tuple[str, str | None, object]:
    """What is wrong, how to fix it, and the value at fault."""
    kind, value = fault["type"], fault.get("input")
    last = ".".join(map(str, path[-2:] if path and isinstance(path[-1], int) else path[-1:])) or "the document"
    if kind in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{last} is missing", f"add {last}: {_HINTS.get(last, 'see `kvcalc schema`')}", None
    if kind in _UNKNOWN_KEY:
        known = _known_fields(path, around)
        near = f"here it is called {_ELSEWHERE[last]}" if _ELSEWHERE.get(last) in known else did_you_mean(last, known)
        return f"unknown key {short(last)}", near or f"known here: {', '.join(known)}", value
    if kind == "union_tag_invalid":
        tag = fault["ctx"]["tag"]
        return f"unknown kind {short(tag)}", did_you_mean(str(tag), list(KIND_TAGS)) or _HINTS["kind"], tag
    if kind == "union_tag_not_found":
        return f"{last} does not say its kind", f"add kind: {_HINTS['kind']}", value
    if value is None:
        return f"{last} is empty", "write a value", value
    if path[:1] == ("facts",) and len(path) > 1:
        return f"{last} must be a number, text, true or false, not {short(value)}", "facts are single values", value
    if kind in ("int_type", "int_from_float", "int_parsing"):
        return f"{last} must be a whole number, not {short(value)}", f"write {last} as an integer", value
    if kind in ("greater_than_equal", "less_than_equal"):
        limit = fault["ctx"].get("ge", fault["ctx"].get("le"))
        side = "below" if kind == "greater_than_equal" else "above"
        return f"{last} is {short(value)}, {side} {limit:,}", "check the value against the model's config.json", value
    if kind.startswith("string_"):
        return _text_wording(kind, path, last, value)
    expected = _EXPECTED.get(kind)
    if expected:
        return f"{last} must be {expected}, not {short(value)}", "see `kvcalc schema`", value
    return f"{last}: {fault['msg']} ({short(value)})", "see `kvcalc schema`", value


def _text_wording(kind: str, path: FieldPath, last: str, value: object) -> tuple[str, str | None, object]:
    if path[:1] == ("pattern",):
        return (
            f"{last} must name a block, not {short(value)}",
            "write name, name*3, or [name, name] for a layer with two caches",
            value,
        )
    if kind == "string_type":
        return f"{last} must be text, not {short(value)}", "write it as text, in quotes where it is a number", value
    if kind == "string_too_short":
        return f"{last} is empty", "write a value", value
    if kind == "string_too_long":
        return f"{last} is too long: {short(value)}", "shorten it", value
    if path[:1] == ("attention",):
        return f"{short(value)} cannot name a block", "use letters, digits, _ . and -, a letter first", value
    return f"{last} has control characters: {short(value)}", "remove them", value


def _known_fields(path: FieldPath, around: Any) -> list[str]:
    """The fields allowed beside an unknown key at `path`."""
    if "indexer" in path[:-1]:
        return _names(Indexer)
    if len(path) == 1:
        return list(ModelDocument.model_fields)
    group = {"source": Source, "weights": Weights, "checks": Check, "mtp": Mtp}.get(str(path[0]))
    if group is not None:
        return _names(group)
    return _names(kind_class(around["kind"]))


def _names(cls: type) -> list[str]:
    return [item.name for item in fields(cls)]


def load_text(raw: bytes, *, file: str) -> Model:
    """The model of a YAML (or kvcalc JSON) file's bytes.

    Raises: ModelFileError.
    """
    doc, lines = parse(decode(raw, file), file)
    return check_document(doc, file=file, lines=lines)


def load_file(path: Path) -> Model:
    """The model of a YAML (or kvcalc JSON) file.

    Raises: ModelFileError.
    """
    return load_text(read_bytes(path), file=str(path))


def json_schema(mode: Literal["validation", "serialization"] = "validation") -> dict[str, Any]:
    """JSON Schema of a model file, for editors."""
    schema = ModelDocument.model_json_schema(mode=mode)
    described: list[type] = [*kinds_by_tag().values(), Indexer, Check, Mtp, Source, Weights]
    for cls in described:
        # pydantic below 2.14 leaves the text of a dataclass out.
        schema["$defs"][cls.__name__].setdefault("description", cleandoc(cls.__doc__ or ""))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
