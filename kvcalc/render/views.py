"""What each answer shows a person: columns and sentences, taken from the record and never computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from kvcalc.render.sheet import Cell, Column, Page, Sheet, bar, number
from kvcalc.render.views_log import explain_log_page
from kvcalc.render.views_measure import compare_cells, compare_columns, device_line, measured_sheets
from kvcalc.render.views_measure import verdict as verdict_of
from kvcalc.units import gb, gib, tokens_short

Answer = Mapping[str, Any]

#: As wide as its title, so that a comparison still fits 80 columns.
BAR_WIDTH = 8


def _page(answer: Answer, *sheets: Sheet, verdict: str = "", good: bool | None = None) -> Page:
    return Page(
        sheets=sheets,
        assumptions=tuple(answer.get("assumptions", ())),
        warnings=tuple(answer.get("warnings", ())),
        verdict=verdict,
        good=good,
    )


def _size(value: int) -> Cell:
    return Cell(gib(value), value)


def _kinds(kinds: Mapping[str, int]) -> str:
    return " + ".join(f"{count} {kind}" for kind, count in kinds.items())


def _context(value: int | None) -> Cell:
    return number(value)


def _load(inputs: Mapping[str, Any]) -> str:
    kv = inputs["kv_dtype"]
    dtype = kv["key"] if kv["key"] == kv["value"] else f"K {kv['key']}, V {kv['value']}"
    layout = ", ".join(f"{name} {inputs[name]}" for name in ("tp", "pp", "dp", "dcp") if (inputs[name] or 1) > 1)
    sessions = inputs["sessions"]
    text = f"{inputs['context_tokens']:,} tokens x {sessions:,} session{'s' if sessions > 1 else ''}, KV in {dtype}"
    return f"{text}, {layout}" if layout else text


def _engine(answer: Answer) -> str:
    engine = answer["engine"]
    version = "" if engine["name"] == "ideal" else f" {engine['version']}"
    return f"engine {engine['name']}{version}: {answer['exactness']}"


def compare_page(answer: Answer) -> Page:
    """One row per model; the widest cache fills the bar."""
    records = answer["results"]
    most = max(record["per_session_bytes"] for record in records)
    inputs = answer["inputs"]
    columns: tuple[Column, ...] = (
        Column(title="model", key="model", style="name"),
        Column(title="attention", key="kinds", style="dim", drop=3),
        Column(title="B/token", key="marginal_bytes_per_token", right=True),
        Column(title="fixed", key="fixed_bytes_per_session", right=True, drop=2),
        Column(
            title=f"cache @{tokens_short(inputs['context_tokens'])}", key="per_session_bytes", right=True, style="bytes"
        ),
        Column(title="relative", style="bar", drop=1),
        Column(title="x MHA", key="mha_ratio", right=True),
        Column(title="GPUs", key="gpus", right=True),
        Column(title="max ctx", key="max_context_tokens", right=True),
        Column(title="own limit", key="model_max_context", right=True, style="dim", drop=2),
        Column(title="sessions", key="max_sessions", right=True),
    )
    rows = tuple(_compare_row(record, most) for record in records)
    measured = all("measured" in record for record in records)
    if measured:
        columns = (*columns, *compare_columns())
        rows = tuple((*row, *compare_cells(record)) for row, record in zip(rows, records, strict=True))
    gpu = records[0]["gpu"]
    lead = [_load({**inputs, "tp": 1})]
    if gpu is not None:
        lead.append(f"GPU {gpu['name']} ({gib(gpu['total_bytes'])}, {gpu['total_is']}); {_engine(answer)}")
    else:
        lead.append(f"pool {gib(records[0]['pool_bytes'])} per GPU; {_engine(answer)}")
    if measured:
        lead.append(device_line(records[0]["measured"]))
    notes = [f"{record['model']['name']}: does not fit: {_why_not(record)}" for record in records if not record["fits"]]
    return _page(answer, Sheet(lead=tuple(lead), columns=columns, rows=rows, notes=tuple(notes)))


def _compare_row(record: Answer, most: int) -> tuple[Cell, ...]:
    ratio = record["mha_ratio"]
    layout = record["layout"]
    gpus = layout["tp"] * layout["pp"] * layout["dp"]
    return (
        Cell(record["model"]["name"]),
        Cell(_kinds(record["model"]["kinds"])),
        number(record["marginal_bytes_per_token"]),
        _size(record["fixed_bytes_per_session"]) if record["fixed_bytes_per_session"] else Cell("-", 0),
        _size(record["per_session_bytes"]),
        Cell(bar(record["per_session_bytes"], most, BAR_WIDTH)),
        Cell("-", "") if ratio is None else Cell(f"{ratio:.4f}".rstrip("0").rstrip("."), ratio),
        Cell(_degrees(layout), gpus),
        _context(record["max_context_tokens"]),
        number(record["model_max_context"], none="-"),
        number(record["max_sessions"]),
    )


def _degrees(layout: Mapping[str, int]) -> str:
    text = " ".join(f"{name}{layout[name]}" for name in ("tp", "pp", "dp") if layout[name] > 1)
    return text or "1"


def _why_not(record: Answer) -> str:
    pool = record["pool_bytes"]
    if pool <= 0:
        return f"the weights alone exceed each GPU by {gib(-pool)}"
    need = max(rank["bytes"] for rank in record["ranks"])
    return f"{gib(need)} needed per GPU, {gib(pool)} left ({gib(need - pool)} short)"


_COMPONENT_COLUMNS = (
    Column(title="array", key="name", style="name"),
    Column(title="block", key="block", drop=2),
    Column(title="kind", key="kind", drop=1),
    Column(title="layers", key="layers", right=True),
    Column(title="law", key="law", drop=3),
    Column(title="slots", key="slots", right=True),
    Column(title="dtype", key="dtype"),
    Column(title="bytes", key="bytes", right=True, style="bytes"),
)


def _components(answer: Answer) -> Sheet:
    rows = tuple(
        (
            Cell(row["name"]),
            Cell(row["block"]),
            Cell(row["kind"]),
            number(row["layers"]),
            Cell(row["law"]),
            number(row["slots"]),
            Cell(row["dtype"]),
            number(row["bytes"]),
        )
        for row in answer["components"]
    )
    total = (*(Cell("total") if index == 0 else Cell("") for index in range(7)), number(answer["total_bytes"]))
    title = f"{answer['model']['name']}: {gib(answer['total_bytes'])} ({gb(answer['total_bytes'])})"
    return Sheet(
        title=title,
        lead=(_load(answer["inputs"]), _engine(answer)),
        columns=_COMPONENT_COLUMNS,
        rows=rows,
        total=total,
        notes=_session_notes(answer),
    )


def _session_notes(answer: Answer) -> tuple[str, ...]:
    fixed, rate = answer["fixed_bytes_per_session"], answer["marginal_bytes_per_token"]
    notes = [f"one session, one copy: {answer['per_session_bytes']:,} B = {gib(answer['per_session_bytes'])}"]
    notes.append(f"long contexts: {fixed:,} B fixed + {rate:,} B per token")
    ranks = answer["ranks"]
    if len(ranks) > 1:
        most, least = max(r["bytes"] for r in ranks), min(r["bytes"] for r in ranks)
        each = gib(most) if most == least else f"{gib(least)} to {gib(most)}"
        notes.append(f"{len(ranks)} ranks, {each} each")
    return tuple(notes)


def size_page(answer: Answer) -> Page:
    shown = (_components(answer), *_measured(answer), *_report_sheet(answer))
    if "measured" not in answer:
        return _page(answer, *shown)
    return _page(answer, *shown, verdict=verdict_of(answer["measured"]), good=answer["measured"]["equal"])


def _measured(answer: Answer) -> tuple[Sheet, ...]:
    return measured_sheets(answer["measured"]) if "measured" in answer else ()


def measure_page(answer: Answer) -> Page:
    title = f"{answer['model']['name']}, {answer['cache']}" if answer["cache"] != "plan" else answer["model"]["name"]
    first, *others = measured_sheets(answer)
    first = replace(first, title=title, lead=(_load(answer["inputs"]), _engine(answer), *first.lead))
    return _page(answer, first, *others, verdict=verdict_of(answer), good=answer["equal"])


def _report_sheet(answer: Answer) -> tuple[Sheet, ...]:
    """The engine's own numbers, under its own names."""
    report = answer.get("engine_report") or {}
    scalars = [(key, value) for key, value in report.items() if isinstance(value, int | float | str | bool)]
    sheets = []
    if scalars:
        rows = tuple(
            (Cell(key), Cell(f"{value:,}" if type(value) is int else str(value), value)) for key, value in scalars
        )
        columns = (Column(title="engine's number", key="name"), Column(title="value", key="value", right=True))
        sheets.append(Sheet(title=f"{answer['engine']['name']} says", columns=columns, rows=rows))
    for key, value in report.items():
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            names = [name for name, first in value[0].items() if not isinstance(first, list | dict)]
            titles = tuple(Column(title=name, key=name, right=type(value[0][name]) is int) for name in names)
            listed = tuple(
                tuple(
                    Cell(f"{item[name]:,}" if type(item[name]) is int else str(item[name]), item[name])
                    for name in names
                )
                for item in value
            )
            sheets.append(Sheet(title=key, columns=titles, rows=listed))
    return tuple(sheets)


