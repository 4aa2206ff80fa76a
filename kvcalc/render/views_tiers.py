"""What `offload` and `transfer` show a person."""

from __future__ import annotations

from kvcalc.render.parts import Answer, engine, load, page, size
from kvcalc.render.sheet import Cell, Column, Page, Sheet, number
from kvcalc.units import gb, gib

_FACTS = (Column(title="", key="name"), Column(title="", key="value", right=True))


def offload_page(answer: Answer) -> Page:
    """Bytes of the idle sessions, then the tiers that hold them."""
    inputs = answer["inputs"]
    facts = [
        ("one session as stored", _both(answer["session_bytes"])),
        (f"{inputs['sessions']:,} sessions", _both(answer["total_bytes"])),
        ("one copy without chunks", size(answer["copy_bytes"])),
    ]
    if answer["reload_ns"] is not None:
        facts.append(("reload of one session", _time(answer["reload_ns"])))
    sheets = [
        Sheet(
            title=f"{answer['model']['name']}: idle sessions",
            lead=(load(inputs), engine(answer)),
            columns=_FACTS,
            rows=tuple((Cell(name), cell) for name, cell in facts),
        )
    ]
    if answer["results"]:
        sheets.append(_tiers(answer))
    missing = [row["tier"] for row in answer["results"] if not row["holds_asked"]]
    verdict = f"{' and '.join(missing)}: not all of them fit" if missing else ""
    return page(answer, *sheets, verdict=verdict, good=False if missing else None)


def _tiers(answer: Answer) -> Sheet:
    columns = (
        Column(title="tier", key="tier", style="name"),
        Column(title="size", key="capacity_bytes", right=True),
        Column(title="sessions", key="sessions", right=True, style="bytes"),
        Column(title="reload of one", key="reload_ns", right=True),
    )
    rows = tuple(
        (Cell(row["tier"]), size(row["capacity_bytes"]), number(row["sessions"]), _time(row["reload_ns"]))
        for row in answer["results"]
    )
    return Sheet(columns=columns, rows=rows)


def transfer_page(answer: Answer) -> Page:
    """One hand-off, and what a rate of them needs."""
    facts = [
        ("one hand-off", _both(answer["handoff_bytes"])),
        ("of it to the fullest rank", size(answer["rank_bytes"])),
    ]
    if answer["handoff_bytes"] != answer["copy_bytes"]:
        facts.insert(1, ("one undivided copy", size(answer["copy_bytes"])))
    if answer["handoff_ns"] is not None:
        facts.append(("time on the link", _time(answer["handoff_ns"])))
        facts.append(("requests per second the link carries", _thousandths(answer["milli_requests_per_second"])))
    if answer["bytes_per_second"] is not None:
        facts.append(("bandwidth", Cell(f"{gb(answer['bytes_per_second'])}/s", answer["bytes_per_second"])))
    if answer["link_share"] is not None:
        facts.append(("share of the link", Cell(f"{answer['link_share']:.1%}", answer["link_share"])))
        facts.append(("hand-offs under way", _thousandths(answer["milli_in_flight"])))
    sheet = Sheet(
        title=f"{answer['model']['name']}: prefill to decode",
        lead=(load(answer["inputs"]), engine(answer)),
        columns=_FACTS,
        rows=tuple((Cell(name), cell) for name, cell in facts),
    )
    over = answer["link_share"] is not None and answer["link_share"] > 1
    return page(answer, sheet, verdict="the link is too slow" if over else "", good=False if over else None)


def _both(value: int) -> Cell:
    return Cell(f"{value:,} B = {gib(value)} = {gb(value)}", value)


def _time(nanoseconds: int | None) -> Cell:
    if nanoseconds is None:
        return Cell("-", "")
    if nanoseconds < 10**9:
        return Cell(f"{nanoseconds / 10**6:,.1f} ms", nanoseconds)
    return Cell(f"{nanoseconds / 10**9:,.2f} s", nanoseconds)


def _thousandths(value: int) -> Cell:
    return Cell(f"{value / 1000:,.3f}".rstrip("0").rstrip("."), value)
