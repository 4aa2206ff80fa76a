"""HTML: one page that needs nothing beside itself, light or dark, narrow or printed. Every value is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from kvcalc.render.sheet import Cell, Column, Page, Sheet
from kvcalc.version import __version__

#: Letters of a name that is not broken over two lines.
_SHORT = 32
_STYLE = """\
:root { color-scheme: light dark; --ink: #1b1b1b; --soft: #5a5a5a; --line: #d0d0d0; --paper: #ffffff; --band: #f5f6f8;
  --good: #00664a; --bad: #a63c00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --soft: #a8a8a8; --line: #444a50; --paper: #16181b;
  --band: #202429; --good: #4fd0a5; --bad: #ff9a5c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1rem clamp(0.8rem, 3vw, 2.5rem) 3rem; color: var(--ink);
  background: var(--paper); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 1rem 0 0.4rem; }
h2 { font-size: 1.3rem; margin: 2.2rem 0 0.5rem; padding-top: 0.8rem; border-top: 2px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.3rem 0 0.3rem; }
p, ul { margin: 0.3rem 0; }
p.lead, .soft { color: var(--soft); }
ul { padding-left: 1.3rem; }
summary { cursor: pointer; color: var(--soft); margin: 0.5rem 0; }
.scroll { overflow-x: auto; margin: 0.5rem 0; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.7rem; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
th { border-bottom: 2px solid var(--line); white-space: nowrap; }
.r { text-align: right; white-space: nowrap; }
.n { white-space: nowrap; }
.dim { color: var(--soft); }
tbody tr:nth-child(even) { background: var(--band); }
tfoot td { font-weight: 600; border-top: 2px solid var(--line); }
pre { background: var(--band); padding: 0.7rem 0.9rem; overflow-x: auto; border-radius: 0.4rem; font-size: 0.85rem;
  white-space: pre-wrap; word-break: break-word; }
.verdict { font-weight: 600; } .good { color: var(--good); } .bad { color: var(--bad); }
.plot, figure { background: #ffffff; border-radius: 0.4rem; margin: 0.8rem 0; padding: 0.3rem; }
figure img { display: block; width: 100%; height: auto; max-width: 60rem; margin: 0 auto; }
@media (max-width: 34rem) { body { font-size: 15px; } th, td { padding: 0.2rem 0.4rem; } .n { white-space: normal; }
  table { font-size: 0.8rem; } }
@media print { :root { color-scheme: light; --ink: #000; --soft: #444; --line: #bbb; --paper: #fff; --band: #f5f5f5;
  --good: #004d38; --bad: #7a2c00; }
  body { max-width: none; padding: 0; font-size: 10pt; } h2, h3 { break-after: avoid; } table { font-size: 7.5pt; }
  details:not([open]) { display: none; }
  tr, figure, .keep { break-inside: avoid; } .scroll { overflow: visible; } th, td { padding: 0.1rem 0.35rem; }
  th { white-space: normal; } @page { margin: 14mm; } }
"""


def document(title: str, body: str) -> bytes:
    """A whole page around `body`, which is HTML already. It may load nothing from anywhere: its policy says so."""
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:; "
        "form-action 'none'"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'<meta name="generator" content="kvcalc {__version__}">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    ).encode()


def page_html(page: Page, *, level: int = 3) -> str:
    """A page's sheets, verdict, assumptions and warnings; level: of the sheets' headings."""
    blocks = [sheet_html(sheet, level=level) for sheet in page.sheets]
    if page.verdict:
        mood = {True: " good", False: " bad", None: ""}[page.good]
        blocks.append(f'<p class="verdict{mood}">{_lines(page.verdict)}</p>')
    blocks.append(notes_html(page.assumptions, page.warnings))
    blocks += [f"<p>{escape(text)}</p>" for text in page.footer]
    return "\n".join(block for block in blocks if block)


def folded_html(title: str, inner: str) -> str:
    """What is opened by whoever wants it."""
    return f"<details>\n<summary>{escape(title)}</summary>\n{inner}\n</details>"


def sheet_html(sheet: Sheet, *, level: int) -> str:
    """One table with the sentences around it."""
    blocks = [f"<h{level}>{escape(sheet.title)}</h{level}>"] if sheet.title else []
    blocks += [f'<p class="lead">{_lines(chr(10).join(sheet.lead))}</p>'] if sheet.lead else []
    if sheet.columns:
        blocks.append(_table(sheet))
    blocks += [f"<p>{escape(note)}</p>" for note in sheet.notes]
    return "\n".join(blocks)


def notes_html(assumptions: Sequence[str], warnings: Sequence[str]) -> str:
    """What was assumed, and what to beware of."""
    blocks = []
    for word, texts in (("Assumed", assumptions), ("Warning", warnings)):
        if texts:
            items = "".join(f"<li>{escape(text)}</li>" for text in texts)
            blocks.append(f'<div class="keep"><p class="soft">{word}:</p><ul>{items}</ul></div>')
    return "\n".join(blocks)


def _table(sheet: Sheet) -> str:
    """Bars are drawn for terminals; a column of them is left out."""
    keep = [index for index, column in enumerate(sheet.columns) if column.style != "bar"]

    def row(cells: Sequence[Cell], tag: str) -> str:
        made = (
            f"<{tag}{_class(sheet.columns[index], cells[index])}>{escape(cells[index].text)}</{tag}>" for index in keep
        )
        return f"<tr>{''.join(made)}</tr>"

    titled = any(column.title for column in sheet.columns)
    head = f"<thead>{row([Cell(column.title) for column in sheet.columns], 'th')}</thead>\n" if titled else ""
    body = "\n".join(row(cells, "td") for cells in sheet.rows)
    foot = f"\n<tfoot>{row(sheet.total, 'td')}</tfoot>" if sheet.total else ""
    return f'<div class="scroll"><table>\n{head}<tbody>\n{body}\n</tbody>{foot}\n</table></div>'


def _class(column: Column, cell: Cell) -> str:
    """Numbers to the right, names of usual length on one line."""
    short = column.style == "name" and len(cell.text) <= _SHORT
    words = (("r", column.right), ("n", short), ("dim", column.style == "dim"))
    name = " ".join(word for word, holds in words if holds)
    return f' class="{name}"' if name else ""


def _lines(text: str) -> str:
    return "<br>".join(escape(line) for line in text.split("\n"))
