"""Readers of the files people have: Hugging Face config.json and GGUF headers."""

from __future__ import annotations

from kvcalc.core.light import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Imported(NamedTuple):
    """A document (see `kvcalc.document`), what was derived and why, what to look at twice.

    exact: False where the numbers rest on an assumption; the reason is among the warnings.
    """

    document: dict[str, Any]
    derived: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    exact: bool = True
