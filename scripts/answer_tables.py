"""The table of docs/json.md: what each command answers in JSON, from the same types that make the schemas."""

from __future__ import annotations

from typing import Any


def common() -> str:
    """The fields that every sized answer begins with."""
    return ", ".join(f"`{name}`" for name in _shared()) + ".\n"


def fields() -> str:
    """One row per command: its schema, the fields of its own, and those of one record of `results`."""
    from kvcalc.answers.schemas import ANSWERS, schema_of

    text = "| command | fields of its own | one of `results[]` |\n|---|---|---|\n"
    for name in ANSWERS:
        schema = schema_of(name)
        own = [field for field in schema["properties"] if field not in (*_shared(), "results")]
        records = sorted(_record(schema, schema["properties"].get("results", {}), set()))
        text += f"| [`{name}`](schema/{name}.json) | {_listed(own)} | {_listed(records)} |\n"
    return text


def _shared() -> list[str]:
    from kvcalc.answers.schemas import schema_of

    plan = schema_of("plan")["properties"]
    return [name for name in plan if name not in ("results", "live_tokens")]


def _record(schema: dict[str, Any], node: dict[str, Any], seen: set[str]) -> set[str]:
    """The fields that records of a list may have, whichever of its types they are; `seen`: types on the way."""
    found: set[str] = set(node.get("properties", ()))
    name = node.get("$ref", "").rpartition("/")[2]
    if name and name not in seen:
        found |= _record(schema, schema["$defs"][name], seen | {name})
    for inner in (*([node["items"]] if "items" in node else []), *node.get("anyOf", ()), *node.get("oneOf", ())):
        found |= _record(schema, inner, seen)
    return found


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
