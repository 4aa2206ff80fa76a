"""Plain text and markdown: aligned columns, no colour, no library. What a pipe gets."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kvcalc.render.sheet import Page, Sheet

#: What would become a tag, a link, an image, code, emphasis, a cell or an entity, wherever it stands; an underscore
#: inside a word is none of these.
_ACTIVE = re.compile(r"[\\`*\[\]<>|~]|&(?=#?\w+;)|(?<!\w)_|_(?!\w)|(?<=\w):(?=//)|(?<=www)\.")
#: What would make a line a heading, a quote, a list or a rule.
_LEADING = re.compile(r"^(\s*(?=[#+=-])|\s*\d+(?=[.)](?:\s|$)))")


def plain_text(page: Page) -> str:
    """The page as aligned text."""
    lines: list[str] = []
    for sheet in page.sheets:
        if lines:
            lines.append("")
        lines.extend([sheet.title] if sheet.title else [])
        lines.extend(sheet.lead)
        if sheet.columns:
            lines.extend(_aligned(sheet))
        lines.extend(sheet.notes)
    return "\n".join([*lines, *_tail(page)]) + "\n"


def _tail(page: Page) -> list[str]:
    lines = [f"\n{page.verdict}"] if page.verdict else []
    if page.assumptions:
        lines += ["", "assumed:", *(f"  - {text}" for text in page.assumptions)]
    if page.warnings:
        lines += ["", "warning:", *(f"  - {text}" for text in page.warnings)]
    return [*lines, *page.footer]


def _aligned(sheet: Sheet) -> list[str]:
    body = [[cell.text for cell in row] for row in (*sheet.rows, *([sheet.total] if sheet.total else []))]
    titles = [column.title for column in sheet.columns]
    table = [titles, *body] if any(titles) else body
    widths = [max(len(row[index]) for row in table) for index in range(len(sheet.columns))]

    def line(row: Sequence[str]) -> str:
        cells = (
            text.rjust(width) if column.right else text.ljust(width)
            for text, width, column in zip(row, widths, sheet.columns, strict=True)
        )
        return "  ".join(cells).rstrip()

    lines = [line(row) for row in table]
    rule = "-" * min(max(map(len, lines)), sum(widths) + 2 * (len(widths) - 1))
    if any(titles):
        lines.insert(1, rule)
    if sheet.total:
        lines.insert(len(lines) - 1, rule)
    return lines


def markdown(page: Page) -> str:
    """The page as GitHub markdown."""
    blocks: list[str] = []
    for sheet in page.sheets:
        if sheet.title:
            blocks.append(f"### {inline(sheet.title)}")
        if sheet.lead:
            blocks.append("  \n".join(line_start(text) for text in sheet.lead))
        if sheet.columns:
            blocks.append(_markdown_table(sheet))
        blocks.extend(line_start(text) for text in sheet.notes)
    if page.verdict:
        blocks.append("  \n".join(f"**{inline(text)}**" for text in page.verdict.split("\n")))
    for word, texts in (("Assumed", page.assumptions), ("Warning", page.warnings)):
        if texts:
            blocks.append(f"{word}:\n\n" + "\n".join(f"- {line_start(text)}" for text in texts))
    return "\n\n".join([*blocks, *map(line_start, page.footer)]) + "\n"


def inline(text: str) -> str:
    r"""`text` so that markdown shows it as it is.

    >>> print(inline("<b>[x](y)</b> of kv_cache"))
    \<b\>\[x\](y)\</b\> of kv_cache
    """
    return _ACTIVE.sub(lambda match: "&amp;" if match[0] == "&" else f"\\{match[0]}", " ".join(text.split("\n")))


def line_start(text: str) -> str:
    """The same where the text begins a line."""
    return _LEADING.sub(r"\1\\", inline(text))


def _markdown_table(sheet: Sheet) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(map(inline, cells)) + " |"

    rows = [*sheet.rows, *([sheet.total] if sheet.total else [])]
    rule = [("--:" if column.right else "---") for column in sheet.columns]
    titles = [column.title for column in sheet.columns]
    return "\n".join([line(titles), line(rule), *(line([cell.text for cell in row]) for row in rows)])
