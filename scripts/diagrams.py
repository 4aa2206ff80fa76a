"""Draws docs/diagrams/*.svg from shipped models: what one layer stores, and which tokens it keeps.

One picture per kind. The first line shows who reads a stored vector (query heads above what serves them), then one
strip per array: a cell is a token, a filled cell is kept. Windows, chunks and groups are drawn small; the numbers
beside them are the model's. `scripts/docs.py` writes the files and checks that they are current.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from kvcalc.core.component import Component
    from kvcalc.core.model import Kind

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "diagrams"


class Shown(NamedTuple):
    """A picture: the model it is drawn from and one of its blocks."""

    model: str
    block: str


#: file name -> what it shows. Kinds first, then the properties of an attention kind.
DIAGRAMS: dict[str, Shown] = {
    "mha": Shown("llama-2-7b", "attention"),
    "mqa": Shown("falcon-7b", "attention"),
    "gqa": Shown("llama-3-8b", "attention"),
    "mla": Shown("deepseek-v2", "attention"),
    "csa": Shown("deepseek-v4-flash", "csa"),
    "hca": Shown("deepseek-v4-flash", "hca"),
    "mamba1": Shown("falcon-mamba-7b", "ssm"),
    "mamba2": Shown("nemotron-h-8b", "ssm"),
    "gated_deltanet": Shown("qwen3-next-80b-a3b", "linear"),
    "kda": Shown("kimi-linear-48b-a3b", "kda"),
    "lightning": Shown("minimax-text-01", "lightning"),
    "rglru": Shown("recurrentgemma-2b", "lru"),
    "rwkv": Shown("rwkv-5-3b", "rwkv"),
    "short_conv": Shown("lfm2-1.2b", "conv"),
    "cross": Shown("whisper-large-v3", "cross"),
    "shared": Shown("gemma-3n-e4b", "local_shared"),
    "none": Shown("nemotron-h-8b", "none"),
    "window": Shown("gemma-3-27b", "local"),
    "chunk": Shown("llama-4-scout", "chunked"),
    "indexer": Shown("deepseek-v3.2", "attention"),
}

WIDTH, LEFT, CELL, TOKENS = 540, 20, 16, 30
STRIP = CELL * TOKENS
#: Drawn instead of the model's own width: a window, a chunk, and the tokens of one slot.
DRAWN_WINDOW, DRAWN_CHUNK, DRAWN_GROUP = 8, 12, 4
_LAW_WORDS = {"linear": "every token", "constant": "the same at any length"}
_STYLE = """
  .card { fill: #ffffff; stroke: #cbd5e1 }
  text { font: 13px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", Arial, sans-serif; fill: #1e293b }
  .name { font-weight: 600 } .small { font-size: 12px; fill: #475569 }
  .key { fill: #2563eb } .value { fill: #0d9488 } .index { fill: #d97706 } .conv { fill: #db2777 }
  .state { fill: #7c3aed } .pending { fill: #64748b } .query { fill: #94a3b8 }
  .gone { fill: #f1f5f9; stroke: #cbd5e1 } .open { fill: none; stroke: #64748b; stroke-dasharray: 3 2 }
  .line { stroke: #64748b; fill: none }
  @media (prefers-color-scheme: dark) {
    .card { fill: #1b1f27; stroke: #3f4856 } text { fill: #e5e9f0 } .small { fill: #b3bccb }
    .key { fill: #5b8ff5 } .value { fill: #2bb5a6 } .index { fill: #f0a53a } .conv { fill: #ee5fa0 }
    .state { fill: #a584f5 } .query { fill: #8793a7 } .gone { fill: #272d38; stroke: #454f5f }
    .line, .open { stroke: #a3adbd }
  }
""".strip("\n")


class Row(NamedTuple):
    """One array of the layer: what it is called, what a slot is, and which slots exist."""

    component: Component
    dtype: str
    slot_bytes: int


def pictures() -> dict[Path, str]:
    """Every file with what it should hold."""
    return {FOLDER / f"{name}.svg": picture(name, shown) for name, shown in DIAGRAMS.items()}


def picture(name: str, shown: Shown) -> str:
    """One card: who reads, then a strip per array."""
    import kvcalc

    loaded = kvcalc.load(shown.model)
    kind = loaded.model.blocks[shown.block]
    rows = _rows(kind, shown.block, loaded.cache("32k").components)
    title = f"{name}: one layer of {shown.model}, block {shown.block}"
    which = f", block {shown.block}" if len(loaded.model.blocks) > 1 else ""
    body, bottom = _body(kind, rows)
    size = f'viewBox="0 0 {WIDTH} {bottom + 14}" width="{WIDTH}" height="{bottom + 14}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>\n{_STYLE}\n</style>",
        f'<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{bottom + 13}" rx="8"/>',
        _text(LEFT, 24, f"one layer of {shown.model}{which}", "name"),
        *body,
        "</svg>\n",
    ]
    return "\n".join(lines)


def _rows(kind: Kind, block: str, components: list[Any]) -> list[Row]:
    """The arrays of one layer with the type and bytes that the plan gives them; `ideal` leaves out open groups."""
    planned = {row["name"]: row for row in components if row["block"] == block}
    rows = []
    for component in kind.lower():
        plan = planned.get(component.name)
        if plan is not None:
            rows.append(Row(component, plan["dtype"], plan["bytes"] // plan["layers"] // max(plan["slots"], 1)))
    return rows


def _body(kind: Kind, rows: list[Row]) -> tuple[list[str], int]:
    """The lines of the card, and where it ends."""
    if not rows:
        words = (
            "reads the cache that another layer wrote" if kind.kind == "shared" else "keeps nothing of earlier tokens"
        )
        cells = [_rect(x, 44, CELL - 2, 18, "gone") for x in _columns()]
        return [*cells, _text(LEFT, 82, f"{words}: 0 B", "small")], 88
    body, y = _readers(kind, rows), 50
    if body:
        y = 104
    for row in rows:
        body += _strip(row, y)
        y += 70
    return body, y - 18


def _readers(kind: Kind, rows: list[Row]) -> list[str]:
    """Query heads as small squares, and below them the stored heads, each as wide as the queries it serves."""
    heads = getattr(kind, "heads", None)
    if heads is None or rows[0].component.role not in ("key", "pending"):
        return []
    stored = rows[0].component.parts[0].units
    drawn = min(heads, 32)
    step = STRIP / drawn
    units = max(1, stored * drawn // heads)
    body = [_rect(LEFT + i * step, 38, step - 2, 8, "query") for i in range(drawn)]
    body += [_rect(LEFT + i * STRIP / units, 50, STRIP / units - 2, 8, "key") for i in range(units)]
    noun = "one stored vector" if stored == 1 else f"{stored} stored heads"
    some = f" ({drawn} drawn)" if drawn < heads else ""
    body.append(_text(LEFT, 76, f"{heads} query heads{some} read {noun}", "small"))
    return body


def _strip(row: Row, y: int) -> list[str]:
    """Name and slot of an array, and the tokens it keeps."""
    shape = " + ".join(" x ".join(f"{number:,}" for number in part[:2] if number > 1) for part in row.component.parts)
    line = f'<tspan class="name">{escape(row.component.name)}</tspan> {shape} x {row.dtype} = {row.slot_bytes:,} B'
    return [
        f'<text x="{LEFT}" y="{y}">{line} a slot</text>',
        *_cells(row, y + 8),
        _text(LEFT, y + 42, _slots(row.component), "small"),
    ]


def _cells(row: Row, y: int) -> Iterator[str]:
    """The strip of tokens by growth law."""
    law, role = row.component.law, row.component.role
    rule = law.rule
    if rule == "strided":
        group = DRAWN_GROUP if _group(law) <= 8 else DRAWN_CHUNK
        for start in range(0, TOKENS, group):
            whole = start + group <= TOKENS
            width = min(group, TOKENS - start) * CELL - 2
            yield _rect(LEFT + start * CELL, y, width, 18, role if whole else "open")
        return
    if rule == "constant" and role == "state":
        yield from (_rect(x, y + 5, CELL - 2, 8, "gone") for x in _columns(TOKENS - 6))
        end = LEFT + (TOKENS - 6) * CELL
        yield f'<path class="line" d="M{end} {y + 9} h14 m-5 -4 l5 4 l-5 4"/>'
        yield _rect(end + 20, y - 2, 74, 22, role)
        return
    for place, x in enumerate(_columns()):
        yield _rect(x, y, CELL - 2, 18, role if _kept(row.component, place) else "gone")


def _group(law: Any) -> int:
    return int(law.tokens_per_slot)


def _kept(component: Component, place: int) -> bool:
    """Whether the token at `place` of the drawn session is still stored."""
    law: Any = component.law
    if law.rule == "windowed":
        return place >= TOKENS - DRAWN_WINDOW or place < min(law.sinks, 2)
    if law.rule == "chunked":
        return place >= TOKENS - TOKENS % DRAWN_CHUNK
    if law.rule == "constant":
        return place >= TOKENS - (1 if "shift" in component.name else law.count)
    return True


def _slots(component: Component) -> str:
    """Slots of a session of n tokens, in words."""
    law: Any = component.law
    if law.rule == "linear":
        return "slots: n, one per token"
    if law.rule == "windowed":
        sinks = f" + {law.sinks:,} first ones" if law.sinks else ""
        return f"slots: min(n, {law.window + law.sinks:,}), the last {law.window:,} tokens{sinks}"
    if law.rule == "chunked":
        return f"slots: min(n, {law.chunk:,}), the tokens of the current chunk"
    if law.rule == "strided":
        return f"slots: n / {law.tokens_per_slot} rounded down, one per {law.tokens_per_slot} tokens"
    if law.rule == "encoder":
        return "slots: one per encoder token; tokens of the answer add none"
    if component.role == "conv":
        what = "vectors of the last token" if "shift" in component.name else "the last inputs of the convolution"
        return f"slots: {law.count}, {what}"
    return f"slots: {law.count}, all earlier tokens folded into one state"


def _columns(count: int = TOKENS) -> Iterator[float]:
    return (LEFT + place * CELL for place in range(count))


def _rect(x: float, y: float, width: float, height: float, style: str) -> str:
    return f'<rect class="{style}" x="{x:g}" y="{y:g}" width="{max(width, 1):g}" height="{height:g}" rx="2"/>'


def _text(x: float, y: float, words: str, style: str) -> str:
    return f'<text class="{style}" x="{x:g}" y="{y:g}">{escape(words)}</text>'
