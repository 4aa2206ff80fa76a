"""A report as a file: HTML with its pictures inside, or markdown."""

from __future__ import annotations

import os
from base64 import b64encode
from html import escape

from kvcalc.errors import UsageError, short
from kvcalc.files import write_whole
from kvcalc.render.htmlout import document, folded_html, page_html, sheet_html
from kvcalc.render.parts import Answer
from kvcalc.render.sheet import Page
from kvcalc.render.textout import inline, markdown
from kvcalc.render.views_report import Section, sections, title


def file_kind(path: str) -> str:
    """`html` or `md`, by the name.

    Raises: UsageError for any other ending.
    """
    kind = os.path.splitext(path)[1].lower().removeprefix(".")  # noqa: PTH122 - pathlib is not needed for a suffix
    if kind not in ("html", "md"):
        raise UsageError(
            f"a report cannot be written as {short(path)}", fix="name it .html or .md", field="output", value=path
        )
    return kind


def write_report(answer: Answer, path: str, *, plots: bool = True) -> None:
    """The report, whole or not at all.

    Raises: UsageError: no such kind of file, matplotlib is missing, or it cannot be written.
    """
    content = html_report(answer, plots=plots) if file_kind(path) == "html" else markdown_report(answer)
    write_whole(path, content)


def html_report(answer: Answer, *, plots: bool) -> bytes:
    """One page; every value in it is escaped, every picture an image inside it.

    Raises: UsageError without matplotlib, if there are to be pictures.
    """
    said = title(answer)
    parts = [
        f"<h1>{escape(said)}</h1>",
        f'<p class="lead">kvcalc {answer["kvcalc_version"]}: {answer["exactness"]}</p>',
    ]
    for section in sections(answer):
        if section.drawn and not plots:
            continue
        parts.append(f"<h2>{escape(section.title)}</h2>")
        parts.append(_command(answer) if section.title == "Made by" else page_html(section.page))
        parts += [_figure(curve, numbers) for curve, numbers in section.drawn]
        if section.details:
            inner = "\n".join(sheet_html(sheet, level=4) for sheet in section.details)
            parts.append(folded_html("The engine's own numbers", inner))
    return document(said, "\n".join(parts))


def _command(answer: Answer) -> str:
    """The command as it can be copied."""
    lead = f"kvcalc {answer['kvcalc_version']}, answers of schema {answer['schema_version']}; made again by:"
    return f"<p>{escape(lead)}</p>\n<pre><code>{escape(answer['command_line'])}</code></pre>"


def _figure(curve: Answer, numbers: Page) -> str:
    """A picture, and its numbers for who cannot see it or wants them."""
    from kvcalc.render.plot.image import image
    from kvcalc.render.plot.picture import picture

    table = page_html(numbers)
    try:
        drawn = picture(curve)
    except UsageError as error:  # nothing to draw is an answer
        return f"<p>{escape(str(error))}</p>\n{table}"
    data = b64encode(image(drawn, "svg")).decode()
    words = escape(". ".join((drawn.title, *drawn.lead)), quote=True)
    figure = f'<figure><img alt="{words}" src="data:image/svg+xml;base64,{data}"></figure>'
    return f"{figure}\n{folded_html('The numbers', table)}" if table else figure


def markdown_report(answer: Answer) -> bytes:
    """The same in markdown, with the curves as tables."""
    blocks = [f"# {inline(title(answer))}", f"kvcalc {answer['kvcalc_version']}: {answer['exactness']}"]
    for section in sections(answer):
        blocks += [f"## {inline(section.title)}", *_bodies(section, answer)]
    return ("\n\n".join(block.strip("\n") for block in blocks if block.strip()) + "\n").encode()


def _bodies(section: Section, answer: Answer) -> list[str]:
    if section.title == "Made by":
        command = str(answer["command_line"])
        fence = "`" * max(3, 1 + max((len(run) for run in command.split() if set(run) == {"`"}), default=0))
        return [section.page.sheets[0].lead[0], f"{fence}sh\n{command}\n{fence}"]
    pages = [section.page, *(numbers for _, numbers in section.drawn), Page(sheets=section.details)]
    return [markdown(page) for page in pages if page.sheets]
