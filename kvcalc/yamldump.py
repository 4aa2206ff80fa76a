"""A model document as YAML text, the way the shipped models are written."""

from __future__ import annotations

from typing import Any

import yaml

from kvcalc.yamlfile import reads_as_number


class _Dumper(yaml.SafeDumper):
    """Short lists and mappings in flow style, order kept, and no anchors: `parse` refuses them."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


class _Field(dict[str, Any]):
    """One top-level field, always on a line of its own."""


def _represent_field(dumper: yaml.SafeDumper, value: _Field) -> yaml.Node:
    node = dumper.represent_dict(value)
    node.flow_style = False
    return node


def _represent_dict(dumper: yaml.SafeDumper, value: dict[str, Any]) -> yaml.Node:
    node = dumper.represent_dict(value)
    node.flow_style = not any(isinstance(item, dict) and "kind" in item for item in value.values())
    return node


def _represent_list(dumper: yaml.SafeDumper, value: list[Any]) -> yaml.Node:
    tag = "tag:yaml.org,2002:seq"
    return dumper.represent_sequence(tag, value, flow_style=not any(isinstance(item, dict) for item in value))


def _represent_text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    """In quotes where `parse` would read a number: PyYAML's own rules take a revision like 12e4567 for text."""
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="'" if reads_as_number(value) else None)


_Dumper.add_representer(_Field, _represent_field)
_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(dict, _represent_dict)
_Dumper.add_representer(list, _represent_list)


def dump(document: dict[str, Any]) -> str:
    """The document as YAML: one line per field and block, as the shipped models are written."""
    return "".join(
        yaml.dump(
            _Field({key: value}),
            Dumper=_Dumper,
            sort_keys=False,
            width=2**16,
            allow_unicode=True,
            default_flow_style=False,
        )
        for key, value in document.items()
    )
