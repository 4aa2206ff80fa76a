"""What `doctor` shows a person: every finding, the fixes, and the verdict."""

from __future__ import annotations

from kvcalc.render.parts import Answer, page
from kvcalc.render.sheet import Cell, Column, Page, Sheet


def doctor_page(answer: Answer) -> Page:
    """All findings; the fixes of what does not work below them."""
    columns = (
        Column(title="area", key="area", style="name"),
        Column(title="item", key="item"),
        Column(title="", key="status"),
        Column(title="found", key="value"),
        Column(title="to do", key="fix", style="dim", drop=1),
    )
    rows = tuple(
        (Cell(row["area"]), Cell(row["item"]), Cell(row["status"]), Cell(row["value"]), Cell(row["fix"] or ""))
        for row in answer["results"]
    )
    number = answer["problems"]
    lines = [f"{number} problem{'s' if number > 1 else ''} found" if number else "no problem found"]
    lines += [
        f"{row['area']} {row['item']}: {row['value']}; {row['fix']}"
        for row in answer["results"]
        if row["status"] == "problem"
    ]
    return page(answer, Sheet(columns=columns, rows=rows), verdict="\n".join(lines), good=not number)
