"""A picture as PNG or SVG, by matplotlib. The same picture gives the same bytes: no dates, fixed ids."""

from __future__ import annotations

import io
import warnings
from textwrap import wrap
from typing import TYPE_CHECKING, Any, NamedTuple

from kvcalc.render.plot import missing
from kvcalc.render.plot.picture import FREE, NEEDED, Bar, Line, Picture, signs
from kvcalc.units import ceil_div, gib
from kvcalc.version import __version__

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Shapes tell the lines apart where colours do not.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p")
#: Inches, and letters of a line of text.
_WIDTH, _ROW, _LETTERS = 9.0, 0.17, 125
_LEGEND_COLUMNS = 4
_DPI = 160
#: Names are words, never formulas; the ids of an SVG depend on nothing but what is drawn.
_SETTINGS: dict[str, Any] = {
    "text.parse_math": False,
    "svg.hashsalt": "kvcalc",
    "svg.fonttype": "path",
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "hatch.linewidth": 0.6,
}


def image(picture: Picture, kind: str) -> bytes:
    """The picture as `png` or `svg`.

    Raises: UsageError without matplotlib.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError:
        raise missing("matplotlib") from None
    stream = io.BytesIO()
    with rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name with letters that the font lacks gets boxes, not a warning
        room = _room(picture)
        figure = Figure(figsize=(_WIDTH, room.height), dpi=_DPI, facecolor="white")
        if kind == "svg":
            FigureCanvasSVG(figure)
            about = {"Date": None, "Title": picture.title, "Creator": f"kvcalc {__version__}"}
        else:
            FigureCanvasAgg(figure)
            about = {"Software": f"kvcalc {__version__}", "Title": picture.title}
        _draw(figure, picture, room)
        figure.savefig(stream, format=kind, metadata=about)
    return stream.getvalue()


class _Room(NamedTuple):
    """Inches that are taken above and below the axes, and the texts in them, wrapped."""

    lead: list[str]
    notes: list[str]
    legend_rows: int
    axes: float

    @property
    def top(self) -> float:
        return 0.6 + _ROW * len(self.lead)

    @property
    def bottom(self) -> float:
        return 0.65 + 0.2 * self.legend_rows + _ROW * len(self.notes)

    @property
    def height(self) -> float:
        return self.top + self.axes + self.bottom


def _room(picture: Picture) -> _Room:
    """Bars need room each, the lines' names need theirs."""
    items = {part.item for bar in picture.bars for part in bar.parts}
    axes = max(3.75, 0.2 * len(picture.lines)) if picture.lines else 0.3 + 0.62 * len(picture.bars)
    lead = [line for text in picture.lead for line in wrap(text, _LETTERS)]
    notes = [line for text in (*signs(picture), *picture.notes) for line in wrap(text, _LETTERS)]
    return _Room(lead, notes, ceil_div(len(items), _LEGEND_COLUMNS), axes)


def _draw(figure: Figure, picture: Picture, room: _Room) -> None:
    """Title and lead above, notes below, each a fixed number of inches from its edge."""
    if picture.bars:
        left, right = min(0.03 + 0.0088 * max(len(_short(bar.name)) for bar in picture.bars), 0.4), 0.97
    else:
        longest = max(len(_short(line.name)) for line in picture.lines)
        left, right = 0.1, 0.935 - 0.0088 * longest
    height = room.height
    axes = figure.add_axes((left, room.bottom / height, right - left, room.axes / height))
    figure.text(0.02, 1 - 0.28 / height, _short(picture.title, 84), fontsize=13, fontweight="bold", va="center")
    for index, text in enumerate(room.lead):
        figure.text(0.02, 1 - (0.52 + _ROW * index) / height, text, color="#444444", va="center")
    for index, text in enumerate(room.notes):
        below = 0.1 + _ROW * (len(room.notes) - 1 - index)
        figure.text(0.02, below / height, text, fontsize=8, color="#444444", va="center")
    if picture.bars:
        _draw_bars(axes, picture)
        _legend(figure, picture, (_ROW * len(room.notes) + 0.1 * room.legend_rows + 0.06) / height)
    else:
        _draw_lines(axes, picture)


def _draw_lines(axes: Axes, picture: Picture) -> None:
    x, y = picture.x, picture.y
    if y is None:
        return
    for axis, which in ((x, "x"), (y, "y")):
        if axis.log:
            getattr(axes, f"set_{which}scale")("log", base=2)
        getattr(axes, f"set_{which}ticks")(axis.places, axis.labels)
        getattr(axes, f"{which}axis").minorticks_off()
    axes.set_xlim(x.low, x.high)
    low = y.low * (y.low / y.high) ** 0.03  # a little room below the lowest tick
    axes.set_ylim(low if y.log else 0, y.high if y.log else y.high * 1.04)
    axes.set_xlabel(x.title)
    axes.set_ylabel(y.title)
    axes.grid(color="#DDDDDD", linewidth=0.7)
    for index, line in enumerate(picture.lines):
        _draw_line(axes, line, index, (x.places, low if y.log else 0))
    _name_lines(axes, picture)


