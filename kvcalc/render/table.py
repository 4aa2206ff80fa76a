"""Tables for a terminal, by rich: colour only there, NO_COLOR respected, narrow screens lose side columns first."""

from __future__ import annotations

from textwrap import wrap

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kvcalc.render.sheet import Page, Sheet

_UNBOUNDED = 10_000  # measure what the table wants, not what the screen leaves it
_STYLES = {"name": "bold", "bytes": "cyan", "bar": "green", "dim": "dim", "": ""}


def make_console(width: int | None = None) -> Console:
    """rich's own detection of terminals, width and NO_COLOR."""
    return Console(width=width, highlight=False, soft_wrap=False)


def print_table(page: Page, console: Console | None = None) -> None:
    """Print the page."""
    console = console or make_console()
    for index, sheet in enumerate(page.sheets):
        if index:
            console.print()
        _print_sheet(sheet, console)
    if page.verdict:
        colour = {True: "bold green", False: "bold red", None: "bold"}[page.good]
        console.print()
        console.print(Text(page.verdict, style=colour))
    for word, texts, style in (("assumed", page.assumptions, "dim"), ("warning", page.warnings, "yellow")):
        if texts:
            console.print()
            console.print(Text(f"{word}:", style=style))
            for text in texts:
                for line in wrap(f"- {text}", console.width - 2, initial_indent="  ", subsequent_indent="    "):
                    console.print(Text(line, style=style))
    for line in page.footer:
        console.print(Text(line))


def _print_sheet(sheet: Sheet, console: Console) -> None:
    if sheet.title:
        console.print(Text(sheet.title, style="bold"))
    for line in sheet.lead:
        console.print(Text(line))
    if sheet.columns:
        console.print(_table(sheet, console))
    for line in sheet.notes:
        console.print(Text(line, style="dim"))


def _table(sheet: Sheet, console: Console) -> Table:
    kept = list(range(len(sheet.columns)))
    while True:
        table = _build(sheet, kept)
        droppable = [index for index in kept if sheet.columns[index].drop]
        wide = console.options.update(width=_UNBOUNDED, max_width=_UNBOUNDED)
        if not droppable or console.measure(table, options=wide).maximum <= console.width:
            return table
        kept.remove(max(droppable, key=lambda index: sheet.columns[index].drop))


def _build(sheet: Sheet, kept: list[int]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for index in kept:
        column = sheet.columns[index]
        table.add_column(
            Text(column.title),
            justify="right" if column.right else "left",
            style=_STYLES[column.style],
            overflow="fold",
            no_wrap=column.right or column.style in ("name", "bar"),
        )
    for row in sheet.rows:
        table.add_row(*(Text(row[index].text) for index in kept))
    if sheet.total:
        table.add_section()
        table.add_row(*(Text(sheet.total[index].text, style="bold") for index in kept))
    return table
