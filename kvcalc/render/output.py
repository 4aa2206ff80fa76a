"""One answer to one stream, in the format asked for. The only place that chooses a format."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from kvcalc.render.jsonout import json_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FORMATS = ("table", "plain", "json", "csv", "markdown")


def write(answer: Mapping[str, Any], chosen: str | None) -> None:
    """Print `answer`. No format asked for: a table on a terminal, plain text in a pipe."""
    chosen = chosen or ("table" if sys.stdout.isatty() else "plain")
    if chosen == "json":
        sys.stdout.write(json_text(answer))
        return
    from kvcalc.render.views import VIEWS

    page = VIEWS[answer["command"]](answer)
    if chosen == "table":
        from kvcalc.render.table import print_table

        print_table(page)
        return
    if chosen == "csv":
        from kvcalc.render.csvout import csv_text

        sys.stdout.write(csv_text(page))
        return
    from kvcalc.render.textout import markdown, plain_text

    sys.stdout.write(markdown(page) if chosen == "markdown" else plain_text(page))
