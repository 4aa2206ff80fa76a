"""What several answers show alike: sizes, the asked load, the engine, an engine's own numbers."""

from __future__ import annotations

from collections.abc import Mapping

from kvcalc.core.light import Any
from kvcalc.render.sheet import Cell, Column, Page, Sheet, anything
from kvcalc.units import gib

Answer = Mapping[str, Any]


def page(answer: Answer, *sheets: Sheet, verdict: str = "", good: bool | None = None) -> Page:
    return Page(
        sheets=sheets,
        assumptions=tuple(answer.get("assumptions", ())),
        warnings=tuple(answer.get("warnings", ())),
        verdict=verdict,
        good=good,
    )


def size(value: int) -> Cell:
    return Cell(gib(value), value)


def kinds(kinds: Mapping[str, int]) -> str:
    return " + ".join(f"{count} {kind}" for kind, count in kinds.items())


def load(inputs: Mapping[str, Any]) -> str:
    kv = inputs["kv_dtype"]
    dtype = kv["key"] if kv["key"] == kv["value"] else f"K {kv['key']}, V {kv['value']}"
    layout = ", ".join(f"{name} {inputs[name]}" for name in ("tp", "pp", "dp", "dcp") if (inputs[name] or 1) > 1)
    sessions = inputs["sessions"]
    text = f"{inputs['context_tokens']:,} tokens x {sessions:,} session{'s' if sessions > 1 else ''}, KV in {dtype}"
    return f"{text}, {layout}" if layout else text


def engine(answer: Answer) -> str:
    engine = answer["engine"]
    version = "" if engine["name"] == "ideal" else f" {engine['version']}"
    return f"engine {engine['name']}{version}: {answer['exactness']}"


def session_notes(answer: Answer) -> tuple[str, ...]:
    fixed, rate = answer["fixed_bytes_per_session"], answer["marginal_bytes_per_token"]
    notes = [f"one session, one copy: {answer['per_session_bytes']:,} B = {gib(answer['per_session_bytes'])}"]
    notes.append(f"long contexts: {fixed:,} B fixed + {rate:,} B per token")
    ranks = answer["ranks"]
    if len(ranks) > 1:
        most, least = max(r["bytes"] for r in ranks), min(r["bytes"] for r in ranks)
        each = gib(most) if most == least else f"{gib(least)} to {gib(most)}"
        notes.append(f"{len(ranks)} ranks, {each} each")
    return tuple(notes)


def report_sheets(answer: Answer) -> tuple[Sheet, ...]:
    """The engine's own numbers, under its own names."""
    report = answer.get("engine_report") or {}
    scalars = [(key, value) for key, value in report.items() if isinstance(value, int | float | str | bool)]
    sheets = []
    if scalars:
        rows = tuple((Cell(key), anything(value)) for key, value in scalars)
        columns = (Column(title="engine's number", key="name"), Column(title="value", key="value", right=True))
        sheets.append(Sheet(title=f"{answer['engine']['name']} says", columns=columns, rows=rows))
    for key, value in report.items():
        if isinstance(value, dict) and value and not any(isinstance(item, list | dict) for item in value.values()):
            named = tuple((Cell(str(name)), anything(item)) for name, item in value.items())
            pair = (Column(title=key, key="name", style="name"), Column(title="", key="value", right=True))
            sheets.append(Sheet(columns=pair, rows=named))
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            names = [name for name, held in value[0].items() if not isinstance(held, list | dict)]
            titles = tuple(Column(title=name, key=name, right=type(value[0][name]) is int) for name in names)
            listed = tuple(tuple(anything(item[name]) for name in names) for item in value)
            sheets.append(Sheet(title=key, columns=titles, rows=listed))
    return tuple(sheets)


def why_not(record: Answer) -> str:
    pool = record["pool_bytes"]
    if pool <= 0:
        return f"weights and overhead exceed each GPU by {gib(-pool)}"
    need = max(rank["bytes"] for rank in record["ranks"])
    return f"{gib(need)} needed per GPU, {gib(pool)} left ({gib(need - pool)} short)"
