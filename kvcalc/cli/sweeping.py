"""The rows of a sweep as text, in order, by several processes."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import connection, parent_process

from kvcalc.answers.sweep import Points, Sweep
from kvcalc.render.rowtext import lines_of

#: Points answered at a time: some 10 ms, so that progress is smooth and an interruption loses little.
SPAN = 512
#: Spans under way per process: what is held in memory when the reader is slow.
_AHEAD = 4
#: Fewer points than this are answered before processes would have started.
_ALONE = 16 * SPAN


class Spans:
    """What one process does."""

    def __init__(self, sweep: Sweep, form: str) -> None:
        self._points = Points(sweep)
        self._columns, self._form = tuple(sweep.columns), form

    def text(self, start: int, stop: int) -> str:
        return lines_of(self._columns, self._points.rows(start, stop), self._form)


_worker: list[Spans] = []


def _begin(sweep: Sweep, form: str) -> None:
    """In a new process: Ctrl-C is the first process's to handle, and none outlives it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _worker[:] = [Spans(sweep, form)]
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _span(start: int, stop: int) -> str:
    return _worker[0].text(start, stop)


def texts(sweep: Sweep, form: str, *, start: int, jobs: int) -> Iterator[tuple[int, str]]:
    """(points answered, text) from point `start` on, the same whatever `jobs` is."""
    points = sweep.points
    spans = ((first, min(first + SPAN, points)) for first in range(start, points, SPAN))
    if jobs == 1 or points - start <= _ALONE:
        alone = Spans(sweep, form)
        for first, stop in spans:
            yield stop, alone.text(first, stop)
        return
    pool = ProcessPoolExecutor(jobs, initializer=_begin, initargs=(sweep, form))
    under_way: deque[tuple[int, Future[str]]] = deque()
    try:
        for first, stop in spans:
            under_way.append((stop, pool.submit(_span, first, stop)))
            if len(under_way) >= _AHEAD * jobs:
                done, future = under_way.popleft()
                yield done, future.result()
        for done, future in under_way:
            yield done, future.result()
    finally:
        pool.shutdown(cancel_futures=True)
