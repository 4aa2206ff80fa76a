"""What is in a picture, before any library draws it: lines or bars, axes, and the sentences around them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from kvcalc.errors import UsageError
from kvcalc.render.parts import Answer
from kvcalc.render.plot.axis import Axis, bytes_axis, counts_axis, tokens_axis
from kvcalc.units import gib, tokens_short

#: Okabe and Ito's colour-blind-safe palette (jfly.uni-koeln.de/color, 2008) without its yellow, which white swallows,
#: and with a grey instead.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#767676")
#: Of the parts that every bar has: colour and hatch. The engines' own lines take what is left of both in turn.
NEEDED, FREE = "asked load", "free in the pool"
LOOKS = {
    "weights": ("#0072B2", ""),
    "unused share": ("#BBBBBB", "..."),
    NEEDED: ("#009E73", "///"),
    FREE: ("#9FE0CB", ""),
}
_ITEM_COLOURS = ("#E69F00", "#56B4E9", "#CC79A7", "#D55E00", "#767676")
_ITEM_HATCHES = ("xxx", "\\\\\\", "|||", "---", "ooo", "+++")
Point = tuple[int, int]


class Line(NamedTuple):
    """One curve. inside: up to the model's own limit; beyond: from there on, where the model is not made for it.

    low, high: in the worst and best case, at contexts they share, empty where there is no such thing; low may be 0
    even on a log axis. under: how many later lines lie exactly on this one, which is then drawn wider.
    """

    name: str
    colour: str
    inside: tuple[Point, ...]
    beyond: tuple[Point, ...]
    low: tuple[Point, ...]
    high: tuple[Point, ...]
    limit: int | None
    under: int = 0

    @property
    def points(self) -> tuple[Point, ...]:
        """All of it."""
        return self.inside + (self.beyond[1:] if self.inside else self.beyond)


class Part(NamedTuple):
    """One piece of a bar; colour and hatch are the item's in every bar."""

    item: str
    size: int
    colour: str
    hatch: str


class Bar(NamedTuple):
    """One GPU's memory from left to right. best_start, worst_start: where the pool begins in these cases."""

    name: str
    parts: tuple[Part, ...]
    total: int
    best_start: int
    worst_start: int
    verdict: str


class Picture(NamedTuple):
    """lead: under the title; notes: below the picture, what a reader must know whoever draws it."""

    title: str
    lead: tuple[str, ...]
    x: Axis
    y: Axis | None
    lines: tuple[Line, ...] = ()
    bars: tuple[Bar, ...] = ()
    notes: tuple[str, ...] = ()


def signs(drawn: Picture) -> tuple[str, ...]:
    """What the signs of an image mean, of those that are in it."""
    said = (
        ("dashed, hollow: beyond the model's own limit", any(line.beyond for line in drawn.lines)),
        ("shaded: worst to best case of the GPU's memory", any(line.low for line in drawn.lines)),
        ("black line: the memory there is", bool(drawn.bars)),
        ("whisker: where the pool begins, best to worst case", any(b.best_start != b.worst_start for b in drawn.bars)),
    )
    return tuple(text for text, holds in said if holds)


def picture(answer: Answer) -> Picture:
    """The picture of a `plot` answer.

    Raises: UsageError when nothing of it can be drawn.
    """
    if answer["inputs"]["what"] == "ledger":
        return _ledger(answer)
    return _curves(answer)


def picture_words(answer: Answer) -> tuple[str, tuple[str, ...]]:
    """Title and lead: what is drawn, who allocates, in which type, on what, and how far to trust it."""
    inputs = answer["inputs"]
    if inputs["what"] == "ledger":
        title = f"Memory of each GPU, load of {_sessions(inputs)} of {tokens_short(inputs['context_tokens'])} tokens"
    elif inputs["what"] == "sessions":
        title = "Sessions that fit, by context"
    else:
        title = f"KV cache of {_sessions(inputs)}, by context"
    models = {record["model"]["name"] for record in answer["results"]}
    return f"{title}: {min(models)}" if len(models) == 1 else title, _lead(answer)


def _curves(answer: Answer) -> Picture:
    inputs = answer["inputs"]
    log, sessions = inputs["scale"] == "log", inputs["what"] == "sessions"
    key = "max_sessions" if sessions else "total_bytes"
    lines: list[Line] = []
    empty: list[Line] = []
    for index, record in enumerate(answer["results"]):
        line = _line(record, key, PALETTE[index % len(PALETTE)], log=log)
        (lines if line.points else empty).append(line)
    if not lines:
        what = "not one session fits" if sessions else "there is no cache"
        raise UsageError(f"nothing to draw: {what} at any of these contexts", fix="see --format plain", field="what")
    counted = _counts(answer)
    lines = [
        line._replace(under=_under(lines, place), name=counted.get(line.name, line.name))
        for place, line in enumerate(lines)
    ]
    values = [value for line in lines for run in (line.points, line.low, line.high) for _, value in run]
    values = [value for value in values if value >= log]
    y = counts_axis("sessions", values, log=log) if sessions else bytes_axis("KV cache (GiB = 2^30 B)", values, log=log)
    notes = _notes(lines, [line.name for line in empty], sessions=sessions)
    x = tokens_axis(inputs["first_tokens"], inputs["last_tokens"], log=log)
    return Picture(*picture_words(answer), x, y, lines=tuple(lines), notes=notes)


def _sessions(inputs: Answer) -> str:
    number = inputs["sessions"]
    return "one session" if number == 1 else f"{number:,} sessions"


