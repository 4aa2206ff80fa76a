"""The tables of docs/ACCURACY.md, made from what the conformance suites wrote to docs/accuracy/*.json.

One file per engine: `engine`, `version`, `proof` (how it was measured), `architectures` (name -> `cells` compared,
`equal` of them, and where there are any `measurements`, `cases`, `decoder`, `refused`), `not_measured` (name ->
reason), and `deviations` (texts: what is known to differ). `scripts/docs.py` puts the tables into the page.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "accuracy"


def results() -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))]


def _sum(rows: list[dict[str, Any]], key: str) -> int:
    return sum(int(row.get(key, 0)) for row in rows)


def summary() -> str:
    """One line per engine: architectures, counts, cells equal of all."""
    lines = ["| engine | version | architectures | measured caches | comparisons equal |", "|---|---|---|---|---|"]
    for result in results():
        rows = list(result["architectures"].values())
        equal, cells = _sum(rows, "equal"), _sum(rows, "cells")
        measured = _sum(rows, "measurements") or cells
        share = f"{equal:,} of {cells:,}" + (" (100 %)" if equal == cells else f" ({100 * equal / cells:.2f} %)")
        name = f"[{result['engine']}](#{result['engine'].replace('.', '')})"
        lines.append(f"| {name} | {result['version']} | {len(rows)} | {measured:,} | {share} |")
    return "\n".join(lines) + "\n"


def sections() -> str:
    """Per engine: how it was proved, cells by architecture, deviations, and what is not measured."""
    return "\n".join(_section(result) for result in results())


def _section(result: dict[str, Any]) -> str:
    rows: dict[str, dict[str, Any]] = result["architectures"]
    own = {name: row for name, row in rows.items() if "decoder" not in row}
    wrapped = {name: row for name, row in rows.items() if "decoder" in row}
    text = f"## {result['engine']}\n\nVersion {result['version']}. {_sentence(result['proof'])}\n\n"
    text += "| architecture | equal | architecture | equal | architecture | equal |\n|---|---|---|---|---|---|\n"
    cells = [f"{name} | {row['equal']}/{row['cells']}" for name, row in own.items()]
    cells += [" | "] * (-len(cells) % 3)
    text += "".join(f"| {' | '.join(cells[i : i + 3])} |\n" for i in range(0, len(cells), 3))
    if wrapped:
        text += "\nRead through a multimodal config.json (its decoder in parentheses): "
        text += ", ".join(f"{name} ({row['decoder']}) {row['equal']}/{row['cells']}" for name, row in wrapped.items())
        text += ".\n"
    differing = [f"{name}: {row['cells'] - row['equal']} cells differ" for name, row in rows.items() if _differs(row)]
    refused = [f"{name}: {why}" for name, row in rows.items() for why in row.get("refused", [])]
    text += _listed("Deviations", [*result.get("deviations", []), *differing, *refused], "Deviations: none.")
    missing = [f"{name}: {why}" for name, why in result.get("not_measured", {}).items()]
    return text + _listed("Not measured", missing, "")


def _differs(row: dict[str, Any]) -> bool:
    return bool(row["equal"] != row["cells"])


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _listed(title: str, items: list[str], empty: str) -> str:
    if not items:
        return f"\n{empty}\n" if empty else ""
    return f"\n{title}:\n\n" + "".join(f"- {item}\n" for item in items)
