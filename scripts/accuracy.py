"""The tables of docs/ACCURACY.md, made from what the conformance suites wrote to docs/accuracy/*.json.

One file per engine: `engine`, `version`, `proof` (how it was measured), `architectures` (name -> `cells` compared,
`equal` of them, and where there are any `measurements`, `cases`, `decoder`, `refused`), `not_measured` (name ->
reason), and `deviations` (texts: what is known to differ). `scripts/docs.py` puts the tables into the page.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "accuracy"


DATA = FOLDER.parent.parent / "tests" / "data"
_RECORDED = (
    "recorded answers of {}; every cell below is asserted equal, or refused where the engine refuses, in every run"
)
#: fixture of recorded cells -> (engine, whose answers they are).
_CELLS = {
    "sglang": ("sglang", "its own configurator and pool classes, on the meta device"),
    "lmdeploy": ("lmdeploy", "its own cache engine (PyTorch engine), on CPU"),
    "exllamav3": ("exllamav3", "its own cache classes, on the meta device"),
    "mlx": ("mlx-lm", "its own models and caches after real generation, on CPU"),
}


def results() -> list[dict[str, Any]]:
    """What live suites wrote, then the engines whose recorded answers are replayed."""
    live = [json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))]
    return [*live, _vllm(), *(_replayed(folder, *said) for folder, said in _CELLS.items())]


def _vllm() -> dict[str, Any]:
    with gzip.open(DATA / "vllm" / "planning-0.33.0-sm90.json.gz", "rt") as stream:
        models = json.load(stream)["models"]
    counts = {entry["name"]: sum(len(run.get("cells", ())) for run in entry["runs"]) for entry in models}
    proof = _RECORDED.format("vLLM's own planning code at full model sizes, compute capability 9.0")
    return _counted("vllm", "0.33.0", proof, counts)


def _replayed(folder: str, engine: str, whose: str) -> dict[str, Any]:
    with gzip.open(DATA / folder / "cells.jsonl.gz", "rt") as stream:
        records = [json.loads(line) for line in stream]
    counts = {
        record["model"]: sum("Timeout" not in str(cell.get("error", "")) for cell in record["cells"])
        for record in records
    }
    return _counted(engine, records[0]["version"], _RECORDED.format(whose), counts)


def _counted(engine: str, version: str, proof: str, counts: dict[str, int]) -> dict[str, Any]:
    rows = {name: {"cells": count, "equal": count} for name, count in sorted(counts.items())}
    return {"engine": engine, "version": version, "proof": proof, "architectures": rows}


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


def line() -> str:
    """The summary in one sentence, for the README."""
    found = results()
    rows = [row for result in found for row in result["architectures"].values()]
    equal, cells = _sum(rows, "equal"), _sum(rows, "cells")
    names = ", ".join(result["engine"] for result in found)
    share = "all" if equal == cells else f"{equal:,}"
    return (
        f"**{cells:,} predictions held against {len(found)} engines ({names}), {share} equal to the byte**:\n"
        "[docs/ACCURACY.md](docs/ACCURACY.md).\n"
    )


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