def fit_page(answer: Answer) -> Page:
    """The ledger, what it holds, and whether the asked load is among it."""
    gpu, layout = answer["gpu"], answer["layout"]
    where = f"{gpu['count']} x {gpu['name']}" if gpu else "the given pool"
    lines = tuple(
        (Cell(line["item"]), number(line["bytes"]), _size(line["bytes"]), Cell(line["exactness"]), Cell(line["source"]))
        for line in answer["ledger"]
    )
    columns = (
        Column(title="per GPU", key="item", style="name"),
        Column(title="bytes", key="bytes", right=True),
        Column(title="", right=True, style="bytes"),
        Column(title="label", key="exactness"),
        Column(title="source", key="source", style="dim", drop=1),
    )
    pool = answer["pool_bytes"]
    total = (Cell("= KV pool"), number(pool), _size(pool), Cell(""), Cell(""))
    ledger = Sheet(
        title=f"{answer['model']['name']} on {where}",
        lead=(_load(answer["inputs"]), _engine(answer)),
        columns=columns,
        rows=lines,
        total=total,
    )
    need = max(rank["bytes"] for rank in answer["ranks"])
    facts = [
        ("needed per GPU for the asked load", _size(need)),
        ("max context for the asked sessions", _context(answer["max_context_tokens"])),
        ("the model's own limit", number(answer["model_max_context"], none="not stated")),
        ("usable context", _context(answer["usable_context_tokens"])),
        ("max sessions at the asked context", number(answer["max_sessions"])),
        ("what binds", Cell(answer["binding_limit"])),
    ]
    held = Sheet(
        columns=(Column(title="holds", key="name"), Column(title="", key="value", right=True)),
        rows=tuple((Cell(name), cell) for name, cell in facts),
        notes=_session_notes(answer),
    )
    spare = gib(max(pool - need, 0))
    verdict = f"FITS: {spare} to spare per GPU" if answer["fits"] else f"DOES NOT FIT: {_why_not(answer)}"
    if layout["tp"] > 1 and not gpu:
        held = Sheet(columns=held.columns, rows=held.rows, notes=(*held.notes, f"pool per GPU, tp {layout['tp']}"))
    good = answer["fits"]
    if "measured" in answer:
        verdict, good = f"{verdict}\n{verdict_of(answer['measured'])}", good and answer["measured"]["equal"]
    return _page(answer, ledger, held, *_measured(answer), *_report_sheet(answer), verdict=verdict, good=good)


