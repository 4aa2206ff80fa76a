"""How far a number can be trusted; the label travels with it to table and JSON."""

from __future__ import annotations

#: Of the JSON answers (`kvcalc schema COMMAND`): raised when a field changes its meaning or goes.
SCHEMA_VERSION = 1

#: From most to least: equal by construction, equal because measured, never below the truth, a guess that says so.
LABELS = ("exact", "measured", "upper_bound", "estimate")


def weakest(*labels: str) -> str:
    """The label of a number made of numbers with these labels.

    >>> weakest("exact", "estimate")
    'estimate'
    """
    return max(labels, key=LABELS.index, default="exact")
