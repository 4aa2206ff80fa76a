"""A picture as one HTML page by plotly, whose script is in the page: hover, zoom, a switch per line, no network."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from kvcalc.render.htmlout import document, notes_html
from kvcalc.render.parts import Answer
from kvcalc.render.plot import missing
from kvcalc.render.plot.axis import Axis
from kvcalc.render.plot.picture import FREE, NEEDED, Bar, Line, Picture, picture, signs
from kvcalc.units import gib

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

#: plotly's names of the shapes that `image` draws.
_SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x", "star")
_HATCHES = {"": "", "...": ".", "///": "/", "xxx": "x", "\\\\\\": "\\", "|||": "|", "---": "-", "ooo": ".", "+++": "+"}
_GRID = "#DDDDDD"


def html_page(answer: Answer) -> bytes:
    """The page of a `plot` answer; the same answer gives the same bytes.

    Raises: UsageError without plotly, or when nothing can be drawn.
    """
    drawn = picture(answer)
    lead = "".join(f"<p>{escape(text)}</p>" for text in drawn.lead)
    said = "".join(f"<li>{escape(text)}</li>" for text in (*signs(drawn), *drawn.notes))
    refused = [f"{row['engine']} refuses {row['model']}: {row['reason']}" for row in answer["refused"]]
    notes = notes_html(answer["assumptions"], [*answer["warnings"], *refused])
    body = f"<h1>{escape(drawn.title)}</h1>{lead}{figure_html(drawn)}<ul>{said}</ul>{notes}"
    return document(drawn.title, body)


def figure_html(drawn: Picture, *, name: str = "kvcalc-plot") -> str:
    """The figure as a `div` and its script.

    Raises: UsageError without plotly.
    """
    try:
        from plotly.graph_objects import Figure
        from plotly.io import to_html
    except ImportError:
        raise missing("plotly") from None
    figure = Figure()
    if drawn.bars:
        _add_bars(figure, drawn)
    else:
        _add_lines(figure, drawn)
    _dress(figure)
    config = {
        "displaylogo": False,
        "responsive": True,
        # Named one by one: plotly's own bar has a button that sends the data to its makers' server.
        "modeBarButtons": [["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d", "toImage"]],
        "toImageButtonOptions": {"format": "svg", "filename": name},
    }
    written: str = to_html(figure, include_plotlyjs=True, full_html=False, div_id=name, config=config)
    return f'<div class="plot">{written}</div>'


def _dress(figure: Figure) -> None:
    """What all figures share: white in dark pages too, the legend above, the buttons beside."""
    figure.update_layout(
        template="none",
        font={"family": "system-ui, sans-serif", "size": 13, "color": "#222222"},
        paper_bgcolor="white",
        plot_bgcolor="white",
        margin={"l": 10, "r": 44, "t": 30, "b": 10},
        modebar={"orientation": "v"},
        uniformtext={"minsize": 9, "mode": "hide"},
        legend={
            "orientation": "h",
            "traceorder": "normal",
            "itemsizing": "constant",
            "xanchor": "left",
            "x": 0,
            "yanchor": "bottom",
            "y": 1.0,
        },
    )


def _plain(text: str) -> str:
    """Text for plotly, which reads a few tags and, between two dollar signs, formulas."""
    return escape(text).replace("$", "&#36;")


def _axis(axis: Axis) -> dict[str, Any]:
    """plotly counts a log axis' range in powers of ten."""
    from math import log10

    air = (axis.high / axis.low) ** 0.03 if axis.log else 1.04
    low, high = axis.low / air if axis.log else 0, axis.high * air
    return {
        "title": {"text": escape(axis.title), "standoff": 12},
        "type": "log" if axis.log else "linear",
        "range": [log10(low), log10(high)] if axis.log else [low, high],
        "tickvals": axis.places,
        "ticktext": axis.labels,
        "gridcolor": _GRID,
        "zeroline": False,
        "showline": True,
        "linecolor": "#444444",
        "ticks": "outside",
        "automargin": True,
    }


def _add_lines(figure: Figure, drawn: Picture) -> None:
    y = drawn.y or drawn.x
    for index, line in enumerate(drawn.lines):
        _add_line(figure, line, index, drawn)
    figure.update_xaxes(_axis(drawn.x))
    figure.update_yaxes(_axis(y))
    figure.update_layout(hovermode="x unified", height=540 + 8 * len(drawn.lines))


