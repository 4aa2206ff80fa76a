"""`plot` as a picture: `picture` says what is in it, `terminal`, `image` and `web` draw it with a library each."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from kvcalc.errors import UsageError, short

KINDS = ("png", "svg", "html")


def file_kind(path: str) -> str:
    """What the name of a picture's file says it is.

    Raises: UsageError for any other ending.
    """
    kind = os.path.splitext(path)[1].lower().removeprefix(".")  # noqa: PTH122 - pathlib is not needed for a suffix
    if kind not in KINDS:
        raise UsageError(
            f"a picture cannot be written as {short(path)}",
            fix="name it .png, .svg or .html",
            field="output",
            value=path,
        )
    return kind


def write_picture(answer: Mapping[str, Any], path: str) -> None:
    """Draw the answer into a file, whole or not at all.

    Raises: UsageError: no such kind of file, the library is missing, or it cannot be written.
    """
    from kvcalc.files import write_whole
    from kvcalc.render.plot.picture import picture

    kind = file_kind(path)
    if kind == "html":
        from kvcalc.render.plot.web import html_page

        content = html_page(answer)
    else:
        from kvcalc.render.plot.image import image

        content = image(picture(answer), kind)
    write_whole(path, content)


def missing(library: str) -> UsageError:
    """The error where a drawing library is not installed."""
    return UsageError(
        f"{library} is not installed",
        fix="pip install 'kvcalc[plot]', or ask for the numbers: --format plain, csv or json",
        field="output",
    )
