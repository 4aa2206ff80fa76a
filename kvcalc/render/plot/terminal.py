"""A picture in the terminal: curves by plotext, bars as characters; colour only where the table has it, too.

Every line carries its letter and every part of a bar its own fill, so that nothing depends on colour; a stream that
cannot write the drawing characters, or TERM=dumb, gets letters and plain ASCII.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from math import log2
from string import ascii_lowercase
from textwrap import wrap
from typing import TYPE_CHECKING, Any, NamedTuple

from kvcalc.render.parts import Answer
from kvcalc.render.plot import missing
from kvcalc.render.plot.axis import Axis
from kvcalc.render.plot.picture import FREE, NEEDED, Bar, Line, Picture, Point, picture
from kvcalc.units import gib

if TYPE_CHECKING:
    from types import ModuleType

_HEIGHT, _LEAST_HEIGHT = 24, 12
_LEAST_WIDTH = 40
#: The steps of xterm's colour cube.
_LEVELS = (0, 95, 135, 175, 215, 255)
_ASCII = str.maketrans({"┌": "+", "┐": "+", "└": "+", "┘": "+", "┤": "+", "┬": "+", "─": "-", "│": "|"})
_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
_FILLS = {"weights": "█", "unused share": "░", NEEDED: "▓", FREE: "·"}
_ASCII_FILLS = {"weights": "#", "unused share": "-", NEEDED: "=", FREE: "."}


class Screen(NamedTuple):
    """What the output can show."""

    width: int
    height: int
    colour: bool
    unicode: bool


def screen() -> Screen:
    """Standard output: its size, colour (a terminal without NO_COLOR), drawing characters (where it can write them)."""
    size = shutil.get_terminal_size((100, 40))
    dumb = os.environ.get("TERM") == "dumb"
    colour = sys.stdout.isatty() and not dumb and not os.environ.get("NO_COLOR")
    try:
        "⣿┤█".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        drawn = False
    else:
        drawn = not dumb
    height = min(max(size.lines - 12, _LEAST_HEIGHT), _HEIGHT)
    return Screen(max(size.columns, _LEAST_WIDTH), height, colour, drawn)


def print_picture(answer: Answer) -> None:
    """Draw a `plot` answer, with its assumptions and warnings below.

    Raises: UsageError without plotext, or when nothing can be drawn.
    """
    sys.stdout.write(text_picture(answer, screen()))


def text_picture(answer: Answer, shown: Screen) -> str:
    """The drawing as text."""
    drawn = picture(answer)
    body = _bars(drawn, shown) if drawn.bars else _curves(drawn, shown)
    lines = [*_wrapped([drawn.title, *drawn.lead], shown.width), "", *body, ""]
    signs = ["|  the memory there is"] if drawn.bars else []
    signs += ["dotted: beyond the model's own limit"] if any(line.beyond for line in drawn.lines) else []
    lines += _wrapped([*signs, *drawn.notes], shown.width)
    refused = [f"{row['engine']} refuses {row['model']}: {row['reason']}" for row in answer["refused"]]
    for word, texts in (("assumed", answer["assumptions"]), ("warning", [*answer["warnings"], *refused])):
        if texts:
            lines += ["", f"{word}:", *_wrapped([f"- {text}" for text in texts], shown.width, "  ")]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _wrapped(texts: Any, width: int, indent: str = "") -> list[str]:
    more = indent + "  "
    return [line for text in texts for line in wrap(text, width, initial_indent=indent, subsequent_indent=more) or [""]]


def _curves(drawn: Picture, shown: Screen) -> list[str]:
    """The curves in a frame and, under it, which letter is which."""
    try:
        import plotext
    except ImportError:
        raise missing("plotext") from None
    y = drawn.y or drawn.x
    plotext.clear_figure()
    plotext.theme("clear")
    plotext.plotsize(shown.width, shown.height)
    for index, line in enumerate(drawn.lines):
        _curve(plotext, drawn, line, ascii_lowercase[index], shown)
    plotext.xticks([_at(drawn.x, place) for place in drawn.x.places], drawn.x.labels)
    plotext.yticks([_at(y, place) for place in y.places], y.labels)
    plotext.xlim(_at(drawn.x, drawn.x.low), _at(drawn.x, drawn.x.high))
    plotext.ylim(_at(y, y.low), _at(y, y.high))
    plotext.xlabel(drawn.x.title)
    frame: str = plotext.build()
    plotext.clear_figure()
    if not shown.colour:
        frame = _ESCAPE.sub("", frame)
    if not shown.unicode:
        frame = frame.translate(_ASCII)
    keys = [
        _coloured(f"{ascii_lowercase[index]}  {line.name}", line.colour, shown)
        for index, line in enumerate(drawn.lines)
    ]
    return [f"{y.title}", *frame.splitlines(), *keys]


def _curve(plotext: ModuleType, drawn: Picture, line: Line, letter: str, shown: Screen) -> None:
    """The line to the model's limit, then dots; its letter where the axis has ticks and at its end."""
    y = drawn.y or drawn.x

    def put(run: tuple[Point, ...], marker: str, *, joined: bool) -> None:
        if run:
            xs = [_at(drawn.x, tokens) for tokens, _ in run]
            ys = [_at(y, value) for _, value in run]
            code = _code(line.colour)
            draw = plotext.plot if joined else plotext.scatter
            draw(xs, ys, marker=marker, color="default" if code is None else code)

    put(line.inside, "braille" if shown.unicode else letter, joined=True)
    put(line.beyond, "·" if shown.unicode else ".", joined=False)
    ends = {*drawn.x.places, line.points[-1][0]}
    put(tuple(point for point in line.points if point[0] in ends), letter, joined=False)


