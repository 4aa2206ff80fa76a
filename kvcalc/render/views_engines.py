"""What `compare --engines` shows a person: one row per engine, and the engines that refuse."""

from __future__ import annotations

from kvcalc.render.parts import Answer, load, page, size
from kvcalc.render.sheet import BAR_WIDTH, Cell, Column, Page, Sheet, bar, number
from kvcalc.units import gib, tokens_short


def engines_compare_page(answer: Answer) -> Page:
    """Cache of one session, what the GPU holds, and what sets each engine apart."""
    records, inputs = answer["results"], answer["inputs"]
    most = max(record["per_session_bytes"] for record in records)
    several = len({record["model"]["name"] for record in records}) > 1
    columns = (
        *([Column(title="model", key="model", style="name")] if several else []),
        Column(title="engine", key="engine", style="name"),
        Column(title="version", key="version", style="dim", drop=3),
        Column(
            title=f"cache @{tokens_short(inputs['context_tokens'])}", key="per_session_bytes", right=True, style="bytes"
        ),
        Column(title="relative", style="bar", drop=2),
        Column(title="max ctx", key="max_context_tokens", right=True),
        Column(title="sessions", key="max_sessions", right=True),
        Column(title="label", key="exactness"),
        Column(title="what sets it apart", key="differs", style="dim", drop=1),
    )
    rows = tuple(_row(record, most, several=several) for record in records)
    gpu = records[0]["gpu"]
    where = f"GPU {gpu['name']} ({gib(gpu['total_bytes'])})" if gpu else f"pool {gib(records[0]['pool_bytes'])} per GPU"
    title = "" if several else records[0]["model"]["name"]
    refused = tuple(
        f"{row['engine']} refuses{' ' + row['model'] if several else ''}: {row['reason']}" for row in answer["refused"]
    )
    lead = (load({**inputs, "tp": inputs["tp"] or 1}), where)
    return page(answer, Sheet(title=title, lead=lead, columns=columns, rows=rows, notes=refused))


def _row(record: Answer, most: int, *, several: bool) -> tuple[Cell, ...]:
    cells = (
        Cell(record["engine"]["name"]),
        Cell(record["engine"]["version"]),
        size(record["per_session_bytes"]),
        Cell(bar(record["per_session_bytes"], most, BAR_WIDTH)),
        number(record["max_context_tokens"]),
        number(record["max_sessions"]),
        Cell(record["exactness"]),
        Cell(record["differs"]),
    )
    return (Cell(record["model"]["name"]), *cells) if several else cells
