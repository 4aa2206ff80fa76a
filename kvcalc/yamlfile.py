"""Model files as text: read with bounds, parsed safely, with the line of every field for error messages.

Plain YAML only: no tags, no anchors or aliases (an alias bomb needs them), no second document, numbers and
booleans as JSON knows them (YAML 1.1 would read 1:30 as 90 and `no` as false). A `.json` file is read as JSON:
YAML knows neither its surrogate pairs nor its long keys.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from math import isfinite

from kvcalc.errors import ModelFileError, short

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    import yaml

#: The largest real config.json is about 100 kB; a model file never comes near this.
MAX_FILE_BYTES = 4 * 2**20
MAX_DEPTH = 24
MAX_DIGITS = 25

FieldPath = tuple[str | int, ...]
_BOOL = {"true": True, "false": False, "True": True, "False": False}
_NULL = ("", "~", "null", "Null", "NULL")
_INT = r"[-+]?[0-9][0-9_]*"
_FLOAT = r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan"


def read_bytes(path: Path) -> bytes:
    """The bytes of a model file.

    Raises: ModelFileError for a missing path, a directory, a file above MAX_FILE_BYTES or without permission.
    """
    name = str(path)
    try:
        if path.is_dir():
            raise ModelFileError(f"{name} is a directory", fix="name the model file in it", file=name)
        if not path.is_file():
            what = "is no regular file" if path.exists() else "does not exist"
            raise ModelFileError(f"{name} {what}", fix="check the path", file=name)
        with path.open("rb") as stream:
            raw = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ModelFileError(
            f"cannot read {name}: {error.strerror or error}", fix="check the path and its permissions", file=name
        ) from None
    if len(raw) > MAX_FILE_BYTES:
        raise ModelFileError(
            f"{name} is above {MAX_FILE_BYTES // 2**20} MiB: no model file is that large",
            fix="name the YAML or config.json, not the weights",
            file=name,
        )
    return raw


def decode(raw: bytes, file: str) -> str:
    """UTF-8 text of a model file.

    Raises: ModelFileError for binary data.
    """
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ModelFileError(
            f"{file} is not text (byte {error.start} is no UTF-8)", fix="name a YAML or JSON model file", file=file
        ) from None
    if "\x00" in text:
        raise ModelFileError(f"{file} is not text (it has NUL bytes)", fix="name a YAML or JSON model file", file=file)
    return text


def parse(text: str, file: str) -> tuple[Any, dict[FieldPath, int]]:
    """The document as plain dicts, lists and scalars, and the 1-based line of every path in it (none for JSON).

    Raises: ModelFileError with the line.
    """
    if file.lower().endswith(".json"):
        return _parse_json(text, file), {}
    import yaml  # not at the top: a config.json does without

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _check_events(yaml.parse(text, Loader=loader), file)
        node = yaml.compose(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        problem = error.problem or error.context or "cannot be read"
        raise ModelFileError(
            f"not valid YAML: {problem}", fix="check the syntax at this line", file=file, line=line
        ) from None
    except yaml.YAMLError as error:
        raise ModelFileError(f"not valid YAML: {str(error).splitlines()[0]}", fix="check the file", file=file) from None
    if node is None:
        raise ModelFileError("the file is empty", fix="write a model: `kvcalc schema` lists the fields", file=file)
    lines: dict[FieldPath, int] = {}
    return _plain(node, (), lines, file), lines


def _parse_json(text: str, file: str) -> Any:
    """The document of JSON text, no key twice, bounded in depth and digits.

    Raises: ModelFileError, for a syntax error with its line.
    """
    if not text.strip():
        raise ModelFileError("the file is empty", fix="write a model: `kvcalc schema` lists the fields", file=file)

    def whole(digits: str) -> int:
        if len(digits) > MAX_DIGITS:
            raise ModelFileError(f"{short(digits, 30)} is no sensible number", fix="check the value", file=file)
        return int(digits)

    def mapping(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise ModelFileError(f"{short(key)} is given twice", fix="keep one", file=file, field=key)
            found[key] = value
        return found

    deep = ModelFileError(f"nested deeper than {MAX_DEPTH} levels", fix="flatten it", file=file)
    try:
        document = json.loads(text, parse_int=whole, object_pairs_hook=mapping)
    except json.JSONDecodeError as error:
        raise ModelFileError(
            f"not valid JSON: {error.msg}", fix="check the syntax at this line", file=file, line=error.lineno
        ) from None
    except RecursionError:
        raise deep from None
    level, depth = _collections([document]), 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise deep
        inside = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
        level = _collections(inside)
    if "\\ud" in text.lower():
        _check_whole_characters(document, file)
    return document


def _check_whole_characters(document: Any, file: str) -> None:
    """JSON can escape half of a surrogate pair, which no output can show.

    Raises: ModelFileError.
    """
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = f"the text {error.object[error.start : error.start + 1]!a} is half of a character"
        raise ModelFileError(half, fix="write it whole, or leave it out", file=file) from None


def _collections(values: list[Any]) -> list[Any]:
    return [value for value in values if isinstance(value, dict | list)]


def _check_events(events: Iterable[yaml.Event], file: str) -> None:
    """Refuse what a model file never needs before anything is built from it."""
    import yaml

    depth = documents = 0
    for event in events:
        line = event.start_mark.line + 1 if event.start_mark else None
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise ModelFileError(
                "YAML anchors and aliases are not read", fix="write the value out", file=file, line=line
            )
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise ModelFileError(f"nested deeper than {MAX_DEPTH} levels", fix="flatten it", file=file, line=line)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise ModelFileError(
                    "more than one document in the file", fix="one model per file", file=file, line=line
                )
        tag = getattr(event, "tag", None)
        if tag is not None and str(tag) != "!":
            raise ModelFileError(f"YAML tag {tag} is not read", fix="drop the tag", file=file, line=line)


def _plain(node: yaml.Node, path: FieldPath, lines: dict[FieldPath, int], file: str) -> Any:
    import yaml

    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*path, index), lines, file) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise ModelFileError("a key must be a word", fix="write key: value", file=file, line=line)
            key = str(key_node.value)
            if key in result:
                raise ModelFileError(f"{short(key)} is given twice", fix="keep one", file=file, line=line, field=key)
            lines[(*path, key)] = line
            result[key] = _plain(value_node, (*path, key), lines, file)
        return result
    return _scalar(str(node.value), getattr(node, "style", None), node.start_mark.line + 1, file)


def reads_as_number(text: str) -> bool:
    """Whether a plain scalar is a number here."""
    return re.fullmatch(f"{_INT}|{_FLOAT}", text, re.ASCII) is not None


def _scalar(text: str, style: str | None, line: int, file: str) -> str | int | float | bool | None:
    if style in ("'", '"', "|", ">"):
        return text
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if re.fullmatch(_INT, text, re.ASCII):
        if len(text) > MAX_DIGITS:
            raise ModelFileError(
                f"{short(text, 30)} is no sensible number", fix="check the value", file=file, line=line
            )
        return int(text.replace("_", ""))
    if re.fullmatch(_FLOAT, text, re.ASCII):
        number = float(text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))
        if not isfinite(number):
            raise ModelFileError(f"{short(text)} is no finite number", fix="check the value", file=file, line=line)
        return number
    return text
