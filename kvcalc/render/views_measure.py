"""What a measurement shows a person: every tensor predicted and measured, and where the rest of the memory is."""

from __future__ import annotations

from kvcalc.render.parts import Answer
from kvcalc.render.sheet import Cell, Column, Sheet, number
from kvcalc.units import gib

_TENSOR_COLUMNS = (
    Column(title="rank", key="rank", drop=3),
    Column(title="array", key="name", style="name"),
    Column(title="block", key="block", drop=2),
    Column(title="count", key="count", right=True),
    Column(title="shape", key="shape", drop=4),
    Column(title="dtype", key="dtype", drop=1),
    Column(title="predicted", key="predicted_bytes", right=True),
    Column(title="measured", key="requested_bytes", right=True, style="bytes"),
    Column(title="equal", key="equal"),
)


def equal_cell(equal: bool) -> Cell:
    return Cell("yes" if equal else "NO", equal)


def compare_columns() -> tuple[Column, ...]:
    """The columns that `--measure` adds to a comparison."""
    return (
        Column(title="predicted", key="predicted_bytes", right=True),
        Column(title="measured", key="requested_bytes", right=True, style="bytes"),
        Column(title="equal", key="equal"),
    )


def compare_cells(record: Answer) -> tuple[Cell, ...]:
    measured = record["measured"]
    return (
        number(measured["predicted_bytes"]),
        number(measured["requested_bytes"]),
        equal_cell(measured["equal"]),
    )


def device_line(measured: Answer) -> str:
    device = measured["device"]
    known = (device["name"], device["runtime"], device["driver"] and f"driver {device['driver']}")
    torch = f"torch {device['torch_version']}" if device["torch_version"] else None
    return f"measured on {device['device']}: " + ", ".join(filter(None, (*known, torch)))


def measured_sheets(measured: Answer) -> tuple[Sheet, ...]:
    """Tensors, memory, and the largest load, as far as they were measured."""
    sheets = [_tensors(measured), _memory(measured)]
    if "until_full" in measured:
        sheets.append(_full(measured["until_full"]))
    return tuple(sheets)


def verdict(measured: Answer) -> str:
    if measured["missing_ranks"]:
        ranks = ", ".join(map(str, measured["missing_ranks"]))
        return f"NOT MEASURED: no report from rank {ranks}"
    if measured["equal"]:
        return f"EQUAL: {measured['predicted_bytes']:,} B predicted and measured"
    off = measured["requested_bytes"] - measured["predicted_bytes"]
    if off == 0:
        return "NOT EQUAL: see the rows above"
    return f"NOT EQUAL: measured {abs(off):,} B {'more' if off > 0 else 'less'} than predicted"


def _tensors(measured: Answer) -> Sheet:
    rows = tuple(
        (
            Cell(_ranks(rank["ranks"])),
            Cell(row["name"]),
            Cell(row["block"]),
            number(row["count"]),
            Cell(" x ".join(map(str, row["shape"]))),
            Cell(row["dtype"] if row["stored_as"] in ("", row["dtype"]) else f"{row['dtype']} as {row['stored_as']}"),
            number(row["predicted_bytes"]),
            number(row["requested_bytes"]),
            equal_cell(row["equal"]),
        )
        for rank in measured["measured_ranks"]
        for row in rank["tensors"]
    )
    total = (
        Cell(""),
        Cell("total"),
        *[Cell("")] * (len(_TENSOR_COLUMNS) - 5),
        number(measured["predicted_bytes"]),
        number(measured["requested_bytes"]),
        equal_cell(measured["equal"]),
    )
    return Sheet(lead=(device_line(measured),), columns=_TENSOR_COLUMNS, rows=rows, total=total)


def _ranks(ranks: list[int]) -> str:
    if len(ranks) > 1 and ranks == list(range(ranks[0], ranks[-1] + 1)):
        return f"{ranks[0]}-{ranks[-1]}"
    return ",".join(map(str, ranks))


def _memory(measured: Answer) -> Sheet:
    """Where the bytes of the device are, rank by rank: each line with what explains it."""
    rows = tuple(
        (Cell(_ranks(rank["ranks"])), Cell(name), number(value, none="-"), Cell(text))
        for rank in measured["measured_ranks"]
        for name, value, text in _lines(rank, measured["device"])
        if value is not None
    )
    columns = (
        Column(title="rank", key="rank", drop=1),
        Column(title="memory", key="item", style="name"),
        Column(title="bytes", key="bytes", right=True, style="bytes"),
        Column(title="what it is", key="meaning"),
    )
    return Sheet(title="where the memory is", columns=columns, rows=rows)


def _lines(rank: Answer, device: Answer) -> list[tuple[str, int | None, str]]:
    asked, granted, reserved = rank["requested_bytes"], rank["allocated_bytes"], rank["reserved_bytes"]
    used = "resident in this process" if device["device"] == "cpu" else "in use on the device, all processes"
    lines: list[tuple[str, int | None, str]] = [("requested", asked, "asked of the allocator: must equal the plan")]
    if granted is not None and reserved is not None:
        expected = (rank["expected_allocated_bytes"], rank["expected_reserved_bytes"])
        lines.append(("allocated", granted, f"+ {granted - asked:,} of rounding{_as_expected(granted, expected[0])}"))
        text = f"+ {reserved - granted:,} unused in segments{_as_expected(reserved, expected[1])}"
        lines.append(("reserved", reserved, text))
    lines.append(("used before", rank["device_used_before_bytes"], used))
    lines.append(("used with the cache", rank["device_used_bytes"], used))
    lines.append(("context", device["context_bytes"], "what the runtime itself took when it opened the device"))
    return lines


def _as_expected(seen: int, expected: int | None) -> str:
    if expected is None:
        return "; the allocator is configured, its rules are not predicted"
    return ", as its rules say" if seen == expected else f"; its rules say {expected:,}"


def _full(full: Answer) -> Sheet:
    columns = (
        Column(title="until full", key="item", style="name"),
        Column(title="allocated", key="measured", right=True, style="bytes"),
        Column(title="predicted", key="predicted", right=True),
        Column(title="by bytes alone", key="formula", right=True),
        Column(title="equal", key="equal"),
    )
    rows = tuple(
        (
            Cell(title),
            number(full[key]),
            number(full[f"predicted_{key}"]),
            number(full[f"formula_{key}"]),
            equal_cell(full[key] == full[f"predicted_{key}"]),
        )
        for title, key in (("max context", "max_context_tokens"), ("max sessions", "max_sessions"))
    )
    lead = (
        f"limit {full['limit_bytes']:,} B = {gib(full['limit_bytes'])} ({full['limit_is']}), {full['tries']} tries",
    )
    return Sheet(lead=lead, columns=columns, rows=rows)


def measured(answer: Answer) -> tuple[Sheet, ...]:
    """The sheets of a measurement beside another answer, where one was asked for."""
    return measured_sheets(answer["measured"]) if "measured" in answer else ()
