"""What `advise` shows a person: the setting, the levers, the attention, the models, and the decision in sentences."""

from __future__ import annotations

from kvcalc.render.parts import Answer, engine, kinds, page, size
from kvcalc.render.sheet import Cell, Column, Page, Sheet, number
from kvcalc.units import gib, tokens_short

#: What a person sees of a refused model's sentence.
_WHY = 60


def advise_page(answer: Answer) -> Page:
    """The sentences come last, where a terminal ends; CSV is the models."""
    sheets = [_lead(answer)]
    if answer["now"] is not None:
        sheets.append(_now(answer))
    if answer["levers"]:
        sheets += _levers(answer)
    if answer["variants"]:
        sheets.append(_variants(answer))
    shown, every = _models(answer, answer["inputs"]["rows"]), _models(answer, None)
    sheets.append(shown)
    verdict = "\n".join(item["text"] for item in answer["decision"])
    made = page(answer, *sheets, verdict=verdict, good=None)
    return Page(
        sheets=made.sheets, records=every, assumptions=made.assumptions, warnings=made.warnings, verdict=made.verdict
    )


def _lead(answer: Answer) -> Sheet:
    inputs = answer["inputs"]
    name = answer["model"]["name"] if answer["model"] else "shipped models"
    sessions = inputs["sessions"]
    load = f"{inputs['context_tokens']:,} tokens x {sessions:,} session{'s' if sessions > 1 else ''}"
    return Sheet(title=f"{name} on {inputs['gpus']} x {inputs['gpu']}: {load}", lead=(engine(answer),))


def _now(answer: Answer) -> Sheet:
    now = answer["now"]
    spare = now["spare_bytes"]
    facts = [
        ("weights", size(now["weights_bytes"])),
        ("KV pool", size(now["pool_bytes"])),
        ("needed by the asked load", size(now["needed_bytes"])),
        ("to spare" if spare >= 0 else "short", Cell(gib(abs(spare)), spare)),
        ("max context for the asked sessions", number(now["max_context_tokens"])),
        ("the model's own limit", number(now["model_max_context"], none="not stated")),
        ("max sessions at the asked context", number(now["max_sessions"])),
        ("what binds", Cell(answer["bottleneck"])),
    ]
    return Sheet(
        columns=(Column(title="now, per GPU", key="name"), Column(title="", key="value", right=True)),
        rows=tuple((Cell(name), cell) for name, cell in facts),
    )


def _levers(answer: Answer) -> list[Sheet]:
    columns = (
        Column(title="lever", key="lever", style="name"),
        Column(title="change", key="change"),
        Column(title="GPUs", key="gpus", right=True),
        Column(title="sessions", key="max_sessions", right=True, style="bytes"),
        Column(title="gain", key="gain_sessions", right=True),
        Column(title="max ctx", key="max_context_tokens", right=True),
        Column(title="pool/GPU", key="pool_bytes", right=True, drop=3),
        Column(title="", key="verdict"),
        Column(title="note", key="note", style="dim", drop=2),
    )
    taken = [lever for lever in answer["levers"] if lever["held"] is not None]
    sheets = [Sheet(title="levers, one at a time", columns=columns, rows=tuple(map(_lever, taken)))] if taken else []
    refused = [lever for lever in answer["levers"] if lever["refused"] is not None]
    if refused:
        rows = tuple((Cell(lever["change"]), Cell(lever["refused"])) for lever in refused)
        pair = (Column(title="refused", key="change", style="name"), Column(title="why", key="refused"))
        sheets.append(Sheet(columns=pair, rows=rows))
    return sheets


def _lever(lever: Answer) -> tuple[Cell, ...]:
    held, gain, host = lever["held"], lever["gain_sessions"], lever["host_bytes"]
    return (
        Cell(lever["lever"]),
        Cell(lever["change"]),
        number(held["gpus"]),
        number(held["max_sessions"]),
        Cell("-", "") if gain is None else Cell(f"{gain:+,}", gain),
        number(held["max_context_tokens"]),
        size(held["pool_bytes"]),
        Cell("idle only" if host is not None else held["verdict"]),
        Cell(lever["note"] if host is None else f"{gib(host)}: {lever['note']}"),
    )


def _variants(answer: Answer) -> Sheet:
    columns = (
        Column(title="attention", key="variant", style="name"),
        Column(title="B/token", key="marginal_bytes_per_token", right=True),
        Column(
            title=f"cache @{tokens_short(answer['inputs']['context_tokens'])}",
            key="per_session_bytes",
            right=True,
            style="bytes",
        ),
        Column(title="x MHA", key="mha_ratio", right=True),
        Column(title="max ctx", key="max_context_tokens", right=True),
        Column(title="sessions", key="max_sessions", right=True),
    )
    rows = tuple(
        (
            Cell(row["variant"]),
            number(row["marginal_bytes_per_token"]),
            size(row["per_session_bytes"]),
            Cell(f"{row['mha_ratio']:.3g}", row["mha_ratio"]),
            number(row["max_context_tokens"]),
            number(row["max_sessions"]),
        )
        for row in answer["variants"]
    )
    return Sheet(title="the same model with another attention", columns=columns, rows=rows)


def _models(answer: Answer, rows: int | None) -> Sheet:
    """The models that hold the load; every one of them (rows None) for programs."""
    columns = (
        Column(title="model", key="model", style="name"),
        Column(title="attention", key="kinds", style="dim", drop=3),
        Column(title="parameters", key="parameters", right=True, drop=2),
        Column(title="B/token", key="marginal_bytes_per_token", right=True, drop=1),
        Column(title="layout", key="tp"),
        Column(title="max ctx", key="max_context_tokens", right=True),
        Column(title="own limit", key="model_max_context", right=True),
        Column(title="sessions", key="max_sessions", right=True, style="bytes"),
        Column(title="", key="why"),
    )
    results = answer["results"]
    holding = [row for row in results if row["holds"]]
    shown = results if rows is None else (holding or [row for row in results if row["held"] is not None])[:rows]
    notes = []
    if rows is not None:
        refused = [row for row in results if row["held"] is None]
        left = len(holding) - len(shown)
        notes += [f"{left} more hold it: --rows {len(holding)}"] if left > 0 else []
        notes += [f"{row['model']} left out: {_cut(row['why'])}" for row in refused[:3]]
        notes += [f"{len(refused) - 3} more left out: --json says why"] if len(refused) > 3 else []
    title = "shipped models of similar size" if answer["model"] else "shipped models, best first"
    return Sheet(title=title, columns=columns, rows=tuple(map(_model, shown)), notes=tuple(notes))


def _cut(text: str) -> str:
    return text if len(text) <= _WHY else f"{text[: _WHY - 3]}..."


def _model(row: Answer) -> tuple[Cell, ...]:
    held = row["held"]
    layout = None if held is None else held["layout"]
    shown = "-" if layout is None else " ".join(f"{key}{layout[key]}" for key in ("tp", "pp", "dp") if layout[key] > 1)
    return (
        Cell(row["model"]),
        Cell(kinds(row["kinds"])),
        number(row["parameters"], none="-"),
        number(row["marginal_bytes_per_token"], none="-"),
        Cell(shown or "tp1"),
        Cell("-", "") if held is None else number(held["max_context_tokens"]),
        number(row["model_max_context"], none="-"),
        Cell("-", "") if held is None else number(held["max_sessions"]),
        Cell(held["verdict"] if held is not None and row["holds"] else row["why"]),
    )
