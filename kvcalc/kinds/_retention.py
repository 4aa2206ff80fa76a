"""Which tokens attention keeps: the axis that is independent of what it stores per token."""

from __future__ import annotations

from kvcalc.core.component import Chunked, Law, Linear, Windowed
from kvcalc.errors import ModelFileError
from kvcalc.kinds._check import MAX_WINDOW, need_int, need_optional_int


def check_retention(window: int | None, chunk: int | None, sinks: int) -> None:
    """A layer has a window or a chunk or neither; sinks only beside a window.

    Raises: ModelFileError.
    """
    need_optional_int("window", window, most=MAX_WINDOW)
    need_optional_int("chunk", chunk, most=MAX_WINDOW)
    need_int("sinks", sinks, least=0, most=MAX_WINDOW)
    if window is not None and chunk is not None:
        raise ModelFileError(
            "a layer has window or chunk, not both",
            fix="keep window for sliding attention, chunk for chunked attention",
            field="chunk",
            value=chunk,
        )
    if sinks and window is None:
        raise ModelFileError(
            "sinks are tokens kept beside a window, and there is no window",
            fix="add window, or drop sinks (learned sink logits store nothing)",
            field="sinks",
            value=sinks,
        )


def retention_law(window: int | None, chunk: int | None, sinks: int) -> Law:
    """The growth law of a layer's tokens."""
    if window is not None:
        return Windowed(window, sinks)
    return Chunked(chunk) if chunk is not None else Linear()
