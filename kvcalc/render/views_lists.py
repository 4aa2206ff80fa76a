"""What the listings show a person: models, GPUs, engines, element types, checked files."""

from __future__ import annotations

from kvcalc.render.parts import Answer, kinds, page, size
from kvcalc.render.sheet import Cell, Column, Page, Sheet, number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def models_page(answer: Answer) -> Page:
    columns = (
        Column(title="model", key="name", style="name"),
        Column(title="aliases", key="aliases", style="dim", drop=3),
        Column(title="attention", key="kinds", drop=2),
        Column(title="layers", key="layers", right=True),
        Column(title="parameters", key="parameters", right=True, drop=1),
        Column(title="max context", key="model_max_context", right=True),
    )
    rows = tuple(
        (
            Cell(row["name"]),
            Cell(", ".join(row["aliases"])),
            Cell(kinds(row["kinds"])),
            number(row["layers"]),
            number(row["parameters"], none="-"),
            number(row["model_max_context"], none="-"),
        )
        for row in answer["results"]
    )
    return page(answer, Sheet(columns=columns, rows=rows, notes=(f"{len(rows)} models",)))


def gpus_page(answer: Answer) -> Page:
    columns = (
        Column(title="gpu", key="name", style="name"),
        Column(title="product", key="product", drop=2),
        Column(title="arch", key="architecture", drop=3),
        Column(title="bytes", key="total_bytes", right=True),
        Column(title="GiB", right=True, style="bytes"),
        Column(title="total is", key="total_is"),
        Column(title="GB/s", key="bandwidth_bytes_per_s", right=True, drop=1),
    )
    rows = tuple(
        (
            Cell(row["name"]),
            Cell(row.get("product", "")),
            Cell(row.get("architecture", "")),
            number(row["total_bytes"]),
            size(row["total_bytes"]),
            Cell(row["total_is"]),
            _bandwidth(row.get("bandwidth_bytes_per_s")),
        )
        for row in answer["results"]
    )
    return page(answer, Sheet(columns=columns, rows=rows, notes=(f"{len(rows)} GPUs",)))


def _bandwidth(value: int | None) -> Cell:
    return Cell("-", "") if value is None else Cell(f"{value // 10**9:,}", value)


def engines_page(answer: Answer) -> Page:
    only = answer["inputs"]["name"] is not None
    columns = (
        Column(title="engine", key="name", style="name"),
        Column(title="versions", key="versions"),
        Column(title="what", key="summary"),
        Column(title="proved by", key="verified_by", drop=1),
    )
    rows = tuple(
        (Cell(row["name"]), _versions(row["versions"], whole=only), Cell(row["summary"]), Cell(row["verified_by"]))
        for row in answer["results"]
    )
    sheets = [Sheet(columns=columns, rows=rows)]
    if only and answer["results"][0]["options"]:
        sheets.append(_options_sheet(answer["results"][0]["options"]))
    return page(answer, *sheets)


def _versions(versions: list[str], *, whole: bool) -> Cell:
    """All of one engine's; of many the newest and the oldest."""
    every = ", ".join(versions)
    return Cell(every if whole or len(versions) < 4 else f"{versions[0]} to {versions[-1]}", every)


def _options_sheet(options: list[dict[str, Any]]) -> Sheet:
    columns = (
        Column(title="-o option", key="option", style="name"),
        Column(title="takes", key="takes"),
        Column(title="default", key="default"),
        Column(title="meaning", key="help"),
    )
    rows = tuple(
        (
            Cell(option["name"]),
            Cell(option["takes"]),
            Cell("engine's own" if option["default"] is None else str(option["default"])),
            Cell(f"{option['help']}: {', '.join(option['choices'])}" if option["choices"] else option["help"]),
        )
        for option in options
    )
    return Sheet(title="options", columns=columns, rows=rows)


def dtypes_page(answer: Answer) -> Page:
    columns = (
        Column(title="dtype", key="name", style="name"),
        Column(title="aliases", key="aliases", style="dim"),
        Column(title="bytes", key="block_bytes", right=True),
        Column(title="per elements", key="block_elements", right=True),
        Column(title="bits/element", key="bits_per_element", right=True),
        Column(title="source", key="source", style="dim", drop=1),
    )
    rows = tuple(
        (
            Cell(row["name"]),
            Cell(", ".join(row["aliases"])),
            number(row["block_bytes"]),
            number(row["block_elements"]),
            Cell(f"{row['bits_per_element']:g}", row["bits_per_element"]),
            Cell(row["source"]),
        )
        for row in answer["results"]
    )
    return page(answer, Sheet(columns=columns, rows=rows))


def validate_page(answer: Answer) -> Page:
    columns = (
        Column(title="file", key="file", style="name"),
        Column(title="", key="status"),
        Column(title="says", key="message"),
    )
    rows = tuple((Cell(row["file"]), Cell(row["status"]), Cell(row["message"])) for row in answer["results"])
    bad = sum(row["status"] != "ok" for row in answer["results"])
    files = "1 file" if len(rows) == 1 else f"{len(rows)} files"
    verdict = f"{bad} of {files} broken" if bad else f"{files} valid"
    return page(answer, Sheet(columns=columns, rows=rows), verdict=verdict, good=not bad)


def import_page(answer: Answer) -> Page:
    """The document field by field."""
    columns = (Column(title="field", key="field", style="name"), Column(title="value", key="value"))
    rows = tuple((Cell(row["field"]), Cell(row["value"])) for row in answer["results"])
    return page(answer, Sheet(columns=columns, rows=rows))