def _at(axis: Axis, value: int) -> float:
    """Where a value lies on the axis; a logarithm is what is drawn, because plotext would put its own ticks on one."""
    return log2(max(value, 1)) if axis.log else float(value)


def _code(colour: str) -> int | None:
    """The nearest of the 216 colours that every terminal since xterm has; None for black, which a dark screen hides.

    >>> _code("#0072B2")
    25
    """
    if colour == "#000000":
        return None
    parts = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    red, green, blue = (min(range(6), key=lambda level: abs(_LEVELS[level] - part)) for part in parts)
    return 16 + 36 * red + 6 * green + blue


def _coloured(text: str, colour: str, shown: Screen) -> str:
    code = _code(colour)
    return f"\x1b[38;5;{code}m{text}\x1b[0m" if shown.colour and code is not None else text


def _bars(drawn: Picture, shown: Screen) -> list[str]:
    """A bar per GPU, as wide as the screen, and what its parts are."""
    most = max(max(bar.total, sum(part.size for part in bar.parts)) for bar in drawn.bars)
    parts = {part.item: part for bar in drawn.bars for part in bar.parts}
    fills = dict(_FILLS if shown.unicode else _ASCII_FILLS)
    spare = iter(ascii_lowercase)
    for item in parts:
        if item not in fills:
            fills[item] = next(spare)
    lines = []
    for bar in drawn.bars:
        lines += [bar.name if bar.verdict == "FITS" else f"{bar.name}: {bar.verdict}", *_bar(bar, fills, most, shown)]
    rows = [_coloured(f"{fills[part.item]}  {part.item}", part.colour, shown) for part in parts.values()]
    return [*lines, drawn.x.title, "", *rows]


def _bar(bar: Bar, fills: dict[str, str], most: int, shown: Screen) -> list[str]:
    """The bar, each part ending where its sum ends, and its sizes."""
    width = shown.width - 2
    drawn, start, done = "", 0, 0
    for part in bar.parts:
        start += part.size
        cells = start * width // most - done
        drawn += _coloured(fills[part.item] * cells, part.colour, shown) if cells else ""
        done += cells
    end = bar.total * width // most
    edge = " " * max(end - done, 0) + "|" if end >= done else ""
    sizes = ", ".join(f"{part.item} {gib(part.size)}" for part in bar.parts)
    over = [] if end >= done else [" " * end + f"| {gib(bar.total)} is all there is"]
    return [drawn + edge, *over, *wrap(sizes, shown.width - 2, initial_indent="  ", subsequent_indent="  "), ""]
