"""CSV: the first table of an answer, with raw integers and stable column names."""

from __future__ import annotations

import csv
import io

from kvcalc.render.sheet import Page


def csv_text(page: Page) -> str:
    """One header row, one row per record; columns that are only drawn are left out."""
    sheet = page.records or next((sheet for sheet in page.sheets if sheet.columns), None)
    if sheet is None:
        return ""
    keep = [index for index, column in enumerate(sheet.columns) if column.key]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([sheet.columns[index].key for index in keep])
    writer.writerows([[row[index].value for index in keep] for row in sheet.rows])
    return stream.getvalue()