def explain_page(answer: Answer) -> Page:
    """Each product on its own lines, with where the rule was read."""
    lines = []
    for term in answer["terms"]:
        place = "" if term["block"] == "attention" else f" of block {term['block']}"
        lines.append(f"{term['component']}{place} ({term['kind']}, {term['slots_rule']}, {term['dtype']})")
        lines.append(f"    {term['formula']}")
    sources = dict.fromkeys(f"{term['kind']}: {term['source']}" for term in answer["terms"] if term["source"])
    one = " on the fullest rank" if len(answer["ranks"]) > 1 else ""
    total = f"sum{one}: {answer['rank_bytes']:,} B = {gib(answer['rank_bytes'])}"
    terms = Sheet(
        title=f"{answer['model']['name']}: {_kinds(answer['model']['kinds'])}",
        lead=(_load(answer["inputs"]), _engine(answer), "", *lines, "", total),
        notes=_session_notes(answer),
    )
    where = (Sheet(title="read from", lead=tuple(sources)),) if sources else ()
    return replace(_page(answer, terms, *where), records=_term_records(answer))


def _term_records(answer: Answer) -> Sheet:
    """The terms as rows, for programs."""
    keys = (
        "component",
        "block",
        "kind",
        "layers",
        "sessions",
        "slots",
        "slots_rule",
        "elements_per_slot",
        "bytes_per_slot",
        "dtype",
        "bytes",
    )
    columns = tuple(Column(title=key, key=key) for key in keys)
    return Sheet(
        columns=columns, rows=tuple(tuple(Cell(str(term[k]), term[k]) for k in keys) for term in answer["terms"])
    )