def _line(record: Answer, key: str, colour: str, *, log: bool) -> Line:
    """The curve of one record. A log axis has no place for 0, and unlimited has no place on any."""
    limit = record["model"]["model_max_context"]

    def run(name: str, least: int = int(log)) -> tuple[Point, ...]:
        values = ((point["context_tokens"], point.get(name)) for point in record["points"])
        return tuple((tokens, value) for tokens, value in values if value is not None and value >= least)

    points = run(key)
    inside = tuple(point for point in points if limit is None or point[0] <= limit)
    beyond = points[max(len(inside) - 1, 0) :] if len(inside) < len(points) else ()
    banded = key == "max_sessions" and any(
        point["low_sessions"] != point["high_sessions"] for point in record["points"]
    )
    high = run("high_sessions") if banded else ()
    seen = {tokens for tokens, _ in high}
    low = tuple(point for point in run("low_sessions", 0) if point[0] in seen) if banded else ()
    return Line(record["name"], colour, inside, beyond, low, high, limit)


def _under(lines: Sequence[Line], place: int) -> int:
    """How many later lines hide this one."""
    return sum(later.points == lines[place].points for later in lines[place + 1 :])


def _notes(lines: Sequence[Line], empty: Sequence[str], *, sessions: bool) -> tuple[str, ...]:
    notes = []
    for place, line in enumerate(lines):
        first = next((other.name for other in lines[:place] if other.points == line.points), None)
        if first is not None:
            notes.append(f"{line.name}: the same as {first}")
    what = "not one session fits, or their number has no limit" if sessions else "no cache"
    notes += [f"{name}: {what}" for name in empty]
    return tuple(notes)


def _lead(answer: Answer) -> tuple[str, ...]:
    """Who allocates, in which type, on what, and how far to trust it."""
    records, inputs = answer["results"], answer["inputs"]
    engines = list(dict.fromkeys(_engine(record) for record in records))
    types = list(dict.fromkeys(_dtype(record) for record in records))
    degrees = " ".join(f"{name}{inputs[name]}" for name in ("tp", "pp", "dp", "dcp") if (inputs[name] or 1) > 1)
    words = [
        f"engine {', '.join(engines)}" if len(engines) < 4 else f"{len(engines)} engines",
        f"KV in {', '.join(types)}",
        *([_place(answer)] if inputs["what"] != "context" else []),
        *([degrees] if degrees else []),
    ]
    return ("; ".join(words), f"kvcalc {answer['kvcalc_version']}: {answer['exactness']}")


def _place(answer: Answer) -> str:
    """The GPUs, or the pool that was given."""
    gpu = answer["results"][0]["gpu"]
    if answer["inputs"]["pool_bytes"] is not None:
        return f"pool {gib(answer['inputs']['pool_bytes'])} per GPU"
    if gpu is None:
        return "the pool of the log"
    name: str = gpu["name"]
    return name if _counts(answer) else f"{gpu['count']} x {name}"


def _counts(answer: Answer) -> dict[str, str]:
    """The names with their numbers of GPUs, where these differ."""
    if answer["inputs"]["what"] == "context" or any(record["gpu"] is None for record in answer["results"]):
        return {}
    named = {record["name"]: record["gpu"]["count"] for record in answer["results"]}
    if len(set(named.values())) == 1:
        return {}
    return {name: f"{name}, {count} GPU{'s' if count > 1 else ''}" for name, count in named.items()}


def _engine(record: Answer) -> str:
    engine = record["engine"]
    return engine["name"] if engine["name"] == "ideal" else f"{engine['name']} {engine['version']}"


def _dtype(record: Answer) -> str:
    kv = record["kv_dtype"]
    return kv["key"] if kv["key"] == kv["value"] else f"K {kv['key']}, V {kv['value']}"


def _ledger(answer: Answer) -> Picture:
    counted = _counts(answer)
    looks = dict(LOOKS)
    for record in answer["results"]:
        for line in record["ledger"][1:]:
            spare = len(looks) - len(LOOKS)  # 5 colours and 6 hatches: no pair comes twice before the thirtieth
            pair = (_ITEM_COLOURS[spare % len(_ITEM_COLOURS)], _ITEM_HATCHES[spare % len(_ITEM_HATCHES)])
            looks.setdefault(line["item"], pair)
    bars = tuple(_bar(record, looks, counted.get(record["name"], record["name"])) for record in answer["results"])
    most = max(max(bar.total, bar.worst_start, sum(part.size for part in bar.parts)) for bar in bars)
    notes = tuple(f"{bar.name}: {bar.verdict}" for bar in bars if bar.verdict != "FITS")
    x = bytes_axis("memory of one GPU, GiB", [0, most], log=False)
    return Picture(*picture_words(answer), x, None, bars=bars, notes=notes)


def _bar(record: Answer, looks: dict[str, tuple[str, str]], name: str) -> Bar:
    """Weights first, the pool last; the pool is what the load takes of it and what stays free."""
    total, *lines = record["ledger"]
    taken = sorted(((line["item"], -line["bytes"]) for line in lines), key=lambda part: part[0] != "weights")
    pool, needed = max(record["pool_bytes"], 0), record["needed_bytes"]
    parts = [(item, size) for item, size in (*taken, (NEEDED, needed), (FREE, pool - needed)) if size > 0]
    size = total["bytes"]
    return Bar(
        name=name,
        parts=tuple(Part(item, part, *looks[item]) for item, part in parts),
        total=size,
        best_start=size - record["pool_high_bytes"],
        worst_start=size - record["pool_low_bytes"],
        verdict=record["verdict"],
    )
