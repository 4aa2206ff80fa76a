"""What a report consists of: sections of pages that the other commands show, too, in the order a planner reads."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from kvcalc.core.exactness import MEANINGS
from kvcalc.render.parts import Answer, kinds, load, report_sheets
from kvcalc.render.sheet import Cell, Column, Page, Sheet, number
from kvcalc.render.views import compare_page, components_sheet
from kvcalc.render.views_fit import fit_page
from kvcalc.render.views_planning import sessions_page
from kvcalc.render.views_plot import plot_page
from kvcalc.units import gib


class Section(NamedTuple):
    """A heading, a page, and what is under it: answers that are drawn, with their numbers; details for who asks."""

    title: str
    page: Page
    drawn: tuple[tuple[Answer, Page], ...] = ()
    details: tuple[Sheet, ...] = ()


_PAIR = (Column(title="", key="name", style="name"), Column(title="", key="value"))


def title(answer: Answer) -> str:
    return "KV cache of " + ", ".join(record["name"] for record in answer["results"])


def sections(answer: Answer) -> list[Section]:
    """The report, top to bottom."""
    refused = tuple(f"{row['engine']} refuses {row['model']}: {row['reason']}" for row in answer["refused"])
    compared = compare_page(answer["compare"])
    compared = replace(
        compared,
        assumptions=(*answer["assumptions"], *compared.assumptions),
        warnings=(*refused, *answer["warnings"], *compared.warnings),
    )
    drawn = tuple((curve, _numbers(curve)) for curve in answer["curves"])
    return [
        Section("Does it fit?", _verdicts(answer)),
        Section("Side by side", compared),
        Section("Pictures", Page(sheets=()), drawn),
        *(section for record in answer["results"] for section in _model(record)),
        Section("How far to trust it", _labels(answer)),
        Section("Made by", _made_by(answer)),
    ]


def _numbers(curve: Answer) -> Page:
    """Behind a picture; a ledger's are with its model, and what was assumed is said once, above."""
    if curve["inputs"]["what"] == "ledger":
        return Page(sheets=())
    return replace(plot_page(curve), assumptions=(), warnings=())


def _verdicts(answer: Answer) -> Page:
    """One line per model, and what would change it."""
    rows = []
    for record in answer["results"]:
        fitted = record["fit"]
        advice = "; ".join(f"{item['change']}: {gib(item['gain_bytes'])} more" for item in fitted["advice"][:2])
        rows.append((Cell(record["name"]), Cell(fit_page(fitted).verdict), Cell(advice)))
    columns = (
        Column(title="model", style="name"),
        Column(title="the asked load"),
        Column(title="gains most, per GPU"),
    )
    return Page(sheets=(Sheet(lead=(load({**answer["inputs"], "tp": 1}),), columns=columns, rows=tuple(rows)),))


def _model(record: Answer) -> list[Section]:
    """Where its numbers come from, its cache, the GPU's memory, its sessions."""
    fitted, engines = fit_page(record["fit"]), report_sheets(record["fit"])
    own = fitted.sheets[: len(fitted.sheets) - len(engines)]
    arrays = replace(components_sheet(record["fit"]), notes=())
    shown = replace(fitted, sheets=(_facts(record["fit"]), arrays, *own))
    found = [Section(record["name"], shown, details=engines)]
    if record["sessions"] is not None:
        held = sessions_page(record["sessions"])
        ledger, *rest = held.sheets  # the ledger is the one above
        sheets = (Sheet(lead=ledger.lead), *rest)
        found.append(Section(f"{record['name']}: sessions of real lengths", replace(held, sheets=sheets)))
    return found


def _facts(answer: Answer) -> Sheet:
    """The model, and the file its numbers were read from."""
    model = answer["model"]
    source = model["source"]
    facts = [
        ("architecture", Cell(model["architecture"] or "not stated")),
        ("layers", Cell(f"{model['layers']:,}: {kinds(model['kinds'])}")),
        ("parameters", number(model["parameters"], none="not stated")),
        ("stored as", Cell(model["dtype"])),
        ("own limit", number(model["model_max_context"], none="not stated")),
        ("given as", Cell(model["origin"])),
        *((f"source: {key}", Cell(str(value))) for key, value in source.items() if value),
    ]
    return Sheet(title="The model", columns=_PAIR, rows=tuple((Cell(name), cell) for name, cell in facts))


def _labels(answer: Answer) -> Page:
    """Which label is on which model, and what the labels mean."""
    rows = []
    for record in answer["results"]:
        engine = record["fit"]["engine"]
        who = f"{engine['name']} {engine['version']}"
        rows.append((Cell(record["name"]), Cell(who), Cell(record["fit"]["exactness"]), Cell(engine["verified_by"])))
    columns = (
        Column(title="model", style="name"),
        Column(title="engine"),
        Column(title="label"),
        Column(title="the engine's cache is proved by"),
    )
    meanings = Sheet(
        title="What the labels mean",
        columns=_PAIR,
        rows=tuple((Cell(label), Cell(text)) for label, text in MEANINGS.items()),
        notes=("A label is that of the least certain number beside it: with a GPU, mostly the ledger's overhead.",),
    )
    return Page(sheets=(Sheet(columns=columns, rows=tuple(rows)), meanings))


def _made_by(answer: Answer) -> Page:
    version = f"kvcalc {answer['kvcalc_version']}, answers of schema {answer['schema_version']}; made again by:"
    return Page(sheets=(Sheet(lead=(version,)), Sheet(lead=(answer["command_line"],))))


def report_page(answer: Answer) -> Page:
    """All of it as one page, for a terminal or a pipe; CSV gets the comparison."""
    sheets = [Sheet(title=title(answer))]
    for section in sections(answer):
        pages = [section.page, *(numbers for _, numbers in section.drawn)]
        sheets.append(Sheet(title=f"= {section.title}"))
        for page in pages:
            sheets += page.sheets
            said = (*page.assumptions, *(f"warning: {text}" for text in page.warnings))
            lead = (*((page.verdict,) if page.verdict else ()), *(f"assumed: {text}" for text in page.assumptions))
            lead = (*lead, *said[len(page.assumptions) :])
            sheets += [Sheet(lead=lead)] if lead else []
        sheets += section.details
    return Page(sheets=tuple(sheets), records=compare_page(answer["compare"]).sheets[0])
