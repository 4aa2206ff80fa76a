"""How far a number can be trusted; the label travels with it to table and JSON."""

from __future__ import annotations

#: Of the JSON answers (`kvcalc schema COMMAND`): raised when a field changes its meaning or goes.
SCHEMA_VERSION = 1

#: From most to least trusted.
MEANINGS = {
    "exact": "equal to what the engine allocates, by construction and by test",
    "measured": "equal because it was allocated on a device",
    "upper_bound": "never below what the engine takes",
    "estimate": "a guess that says so: something in it is a band, a rule of thumb, or not stated by its source",
}
LABELS = tuple(MEANINGS)


def weakest(*labels: str) -> str:
    """The label of a number made of numbers with these labels.

    >>> weakest("exact", "estimate")
    'estimate'
    """
    return max(labels, key=LABELS.index, default="exact")
