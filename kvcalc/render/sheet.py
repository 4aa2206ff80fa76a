"""What a page of an answer is before it has a format: lines, tables, notes. No arithmetic, no printing."""

from __future__ import annotations

from kvcalc.core.light import NamedTuple, Record


class Cell(NamedTuple):
    """One value as a person reads it and, where that differs, as a program reads it."""

    text: str
    raw: object = None

    @property
    def value(self) -> object:
        return self.text if self.raw is None else self.raw


class Column(Record):
    """title: for people; key: for CSV (empty: the column is only drawn); right: numbers; style: a colour role."""

    title: str
    key: str = ""
    right: bool = False
    style: str = ""
    #: Columns with the highest number go first when a terminal is too narrow.
    drop: int = 0


class Sheet(Record):
    """One table with the sentences before and after it."""

    title: str = ""
    lead: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()
    rows: tuple[tuple[Cell, ...], ...] = ()
    total: tuple[Cell, ...] = ()
    notes: tuple[str, ...] = ()


class Page(Record):
    """All sheets of one answer; the first with columns is what CSV writes, unless `records` is given for it."""

    sheets: tuple[Sheet, ...]
    records: Sheet | None = None
    assumptions: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    verdict: str = ""
    good: bool | None = None
    footer: tuple[str, ...] = ()


def anything(value: object) -> Cell:
    """A value whose kind is not known beforehand: integers with separators, six digits of other numbers."""
    if value is None:
        return Cell("", "")
    if isinstance(value, float):
        return Cell(f"{value:,.6g}", value)
    return Cell(f"{value:,}" if type(value) is int else str(value), value)


def number(value: int | None, *, none: str = "unlimited") -> Cell:
    """An integer with thousands separators."""
    return Cell(none, "") if value is None else Cell(f"{value:,}", value)


#: Of a bar in a table: as wide as its title, so that a comparison still fits 80 columns.
BAR_WIDTH = 8


def bar(value: int, most: int, width: int = 12) -> str:
    """`value` relative to `most` in eighths of a character; never empty for a positive value.

    >>> bar(1, 2, 4)
    '██'
    """
    if most <= 0 or value <= 0:
        return ""
    eighths = max(value * width * 8 // most, 1)
    return "█" * (eighths // 8) + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[eighths % 8]
