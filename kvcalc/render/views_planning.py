"""What `sessions`, `plan` and `compare --layouts` show a person."""

from __future__ import annotations

from kvcalc.render.parts import Answer, engine, load, page, size
from kvcalc.render.sheet import Cell, Column, Page, Sheet, number
from kvcalc.render.views_fit import at_least, ledger
from kvcalc.units import gib


def layouts_page(answer: Answer) -> Page:
    """The same GPUs divided in several ways, one row each."""
    several = len({record["model"]["name"] for record in answer["results"]}) > 1
    columns = (
        *((Column(title="model", key="model", style="name"),) if several else ()),
        Column(title="layout", key="layout", style="name"),
        Column(title="weights/GPU", key="weights_bytes", right=True),
        Column(title="pool/GPU", key="pool_bytes", right=True, style="bytes"),
        Column(title="at least", key="pool_low_bytes", right=True, drop=2),
        Column(title="cache/GPU", key="rank_bytes", right=True, drop=1),
        Column(title="longest", key="max_context_tokens", right=True),
        Column(title="sessions", key="max_sessions", right=True, style="bytes"),
        Column(title="", key="verdict", drop=3),
    )
    rows = tuple(_layout_row(record, several=several) for record in answer["results"])
    gpu, inputs = answer["results"][0]["gpu"], answer["inputs"]
    lead = (f"{load({**inputs, 'tp': 1, 'pp': 1, 'dp': 1, 'dcp': 1})}; longest: of {inputs['sessions']:,} at once",)
    name = answer["results"][0]["model"]["name"] + ": " if not several else ""
    title = f"{name}{inputs['gpus']} GPUs, {gpu['name']}"
    return page(answer, Sheet(title=title, lead=(*lead, engine(answer)), columns=columns, rows=rows))


def _layout_row(record: Answer, *, several: bool) -> tuple[Cell, ...]:
    weights = -sum(line["bytes"] for line in record["ledger"] if line["item"] == "weights")
    return (
        *((Cell(record["model"]["name"]),) if several else ()),
        Cell(layout_name(record["layout"])),
        size(weights),
        size(record["pool_bytes"]),
        size(record["pool_low_bytes"]),
        size(max(rank["bytes"] for rank in record["ranks"])),
        number(record["max_context_tokens"]),
        number(record["max_sessions"]),
        Cell(record["verdict"]),
    )


def layout_name(layout: Answer) -> str:
    """`tp4pp2`, as --layouts reads it."""
    return "".join(f"{name}{layout[name]}" for name in ("tp", "pp", "dp", "dcp", "ep") if layout[name] > 1) or "tp1"


_FACTS = (Column(title="sessions of real lengths", key="name"), Column(title="", key="value", right=True))
_LIMITS = {
    "wait": "requests wait",
    "preempt": "preemptions",
    "max_num_seqs": "max_num_seqs",
    "prefill": "prefill (max_num_batched_tokens)",
    "longest_request": "the longest request",
}


def sessions_page(answer: Answer) -> Page:
    """Sessions at the target, what binds, the load they are, and the bounds people know."""
    return page(answer, ledger(answer, _lead(answer)), _held(answer), _limits(answer), verdict=_verdict(answer))


def _lead(answer: Answer) -> str:
    work = answer["workload"]
    text = f"prompt {work['mean_prompt_tokens']:,} and output {work['mean_output_tokens']:,} tokens on average"
    if work["shared_prompt_tokens"]:
        text += f", after {work['shared_prompt_tokens']:,} shared ones"
    return f"{text}, arrivals {work['arrivals']}"


def _held(answer: Answer) -> Sheet:
    at = answer["at_sessions"]
    rows = [
        ("sessions", at_least(answer["max_sessions"], answer["low_sessions"])),
        ("what binds", Cell(_bound(answer), answer["binding_limit"])),
        ("one session on average", size(answer["mean_session_bytes"])),
        (f"requests that wait, at {at:,}", Cell(f"{answer['wait_rate']:.2%}", answer["wait_rate"])),
        (f"preemptions per request, at {at:,}", Cell(f"{answer['preempt_rate']:.3%}", answer["preempt_rate"])),
        (f"wanted on average, at {at:,}", _used(answer, "mean")),
        (f"used 99 % of the time at most, at {at:,}", _used(answer, "p99")),
        ("all as long as the longest", number(answer["worst_case_sessions"])),
        ("all as long as the model allows", number(answer["full_context_sessions"], none="not stated")),
    ]
    if answer["shared_bytes"]:
        rows.insert(3, ("shared prompt, held once", size(answer["shared_bytes"])))
    return Sheet(columns=_FACTS, rows=tuple((Cell(name), cell) for name, cell in rows))


