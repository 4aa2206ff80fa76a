"""What each answer shows a person: columns and sentences, taken from the record and never computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kvcalc.render.parts import Answer, engine, kinds, load, page, report_sheets, session_notes, size, why_not
from kvcalc.render.sheet import BAR_WIDTH, Cell, Column, Page, Sheet, bar, number
from kvcalc.render.views_advise import advise_page
from kvcalc.render.views_doctor import doctor_page
from kvcalc.render.views_engines import engines_compare_page
from kvcalc.render.views_fit import fit_page
from kvcalc.render.views_lists import dtypes_page, engines_page, gpus_page, import_page, models_page, validate_page
from kvcalc.render.views_log import explain_log_page
from kvcalc.render.views_measure import compare_cells, compare_columns, device_line, measured, measured_sheets
from kvcalc.render.views_measure import verdict as verdict_of
from kvcalc.render.views_planning import layouts_page, plan_page, sessions_page
from kvcalc.render.views_tiers import offload_page, transfer_page
from kvcalc.units import gb, gib, tokens_short


def compare_page(answer: Answer) -> Page:
    """One row per model; the widest cache fills the bar."""
    if answer["inputs"].get("layouts"):
        return layouts_page(answer)
    records = answer["results"]
    if "refused" in answer:
        return engines_compare_page(answer)
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
    with_measured = all("measured" in record for record in records)
    if with_measured:
        columns = (*columns, *compare_columns())
        rows = tuple((*row, *compare_cells(record)) for row, record in zip(rows, records, strict=True))
    gpu = records[0]["gpu"]
    lead = [load({**inputs, "tp": 1})]
    if gpu is not None:
        lead.append(f"GPU {gpu['name']} ({gib(gpu['total_bytes'])}, {gpu['total_is']}); {engine(answer)}")
    else:
        lead.append(f"pool {gib(records[0]['pool_bytes'])} per GPU; {engine(answer)}")
    if with_measured:
        lead.append(device_line(records[0]["measured"]))
    notes = [f"{record['model']['name']}: does not fit: {why_not(record)}" for record in records if not record["fits"]]
    return page(answer, Sheet(lead=tuple(lead), columns=columns, rows=rows, notes=tuple(notes)))


def _compare_row(record: Answer, most: int) -> tuple[Cell, ...]:
    ratio = record["mha_ratio"]
    layout = record["layout"]
    gpus = layout["tp"] * layout["pp"] * layout["dp"]
    return (
        Cell(record["model"]["name"]),
        Cell(kinds(record["model"]["kinds"])),
        number(record["marginal_bytes_per_token"]),
        size(record["fixed_bytes_per_session"]) if record["fixed_bytes_per_session"] else Cell("-", 0),
        size(record["per_session_bytes"]),
        Cell(bar(record["per_session_bytes"], most, BAR_WIDTH)),
        Cell("-", "") if ratio is None else Cell(f"{ratio:.4f}".rstrip("0").rstrip("."), ratio),
        Cell(_degrees(layout), gpus),
        number(record["max_context_tokens"]),
        number(record["model_max_context"], none="-"),
        number(record["max_sessions"]),
    )


def _degrees(layout: Mapping[str, int]) -> str:
    text = " ".join(f"{name}{layout[name]}" for name in ("tp", "pp", "dp") if layout[name] > 1)
    return text or "1"


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


def components_sheet(answer: Answer) -> Sheet:
    """One row per array of one block."""
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
        lead=(load(answer["inputs"]), engine(answer)),
        columns=_COMPONENT_COLUMNS,
        rows=rows,
        total=total,
        notes=session_notes(answer),
    )


def size_page(answer: Answer) -> Page:
    shown = (components_sheet(answer), *measured(answer), *report_sheets(answer))
    if "measured" not in answer:
        return page(answer, *shown)
    return page(answer, *shown, verdict=verdict_of(answer["measured"]), good=answer["measured"]["equal"])


def measure_page(answer: Answer) -> Page:
    title = f"{answer['model']['name']}, {answer['cache']}" if answer["cache"] != "plan" else answer["model"]["name"]
    first, *others = measured_sheets(answer)
    first = first._replace(title=title, lead=(load(answer["inputs"]), engine(answer), *first.lead))
    return page(answer, first, *others, verdict=verdict_of(answer), good=answer["equal"])


def explain_page(answer: Answer) -> Page:
    """Each product on its own lines, with where the rule was read."""
    lines = []
    for term in answer["terms"]:
        place = "" if term["block"] in ("", "attention") else f" of block {term['block']}"
        about = ", ".join(filter(None, (term["kind"], term["slots_rule"], term["dtype"])))
        lines.append(f"{term['component']}{place} ({about})")
        lines.append(f"  {term['formula']}")
    sources = dict.fromkeys(f"{term['kind']}: {term['source']}" for term in answer["terms"] if term["source"])
    one = " on the fullest rank" if len(answer["ranks"]) > 1 else ""
    total = f"sum{one}: {answer['rank_bytes']:,} B = {gib(answer['rank_bytes'])}"
    terms = Sheet(
        title=f"{answer['model']['name']}: {kinds(answer['model']['kinds'])}",
        lead=(load(answer["inputs"]), engine(answer), "", *lines, "", total),
        notes=session_notes(answer),
    )
    where = (Sheet(title="read from", lead=tuple(sources)),) if sources else ()
    return page(answer, terms, *where)._replace(records=_term_records(answer))


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
            size(record["per_session_bytes"]),
            Cell(bar(record["per_session_bytes"], most, BAR_WIDTH)),
            Cell(f"{record['mha_ratio']:.7f}".rstrip("0").rstrip("."), record["mha_ratio"]),
            number(record["max_context_tokens"]),
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
        lead=(load(answer["inputs"]), engine(answer)),
        columns=columns,
        rows=rows,
    )
    return page(answer, sheet)


def _plot_page(answer: Answer) -> Page:
    from kvcalc.render.views_plot import plot_page  # with the axes of pictures, which no table needs

    return plot_page(answer)


def _report_page(answer: Answer) -> Page:
    from kvcalc.render.views_report import report_page  # made of the pages above

    return report_page(answer)


VIEWS: dict[str, Callable[[Answer], Page]] = {
    "compare": compare_page,
    "size": size_page,
    "fit": fit_page,
    "explain": explain_page,
    "variants": variants_page,
    "measure": measure_page,
    "explain-log": explain_log_page,
    "sessions": sessions_page,
    "plan": plan_page,
    "advise": advise_page,
    "offload": offload_page,
    "transfer": transfer_page,
    "plot": _plot_page,
    "report": _report_page,
    "models": models_page,
    "gpus": gpus_page,
    "engines": engines_page,
    "dtypes": dtypes_page,
    "validate": validate_page,
    "import": import_page,
    "doctor": doctor_page,
}
