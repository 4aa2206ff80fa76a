"""Tables for a terminal, by rich: colour only there, NO_COLOR respected.

A narrow screen loses side columns first; where even the rest does not fit, each row becomes a short list, because
a cut number would be a wrong one.
"""

from __future__ import annotations

from textwrap import wrap

from rich import box
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from kvcalc.render.sheet import Cell, Column, Page, Sheet

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


def _table(sheet: Sheet, console: Console) -> RenderableType:
    kept = list(range(len(sheet.columns)))
    while droppable := [index for index in kept if sheet.columns[index].drop]:
        if _width(sheet, kept) <= console.width:
            break
        kept.remove(max(droppable, key=lambda index: sheet.columns[index].drop))
    return _build(sheet, kept) if _width(sheet, kept, wrapped=True) <= console.width else _stacked(sheet)


def _width(sheet: Sheet, kept: list[int], *, wrapped: bool = False) -> int:
    """Screen cells of the table, with a space at both sides of each column.

    wrapped: numbers and names stay whole, sentences break between words.
    """
    total = 0
    for index in kept:
        column = sheet.columns[index]
        texts = [column.title, *(row[index].text for row in _rows(sheet))]
        if wrapped and not _whole(column):
            texts = [word for text in texts for word in text.split()]
        total += 2 + max(map(cell_len, texts), default=0)
    return total


def _whole(column: Column) -> bool:
    return column.right or column.style in ("name", "bar")


def _rows(sheet: Sheet) -> tuple[tuple[Cell, ...], ...]:
    return (*sheet.rows, sheet.total) if sheet.total else sheet.rows


def _stacked(sheet: Sheet) -> RenderableType:
    """Every row as its first cell and then `title: value` lines, drawn columns left out."""
    lines = []
    for row in _rows(sheet):
        lines.append(Text(row[0].text, style="bold"))
        for column, cell in list(zip(sheet.columns, row, strict=True))[1:]:
            if cell.text and column.style != "bar":
                lines.append(Text(f"  {column.title}: {cell.text}" if column.title else f"  {cell.text}"))
    return Group(*lines)


def _build(sheet: Sheet, kept: list[int]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for index in kept:
        column = sheet.columns[index]
        table.add_column(
            Text(column.title),
            justify="right" if column.right else "left",
            style=_STYLES[column.style],
            overflow="fold",
            no_wrap=_whole(column),
        )
    for row in sheet.rows:
        table.add_row(*(Text(row[index].text) for index in kept))
    if sheet.total:
        table.add_section()
        table.add_row(*(Text(sheet.total[index].text, style="bold") for index in kept))
    return table