def variants_page(answer: Answer) -> Page:
    records = answer["results"]
    most = max(record["per_session_bytes"] for record in records)
    rows = tuple(
        (
            Cell(record["variant"]),
            number(record["marginal_bytes_per_token"]),
            _size(record["per_session_bytes"]),
            Cell(bar(record["per_session_bytes"], most, BAR_WIDTH)),
            Cell(f"{record['mha_ratio']:.7f}".rstrip("0").rstrip("."), record["mha_ratio"]),
            _context(record["max_context_tokens"]),
            number(record["max_sessions"]),
        )
        for record in records
    )
    columns = (
        Column(title="variant", key="variant", style="name"),
        Column(title="B/token", key="marginal_bytes_per_token", right=True),
        Column(title="cache", key="per_session_bytes", right=True, style="bytes"),
        Column(title="relative", style="bar", drop=1),
        Column(title="x MHA", key="mha_ratio", right=True),
        Column(title="max ctx", key="max_context_tokens", right=True),
        Column(title="sessions", key="max_sessions", right=True),
    )
    sheet = Sheet(
        title=f"{answer['model']['name']} with another attention, same pool of {gib(answer['pool_bytes'])} per GPU",
        lead=(_load(answer["inputs"]), _engine(answer)),
        columns=columns,
        rows=rows,
    )
    return _page(answer, sheet)


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
            Cell(_kinds(row["kinds"])),
            number(row["layers"]),
            number(row["parameters"], none="-"),
            number(row["model_max_context"], none="-"),
        )
        for row in answer["results"]
    )
    return _page(answer, Sheet(columns=columns, rows=rows, notes=(f"{len(rows)} models",)))


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
            _size(row["total_bytes"]),
            Cell(row["total_is"]),
            _bandwidth(row.get("bandwidth_bytes_per_s")),
        )
        for row in answer["results"]
    )
    return _page(answer, Sheet(columns=columns, rows=rows, notes=(f"{len(rows)} GPUs",)))


def _bandwidth(value: int | None) -> Cell:
    return Cell("-", "") if value is None else Cell(f"{value // 10**9:,}", value)


def engines_page(answer: Answer) -> Page:
    columns = (
        Column(title="engine", key="name", style="name"),
        Column(title="versions", key="versions"),
        Column(title="what", key="summary"),
        Column(title="proved by", key="verified_by", drop=1),
    )
    rows = tuple(
        (Cell(row["name"]), Cell(", ".join(row["versions"])), Cell(row["summary"]), Cell(row["verified_by"]))
        for row in answer["results"]
    )
    sheets = [Sheet(columns=columns, rows=rows)]
    only = answer["inputs"]["name"] is not None
    if only and answer["results"][0]["options"]:
        sheets.append(_options_sheet(answer["results"][0]["options"]))
    return _page(answer, *sheets)


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
            Cell("|".join(option["choices"]) or option["takes"]),
            Cell("engine's own" if option["default"] is None else str(option["default"])),
            Cell(option["help"]),
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
    return _page(answer, Sheet(columns=columns, rows=rows))


def validate_page(answer: Answer) -> Page:
    columns = (
        Column(title="file", key="file", style="name"),
        Column(title="", key="status"),
        Column(title="says", key="message"),
    )
    rows = tuple((Cell(row["file"]), Cell(row["status"]), Cell(row["message"])) for row in answer["results"])
    bad = sum(row["status"] != "ok" for row in answer["results"])
    verdict = f"{bad} of {len(rows)} files are broken" if bad else f"{len(rows)} files are valid"
    return _page(answer, Sheet(columns=columns, rows=rows), verdict=verdict, good=not bad)


VIEWS: dict[str, Callable[[Answer], Page]] = {
    "compare": compare_page,
    "size": size_page,
    "fit": fit_page,
    "explain": explain_page,
    "variants": variants_page,
    "measure": measure_page,
    "explain-log": explain_log_page,
    "models": models_page,
    "gpus": gpus_page,
    "engines": engines_page,
    "dtypes": dtypes_page,
    "validate": validate_page,
}
