"""What `explain-log` shows a person."""

from __future__ import annotations

from kvcalc.render.parts import Answer, page
from kvcalc.render.sheet import Cell, Column, Page, Sheet, anything

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_FACTS = (
    Column(title="line", key="line", right=True, drop=2),
    Column(title="the log says", key="name", style="name"),
    Column(title="value", key="value", right=True),
    Column(title="unit", key="unit", style="dim"),
    Column(title="which means", key="meaning"),
)
_COMPARED = (
    Column(title="number", key="name", style="name"),
    Column(title="logged", key="logged", right=True),
    Column(title="computed", key="computed", right=True),
    Column(title="verdict", key="verdict"),
    Column(title="why", key="why"),
)
_DERIVED = (
    Column(title="follows", key="name", style="name"),
    Column(title="value", key="value", right=True),
    Column(title="unit", key="unit", style="dim"),
    Column(title="from", key="why"),
)
_ADVICE = (Column(title="change", key="change", style="name"), Column(title="effect", key="effect"))


def explain_log_page(answer: Answer) -> Page:
    """Facts with their meaning, refusals, what follows, the comparison with a model, what to change."""
    engine = answer["engine"]
    version = f" {engine['version']}" if engine["version"] else ""
    sheets = [
        Sheet(
            title=f"{engine['name']}{version}: {answer['status']}",
            lead=tuple(f"refused: {refusal['meaning'] or refusal['reason']}" for refusal in answer["refusals"]),
            columns=_FACTS,
            rows=_rows(answer["facts"], _FACTS),
        )
    ]
    for title, key, columns in (
        ("what follows", "derived", _DERIVED),
        ("compared with the model", "comparison", _COMPARED),
        ("what to change", "advice", _ADVICE),
    ):
        if answer[key]:
            sheets.append(Sheet(title=title, columns=columns, rows=_rows(answer[key], columns)))
    differ = [row["name"] for row in answer["comparison"] if row["verdict"] != "agrees"]
    verdict, good = "", None
    if answer["comparison"]:
        verdict = f"DIFFERS: {', '.join(differ)}" if differ else "AGREES with the model"
        good = not differ
    return page(answer, *sheets, verdict=verdict, good=good)


def _rows(records: list[dict[str, Any]], columns: tuple[Column, ...]) -> tuple[tuple[Cell, ...], ...]:
    return tuple(tuple(anything(record.get(column.key)) for column in columns) for record in records)