def _used(answer: Answer, which: str) -> Cell:
    blocks, whole = answer[f"{which}_used_blocks"], answer["pool_blocks"]
    used = answer[f"{which}_used_bytes"]
    if blocks is None:
        return size(used)
    return Cell(f"{blocks:,} of {whole:,} blocks, {gib(used)}", blocks)


def _limits(answer: Answer) -> Sheet:
    columns = (Column(title="limit", key="limit"), Column(title="sessions", key="sessions", right=True))
    rows = tuple((Cell(_LIMITS[name]), number(value, none="does not bind")) for name, value in answer["limits"].items())
    return Sheet(columns=columns, rows=rows)


def _bound(answer: Answer) -> str:
    """The limit that binds, in words."""
    name = str(answer["binding_limit"])
    return _LIMITS.get(name, name)


def _verdict(answer: Answer) -> str:
    held = answer["max_sessions"]
    if held is None:
        return "no limit binds"
    text = f"{held:,} sessions; what binds: {_bound(answer)}"
    asked = answer["at_sessions"]
    if asked > held:
        text += f"; at {asked:,} {answer['wait_rate']:.0%} of requests wait"
    return text


def plan_page(answer: Answer) -> Page:
    """The cheapest sets first; the type of K and V tells rows apart where several were asked for."""
    several = len({row["kv_dtype"] for row in answer["results"]}) > 1
    columns = (
        Column(title="GPUs", key="gpus", right=True, style="bytes"),
        Column(title="type", key="gpu", style="name"),
        Column(title="layout", key="layout"),
        Column(title="replicas", key="replicas", right=True),
        Column(title="KV", key="kv_dtype", drop=0 if several else 3),
        Column(title="sessions", key="sessions", right=True),
        Column(title="at least", key="low_sessions", right=True, drop=2),
        Column(title="pool/GPU", key="pool_bytes", right=True, drop=4),
        Column(title="$/h", key="cost_micro_usd_per_hour", right=True, style="bytes"),
        Column(title="$/session-h", key="session_micro_usd_per_hour", right=True, drop=1),
        Column(title="$/M tokens-h", key="million_tokens_micro_usd_per_hour", right=True, drop=5),
    )
    inputs, rows = answer["inputs"], answer["results"]
    lead = (f"{inputs['users']:,} sessions of {answer['live_tokens']:,} live tokens on average", engine(answer))
    notes = [f"{row['gpu']}: {_source(row)}" for row in rows if row["price"]]
    notes += [f"{layout_name(row['layout'])} on {row['gpu']}: {row['flags']}" for row in rows[:1] if row["flags"]]
    sheet = Sheet(
        title=f"{answer['model']['name']} for {inputs['users']:,} users",
        lead=lead,
        columns=columns,
        rows=tuple(_plan_row(row) for row in rows),
        notes=tuple(dict.fromkeys(notes)),
    )
    if not rows:
        return page(answer, sheet, verdict="DOES NOT FIT: none of these GPUs holds the load", good=False)
    first = rows[0]
    verdict = f"{first['gpus']:,} x {first['gpu']}: {first['headroom_sessions']:,} sessions to spare"
    return page(answer, sheet, verdict=verdict, good=True)


def _source(row: Answer) -> str:
    price = row["price"]
    where = "given" if price["kind"] == "given" else f"{price['kind']}, {price['source']}, {price['date']}"
    return f"${price['usd_per_hour']} per GPU and hour, {where}"


def _plan_row(row: Answer) -> tuple[Cell, ...]:
    return (
        number(row["gpus"]),
        Cell(row["gpu"]),
        Cell(layout_name(row["layout"])),
        number(row["replicas"]),
        Cell(row["kv_dtype"]),
        number(row["sessions"]),
        number(row["low_sessions"]),
        size(row["pool_bytes"]),
        _usd(row["cost_micro_usd_per_hour"], 2),
        _usd(row["session_micro_usd_per_hour"], 4),
        _usd(row["million_tokens_micro_usd_per_hour"], 2),
    )


def _usd(ends: list[int] | None, digits: int) -> Cell:
    """A range of 1e-6 USD as dollars; the middle for programs."""
    if ends is None:
        return Cell("-", "")
    low, high = (f"{end / 10**6:,.{digits}f}" for end in ends)
    return Cell(low if low == high else f"{low} - {high}", sum(ends) // 2)
