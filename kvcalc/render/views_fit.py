"""What `fit` shows a person: the ledger, what the pool holds, the verdict."""

from __future__ import annotations

from kvcalc.render.parts import Answer, engine, load, page, report_sheets, session_notes, size, why_not
from kvcalc.render.sheet import Cell, Column, Page, Sheet, number
from kvcalc.render.views_measure import measured
from kvcalc.render.views_measure import verdict as verdict_of
from kvcalc.units import gib

_BINDING = {
    "weights": "weights and overhead",
    "memory": "memory",
    "options": "the engine's options",
    "model_max_context": "the model's own limit",
    "none": "nothing",
}


def fit_page(answer: Answer) -> Page:
    """The ledger, what it holds, and whether the asked load is among it."""
    required = "; ".join(map(_requirement, answer["requirements"]))
    met = all(item["met"] for item in answer["requirements"])
    verdict, good = _verdict(answer), answer["fits"] and met
    if required:  # what decides the exit code stands first
        verdict = f"{verdict}; {required}" if met else f"NOT ENOUGH: {required}; the asked load: {verdict}"
    if "measured" in answer:
        verdict, good = f"{verdict}\n{verdict_of(answer['measured'])}", good and answer["measured"]["equal"]
    sheets = (ledger(answer, load(answer["inputs"])), _holds(answer), *measured(answer), *report_sheets(answer))
    return page(answer, *sheets, verdict=verdict, good=good)


def ledger(answer: Answer, *lead: str) -> Sheet:
    """Where each GPU's memory goes."""
    gpu = answer["gpu"]
    where = f"{gpu['count']} x {gpu['name']}" if gpu else "the given pool"
    return Sheet(
        title=f"{answer['model']['name']} on {where}",
        lead=(*lead, engine(answer)),
        columns=LEDGER_COLUMNS,
        rows=tuple(ledger_row(line) for line in answer["ledger"]),
        total=ledger_total(answer),
    )


LEDGER_COLUMNS = (
    Column(title="per GPU", key="item", style="name"),
    Column(title="bytes", key="bytes", right=True, drop=3),
    Column(title="best", right=True, style="bytes"),
    Column(title="low", key="low_bytes", right=True, drop=1),
    Column(title="high", key="high_bytes", right=True, drop=1),
    Column(title="from", key="source"),
    Column(title="how", key="detail", style="dim", drop=2),
)


def ledger_row(line: Answer) -> tuple[Cell, ...]:
    """One line of the ledger: what it adds to or takes from the pool."""
    banded = line["low_bytes"] != line["high_bytes"]
    return (
        Cell(line["item"]),
        number(line["bytes"]),
        size(line["bytes"]),
        size(line["low_bytes"]) if banded else Cell("", line["low_bytes"]),
        size(line["high_bytes"]) if banded else Cell("", line["high_bytes"]),
        Cell(line["source"]),
        Cell(line["detail"]),
    )


def ledger_total(answer: Answer) -> tuple[Cell, ...]:
    pool = answer["pool_bytes"]
    low, high = size(answer["pool_low_bytes"]), size(answer["pool_high_bytes"])
    return (Cell("= KV pool"), number(pool), size(pool), low, high, Cell(""), Cell(""))


def _holds(answer: Answer) -> Sheet:
    need = max(rank["bytes"] for rank in answer["ranks"])
    facts = [
        ("needed per GPU for the asked load", size(need)),
        ("max context for the asked sessions", at_least(answer["max_context_tokens"], answer["low_context_tokens"])),
        ("the model's own limit", number(answer["model_max_context"], none="not stated")),
        ("usable context", number(answer["usable_context_tokens"])),
        ("max sessions at the asked context", at_least(answer["max_sessions"], answer["low_sessions"])),
        ("what binds", Cell(_BINDING[answer["binding_limit"]], answer["binding_limit"])),
    ]
    if "at_lengths" in answer:
        facts.extend(_at_lengths(answer["at_lengths"]))
    notes = session_notes(answer)
    if answer["layout"]["tp"] > 1 and not answer["gpu"]:
        notes = (*notes, f"pool per GPU, tp {answer['layout']['tp']}")
    return Sheet(
        columns=(Column(title="holds", key="name"), Column(title="", key="value", right=True)),
        rows=tuple((Cell(name), cell) for name, cell in facts),
        notes=notes,
    )


def _at_lengths(record: Answer) -> list[tuple[str, Cell]]:
    work = record["workload"]
    mean = f"{work['mean_prompt_tokens']:,} + {work['mean_output_tokens']:,} tokens on average"
    held, why = at_least(record["max_sessions"], record["low_sessions"]), record["binding_limit"]
    return [(f"max sessions of {mean}", held), ("what binds them", Cell(why))]


def at_least(best: int | None, low: int | None) -> Cell:
    """`96,000 (at least 81,000)`: the best guess and the worst case."""
    shown = number(best)
    return shown if best == low or low is None else Cell(f"{shown.text} (at least {low:,})", best)


def _verdict(answer: Answer) -> str:
    pool, need = answer["pool_bytes"], max(rank["bytes"] for rank in answer["ranks"])
    if answer["verdict"] == "FITS":
        return f"FITS: {gib(max(pool - need, 0))} to spare per GPU"
    if answer["verdict"] == "DOES NOT FIT" and answer["binding_limit"] == "options" and pool >= need:
        return "DOES NOT FIT: the engine's options give less than is asked"
    if answer["verdict"] == "DOES NOT FIT":
        text = f"DOES NOT FIT: {why_not(answer)}"
    else:
        low, high = gib(answer["pool_low_bytes"]), gib(answer["pool_high_bytes"])
        text = f"BORDERLINE: {gib(need)} needed per GPU, pool {gib(pool)} ({low} to {high})"
    if answer["advice"]:
        first = answer["advice"][0]
        text += f"; {first['change']} would gain {gib(first['gain_bytes'])}"
    return text


def _requirement(item: Answer) -> str:
    what, required, held = item["what"], item["required"], item["held"]
    if held is None:
        return f"{required:,} {what} required, unlimited held"
    if item["met"]:
        return f"{required:,} {what} required, {held:,} held: {held - required:,} to spare"
    return (
        f"{required:,} {what} required, {held:,} held: {required - held:,} short ({gib(item['missing_bytes'])} per GPU)"
    )