def _add_line(figure: Figure, line: Line, index: int, drawn: Picture) -> None:
    """Solid, dashed and shaded parts of one line answer to one switch of the legend; marks where the axis has ticks."""
    sized = drawn.y is not None and drawn.y.title != "sessions"
    name = _plain(line.name)
    width = 2 + 3 * line.under
    if line.low and line.high:
        tokens = [place for place, _ in line.high]
        values = [*(value for _, value in line.high), *(max(value, 1) for _, value in reversed(line.low))]
        figure.add_scatter(
            x=[*tokens, *reversed(tokens)], y=values, fill="toself", fillcolor=_faint(line.colour), mode="none",
            hoverinfo="skip", showlegend=False, legendgroup=str(index), name=name,
        )  # fmt: skip
    shown = False
    for run, dash, symbol in ((line.inside, "solid", ""), (line.beyond[bool(line.inside) :], "dash", "-open")):
        if not run:
            continue
        joined = run if dash == "solid" or not line.inside else (line.inside[-1], *run)
        marked = {*drawn.x.places} if dash == "solid" else {*drawn.x.places} - {joined[0][0]}
        sizes = [6 + width if tokens in marked else 0 for tokens, _ in joined]
        texts = [_hover(tokens, value, line, sized=sized) for tokens, value in joined]
        if len(joined) > len(run):
            texts[0] = ""
        figure.add_scatter(
            x=[tokens for tokens, _ in joined], y=[value for _, value in joined], name=name, text=texts,
            mode="lines+markers", legendgroup=str(index), showlegend=not shown,
            line={"color": line.colour, "width": width, "dash": dash},
            marker={"symbol": _SYMBOLS[index % len(_SYMBOLS)] + symbol, "size": sizes, "opacity": 1},
            hovertemplate="%{text}<extra></extra>",
        )  # fmt: skip
        shown = True


def _hover(tokens: int, value: int, line: Line, *, sized: bool) -> str:
    """The exact value, not one read off the axis."""
    shown = f"{gib(value)} ({value:,} B)" if sized else f"{value:,} sessions"
    over = ", beyond its own limit" if line.limit is not None and tokens > line.limit else ""
    return f"{_plain(line.name)}: {shown} at {tokens:,} tokens{over}"


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.15)"


def _add_bars(figure: Figure, drawn: Picture) -> None:
    """A trace per item, so that the legend can switch it in all bars."""
    names = [_plain(bar.name) for bar in drawn.bars]
    parts = {part.item: part for bar in drawn.bars for part in bar.parts}
    order = sorted(parts.values(), key=lambda part: (part.item == FREE, part.item == NEEDED, part.item != "weights"))
    for look in order:
        sizes = [next((part.size for part in bar.parts if part.item == look.item), 0) for bar in drawn.bars]
        item = _plain(look.item)
        figure.add_bar(
            y=names, x=sizes, name=item, orientation="h", width=0.6,
            marker={"color": look.colour, "pattern": {"shape": _HATCHES[look.hatch], "fgcolor": "white", "size": 6,
                    "fillmode": "overlay"}},
            text=[gib(size) if size else "" for size in sizes], textposition="inside", insidetextanchor="middle",
            textangle=0,
            hovertext=[f"{item}: {gib(size)} ({size:,} B)" for size in sizes],
            hovertemplate="%{y}<br>%{hovertext}<extra></extra>",
        )  # fmt: skip
    for place, bar in enumerate(drawn.bars):
        _mark(figure, bar, place)
    figure.update_xaxes(_axis(drawn.x))
    figure.update_yaxes({"autorange": "reversed", "automargin": True, "type": "category"})
    figure.update_layout(barmode="stack", height=190 + 62 * len(drawn.bars) + 12 * len(order))


def _mark(figure: Figure, bar: Bar, place: int) -> None:
    """The memory there is, and where the pool begins at best and at worst."""
    black = {"color": "black", "width": 3}
    figure.add_shape(type="line", x0=bar.total, x1=bar.total, y0=place - 0.38, y1=place + 0.38, line=black)
    if bar.best_start != bar.worst_start:
        thin = {"color": "black", "width": 1.5}
        ends = {"x0": bar.best_start, "x1": bar.worst_start, "y0": place + 0.38, "y1": place + 0.38}
        figure.add_shape(type="line", **ends, line=thin)
        for start in (bar.best_start, bar.worst_start):
            figure.add_shape(type="line", x0=start, x1=start, y0=place + 0.32, y1=place + 0.44, line=thin)
