"""Several processes, one report: torchrun starts them, each measures its own rank's plan, rank 0 gathers.

Nothing but torch's own rendezvous store carries the reports: no process group is made, so that no communication
library takes device memory while memory is measured, and a rank that was killed cannot block the others.
"""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import suppress
from datetime import timedelta
from types import FrameType
from typing import Any, NamedTuple, Self

from kvcalc.errors import CannotMeasure, UsageError
from kvcalc.measure.torch_backend import import_torch

#: How long rank 0 waits for the others after its own measurement.
DEFAULT_TIMEOUT_S = 300
_POLL_S = 0.05
_VERDICT = "kvcalc/verdict"


class Place(NamedTuple):
    """One process among all: global rank of `world`, and its place on this machine."""

    rank: int
    world: int
    local_rank: int
    local_world: int


class Stopped(Exception):
    """The launcher ends this process, because another rank ended."""


def place() -> Place | None:
    """Where torchrun put this process; None where it runs alone.

    Raises: UsageError for variables that make no sense.
    """
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    if not all(os.environ.get(name) for name in names):
        return None
    try:
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        local_rank = int(os.environ.get("LOCAL_RANK") or rank)
        local_world = int(os.environ.get("LOCAL_WORLD_SIZE") or world)
    except ValueError:
        raise UsageError("RANK, WORLD_SIZE and LOCAL_RANK must be numbers", fix="start with torchrun") from None
    return Place(rank, world, local_rank, local_world) if world > 1 else None


class Stopping:
    """Turns the launcher's SIGTERM into an exception once, and remembers it: rank 0 still has to report.

    Entered before anything slow, so that a rank lost early is reported too.
    """

    def __init__(self) -> None:
        self.asked = False
        self._raise = False
        self._before: Any = None

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGTERM, self._stop)
        return self

    def __exit__(self, *error: object) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if self._raise:
            self._raise = False
            raise Stopped

    def interruptible(self, on: bool) -> None:
        """Whether a stop interrupts what runs now (a measurement may take long) or is only remembered."""
        if on and self.asked:
            raise Stopped
        self._raise = on


def open_store(timeout_s: int) -> Any:
    """The store that torchrun's processes share.

    Raises: CannotMeasure where it cannot be reached.
    """
    import_torch()
    from torch.distributed import rendezvous

    try:
        store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=timeout_s)))
    except (RuntimeError, ValueError, OSError) as error:
        text = str(error).split("\n", 1)[0]
        raise CannotMeasure(f"the other processes cannot be reached: {text}", fix="start with torchrun") from None
    return store


def send(store: Any, at: Place, message: dict[str, Any], stopping: Stopping, *, timeout_s: int) -> None:
    """Hand this rank's report to rank 0 and wait until it has spoken, so that the launcher ends nobody early."""
    store.set(_key(at.rank), json.dumps(message))
    ends = time.monotonic() + 2 * timeout_s
    while not stopping.asked and time.monotonic() < ends and not store.check([_VERDICT]):
        time.sleep(_POLL_S)


def gather(
    store: Any, at: Place, own: dict[str, Any], stopping: Stopping, *, timeout_s: int
) -> dict[int, dict[str, Any]]:
    """Every rank's report, as far as they came before the launcher stops this process or the time is over."""
    found = {at.rank: own}
    ends = time.monotonic() + timeout_s
    while len(found) < at.world:
        over = stopping.asked or time.monotonic() > ends
        with suppress(RuntimeError):  # the launcher, and its store with it, may be gone
            for rank in range(at.world):
                if rank not in found and store.check([_key(rank)]):
                    found[rank] = json.loads(store.get(_key(rank)))
        if over:
            break
        time.sleep(_POLL_S)
    return dict(sorted(found.items()))


def close(store: Any) -> None:
    """Tell the other ranks that the report is made."""
    store.set(_VERDICT, "done")


def _key(rank: int) -> str:
    return f"kvcalc/rank/{rank}"
