"""What `plot` shows where nothing is drawn: its numbers as tables, a row per context or per line of a ledger."""

from __future__ import annotations

from dataclasses import replace

from kvcalc.render.parts import Answer, page, size
from kvcalc.render.plot.picture import picture_words
from kvcalc.render.sheet import Cell, Column, Page, Sheet, number
from kvcalc.render.views_fit import LEDGER_COLUMNS, ledger_row, ledger_total
from kvcalc.units import tokens_short

_NO_LIMIT = "unlimited"


def plot_page(answer: Answer) -> Page:
    """Tables for people; for CSV one row per point of every series."""
    refused = tuple(f"{row['engine']} refuses {row['model']}: {row['reason']}" for row in answer["refused"])
    if answer["inputs"]["what"] == "ledger":
        sheets = [_ledger(record) for record in answer["results"]]
        sheets[-1] = replace(sheets[-1], notes=(*sheets[-1].notes, *refused))
        title, lead = picture_words(answer)
        return replace(page(answer, Sheet(title=title, lead=lead), *sheets), records=_ledger_records(answer))
    return replace(page(answer, replace(_curves(answer), notes=refused)), records=_curve_records(answer))


def _curves(answer: Answer) -> Sheet:
    """A row per power of two, and the ends."""
    inputs, records = answer["inputs"], answer["results"]
    ends = (inputs["first_tokens"], inputs["last_tokens"])
    key = "max_sessions" if inputs["what"] == "sessions" else "total_bytes"
    contexts = sorted(
        {point["context_tokens"] for record in records for point in record["points"]}
        & {*ends, *(2**power for power in range(41))}
    )
    values = [{point["context_tokens"]: point[key] for point in record["points"]} for record in records]
    title, lead = picture_words(answer)
    columns = (Column(title="tokens", right=True), *(Column(title=r["name"], right=True) for r in records))
    rows = []
    for tokens in contexts:
        cells = [_cell(held, tokens, key) for held in values]
        beyond = [_beyond(record, tokens) for record in records]
        marked = [replace_text(cell) if over else cell for cell, over in zip(cells, beyond, strict=True)]
        rows.append((Cell(tokens_short(tokens), tokens), *marked))
    said = ("*: beyond the model's own limit",) if any(cell.text.endswith("*") for row in rows for cell in row) else ()
    return Sheet(title=title, lead=(*lead, *said), columns=columns, rows=tuple(rows))


def replace_text(cell: Cell) -> Cell:
    """The cell with the mark of a context that the model is not made for."""
    return Cell(f"{cell.text}*", cell.raw)


def _beyond(record: Answer, tokens: int) -> bool:
    limit = record["model"]["model_max_context"]
    return limit is not None and tokens > limit


def _cell(held: dict[int, int | None], tokens: int, key: str) -> Cell:
    if tokens not in held:
        return Cell("-", "")
    value = held[tokens]
    return number(value, none=_NO_LIMIT) if key == "max_sessions" or value is None else size(value)


def _curve_records(answer: Answer) -> Sheet:
    """series, engine, KV types, then the point as JSON has it."""
    keys = list(answer["results"][0]["points"][0])
    names = ("series", "model", "engine", "engine_version", "key_dtype", "value_dtype", "exactness", "gpus", *keys)
    rows = tuple(
        tuple(Cell(str(value), "" if value is None else value) for value in (*_who(record), *(p[k] for k in keys)))
        for record in answer["results"]
        for p in record["points"]
    )
    return Sheet(columns=tuple(Column(title=name, key=name) for name in names), rows=rows)


def _who(record: Answer) -> tuple[object, ...]:
    layout, kv = record["layout"], record["kv_dtype"]
    gpus = layout["tp"] * layout["pp"] * layout["dp"]
    engine = record["engine"]
    told = (record["name"], record["model"]["name"], engine["name"], engine["version"], kv["key"], kv["value"])
    return (*told, record["exactness"], gpus)


def _ledger(record: Answer) -> Sheet:
    need = ("asked load", size(record["needed_bytes"]).text, record["verdict"])
    return Sheet(
        title=record["name"],
        columns=LEDGER_COLUMNS,
        rows=tuple(ledger_row(line) for line in record["ledger"]),
        total=ledger_total(record),
        notes=(f"{need[0]} {need[1]}: {need[2]}",),
    )


def _ledger_records(answer: Answer) -> Sheet:
    keys = ("item", "bytes", "low_bytes", "high_bytes", "source", "detail", "exactness")
    names = ("series", "model", "engine", "engine_version", "key_dtype", "value_dtype", "label", "gpus", *keys)
    rows = tuple(
        tuple(Cell(str(value), value) for value in (*_who(record), *(line[key] for key in keys)))
        for record in answer["results"]
        for line in [*record["ledger"], _pool(record), _need(record)]
    )
    return Sheet(columns=tuple(Column(title=name, key=name) for name in names), rows=rows)


def _pool(record: Answer) -> dict[str, object]:
    low, high = record["pool_low_bytes"], record["pool_high_bytes"]
    told = {"source": "sum", "detail": "", "exactness": record["exactness"]}
    return {"item": "pool", "bytes": record["pool_bytes"], "low_bytes": low, "high_bytes": high, **told}


def _need(record: Answer) -> dict[str, object]:
    need = record["needed_bytes"]
    told = {"source": "plan", "detail": record["verdict"], "exactness": record["exactness"]}
    return {"item": "asked load", "bytes": need, "low_bytes": need, "high_bytes": need, **told}
