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

from kvcalc.render.sheet import Cell, Page, Sheet

#: A side column of sentences this wide may wrap; narrower it is left out.
_READABLE = 40
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
                _say(console, f"  - {text}", style)
    for line in page.footer:
        _say(console, line)


def _say(console: Console, text: str, style: str = "") -> None:
    """A sentence, wrapped between words; what does not fit its line stands further in than its beginning."""
    start = len(text) - len(text.lstrip())
    for line in wrap(text, console.width, subsequent_indent=" " * (start + 2), break_on_hyphens=False) or [""]:
        console.print(Text(line, style=style))


def _print_sheet(sheet: Sheet, console: Console) -> None:
    if sheet.title:
        console.print(Text(sheet.title, style="bold"))
    for line in sheet.lead:
        _say(console, line)
    if sheet.columns:
        console.print(_table(sheet, console))
    for line in sheet.notes:
        _say(console, line, "dim")


def _table(sheet: Sheet, console: Console) -> RenderableType:
    kept = list(range(len(sheet.columns)))
    while droppable := [index for index in kept if sheet.columns[index].drop]:
        if _total(_comfortable(sheet, kept)) <= console.width:
            break
        kept.remove(max(droppable, key=lambda index: sheet.columns[index].drop))
    least, wanted = _least(sheet, kept), _wanted(sheet, kept)
    spare = console.width - _total(least)
    if spare < 0:
        return _stacked(sheet)
    for place, wish in enumerate(wanted):  # what is left after the words goes to the first columns that want it
        more = min(wish - least[place], spare)
        least[place], spare = least[place] + more, spare - more
    # A last column with all its room is left to rich: before 14.3 it draws one of a fixed width a cell wider.
    last = None if least[-1] >= wanted[-1] else least[-1]
    return _build(sheet, dict(zip(kept, [*least[:-1], last], strict=True)))


def _total(widths: list[int]) -> int:
    """Screen cells of a table: a space at both sides of each column."""
    return sum(widths) + 2 * len(widths)


def _wanted(sheet: Sheet, kept: list[int]) -> list[int]:
    """The widest text of each column."""
    return [max(map(cell_len, _texts(sheet, index))) for index in kept]


def _comfortable(sheet: Sheet, kept: list[int]) -> list[int]:
    """A side column of sentences may wrap, as long as a line still says something."""
    return [
        min(wish, _READABLE) if sheet.columns[index].drop and not sheet.columns[index].right else wish
        for index, wish in zip(kept, _wanted(sheet, kept), strict=True)
    ]


def _least(sheet: Sheet, kept: list[int]) -> list[int]:
    """The widest part of each column that must stay whole: a number with its unit, a bar, a word."""
    return [
        max(map(cell_len, texts))
        if sheet.columns[index].right
        else max((cell_len(word) for text in texts for word in text.split()), default=0)
        for index in kept
        for texts in [_texts(sheet, index)]
    ]


def _texts(sheet: Sheet, index: int) -> list[str]:
    return [sheet.columns[index].title, *(row[index].text for row in _rows(sheet))]


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


def _build(sheet: Sheet, widths: dict[int, int | None]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.show_header = any(column.title for column in sheet.columns)
    for index, width in widths.items():
        column = sheet.columns[index]
        table.add_column(
            Text(column.title),
            justify="right" if column.right else "left",
            style=_STYLES[column.style],
            width=width,
            no_wrap=column.right,
        )
    for row in sheet.rows:
        table.add_row(*(Text(row[index].text) for index in widths))
    if sheet.total:
        table.add_section()
        table.add_row(*(Text(sheet.total[index].text, style="bold") for index in widths))
    return table