def _draw_line(axes: Axes, line: Line, index: int, marks: tuple[list[int], float]) -> None:
    """Solid as far as the model goes, dashed beyond; a mark at each tick. marks: the ticks, and the axes' lower end."""
    places, floor = marks
    width = 1.8 + 2.4 * line.under
    style: dict[str, Any] = {"color": line.colour, "linewidth": width, "solid_capstyle": "butt", "zorder": 3 + index}
    for run, dashes in ((line.inside, "solid"), (line.beyond, (0, (3, 1.6)))):
        if run:
            axes.plot([t for t, _ in run], [value for _, value in run], linestyle=dashes, **style)
    marked = [(tokens, value) for tokens, value in line.points if tokens in places]
    shape = MARKERS[index % len(MARKERS)]
    for (tokens, value), filled in ((point, line.limit is None or point[0] <= line.limit) for point in marked):
        face = line.colour if filled else "white"
        axes.plot(
            [tokens], [value], shape, color=line.colour, markerfacecolor=face, markersize=4.2 + width,
            zorder=40 + index, clip_on=False,
        )  # fmt: skip
    if line.low and line.high:
        low, high = [max(value, floor) for _, value in line.low], [value for _, value in line.high]
        axes.fill_between([tokens for tokens, _ in line.high], low, high, color=line.colour, alpha=0.15, linewidth=0)


def _name_lines(axes: Axes, picture: Picture) -> None:
    """Each line's name right of its end, pushed apart so that no two touch, with a thin lead where it had to move."""
    height = axes.get_window_extent().height
    least = 13.0 * _DPI / 72 / height  # a line of text, as a share of the axes
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = [(index, line, to_axes.transform(line.points[-1])) for index, line in enumerate(picture.lines)]
    ends.sort(key=lambda end: (end[2][1], -end[0]))
    places = spread([float(end[2][1]) for end in ends], least)
    for (index, line, (x, y)), place in zip(ends, places, strict=True):
        lead = ([x, 1.012, 1.03], [y, place, place])
        axes.plot(*lead, color=line.colour, linewidth=0.8, transform=axes.transAxes, clip_on=False, zorder=2)
        axes.plot(
            [1.03], [place], MARKERS[index % len(MARKERS)], color=line.colour, markersize=5,
            transform=axes.transAxes, clip_on=False,
        )  # fmt: skip
        axes.text(1.045, place, _short(line.name), transform=axes.transAxes, va="center", fontsize=8.5)


def spread(wished: list[float], least: float) -> list[float]:
    """Rising places at least `least` apart, near the wished ones (rising, too), none below 0 or, if they fit, above 1.

    >>> spread([0.5, 0.5], 0.1)
    [0.45, 0.55]
    """
    groups: list[list[float]] = []  # [sum of wished starts, number, start]
    for wish in wished:
        groups.append([wish, 1, wish])
        while len(groups) > 1 and groups[-2][2] + groups[-2][1] * least > groups[-1][2]:
            total, number, _ = groups.pop()
            before = groups[-1]
            total += before[0] - number * before[1] * least
            number += before[1]
            groups[-1] = [total, number, total / number]
    found = [start + least * step for _, number, start in groups for step in range(int(number))]
    low = 0.0
    for place, value in enumerate(found):
        found[place] = low = max(value, low)
        low += least
    high = max(1.0, least * (len(found) - 1))
    for place in range(len(found) - 1, -1, -1):
        found[place] = high = min(found[place], high)
        high -= least
    return [round(value, 6) for value in found]


def _short(name: str, most: int = 44) -> str:
    return name if len(name) <= most else name[: most - 1] + "\u2026"


def _draw_bars(axes: Axes, picture: Picture) -> None:
    rows = list(range(len(picture.bars)))
    axes.set_yticks(rows, [_short(bar.name) for bar in picture.bars])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, picture.x.high * 1.03)
    axes.set_xticks(picture.x.places, picture.x.labels)
    axes.set_xlabel(picture.x.title)
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.7)
    axes.tick_params(axis="y", length=0)
    for row, bar in zip(rows, picture.bars, strict=True):
        _draw_bar(axes, bar, row, picture.x.high)


def _draw_bar(axes: Axes, bar: Bar, row: int, most: int) -> None:
    start = 0
    for part in bar.parts:
        look: dict[str, Any] = {"color": part.colour, "hatch": part.hatch, "edgecolor": "white", "linewidth": 0.6}
        axes.barh(row, part.size, left=start, height=0.56, **look)
        text = gib(part.size)
        if part.size * 60 > most * len(text):  # the text fits with some air
            axes.text(
                start + part.size / 2, row, text, ha="center", va="center", fontsize=8,
                bbox={"facecolor": "white", "edgecolor": "none", "boxstyle": "round,pad=0.15", "alpha": 0.85},
            )  # fmt: skip
        start += part.size
    axes.plot([bar.total, bar.total], [row - 0.36, row + 0.36], color="black", linewidth=2)
    if bar.best_start != bar.worst_start:
        ends = [bar.best_start, bar.worst_start]
        axes.plot(ends, [row + 0.38] * 2, color="black", linewidth=1.2, marker="|", markersize=7)


def _legend(figure: Figure, picture: Picture, at: float) -> None:
    from matplotlib.patches import Patch

    parts = {part.item: part for bar in picture.bars for part in bar.parts}
    order = sorted(parts.values(), key=lambda part: (part.item in (NEEDED, FREE), part.item != "weights"))
    patches = [
        Patch(facecolor=part.colour, hatch=part.hatch, edgecolor="white", label=f" {part.item}") for part in order
    ]
    columns = min(len(patches), _LEGEND_COLUMNS)
    figure.legend(handles=patches, loc="center", bbox_to_anchor=(0.5, at), ncols=columns, frameon=False, fontsize=8.5)
