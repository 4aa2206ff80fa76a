"""Runs of many cases: what led to an outcome not seen before is kept and broken further.

A run is made of chunks. Each begins with the sound cases and the saved corpus and has a seed of its own, so any chunk
can be repeated alone, in any order, in any process.
"""

from __future__ import annotations

import random
import signal
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from fuzzing.case import Case, size_of
from fuzzing.mutate import mutate
from fuzzing.outcome import Outcome, Wrong
from fuzzing.seeds import seeds, words
from fuzzing.targets import READERS

#: CPU time after which a case counts as a hang. The slowest sound header takes a tenth of it.
HANG_SECONDS = 2.0


#: Larger cases are tried, but not broken further: they cost time and teach nothing.
LARGEST_PARENT = 30_000


class Hang(BaseException):
    """Raised inside a reader that does not come to an end."""


@dataclass
class Tally:
    """What came of a number of cases. crashes: signature -> (the first such case, its message)."""

    inputs: int = 0
    accepted: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    outcomes: dict[str, Case] = field(default_factory=dict)
    shown: dict[str, str] = field(default_factory=dict)
    crashes: dict[str, tuple[Case, str]] = field(default_factory=dict)

    def note(self, case: Case, outcome: Outcome) -> bool:
        """Count the outcome; True where it is new, or the case smaller than the one that stood for it."""
        self.inputs += 1
        self.accepted += outcome.kind == "accepted"
        key = f"{outcome.kind}: {outcome.template}"
        known = self.outcomes.get(key)
        if known is not None and size_of(case) >= size_of(known):
            return False
        self.outcomes[key] = case
        self.shown[key] = outcome.shown
        return known is None


def _alarm(number: int, frame: FrameType | None) -> None:
    raise Hang


def run_case(name: str, case: Case, folder: Path) -> Outcome:
    """The outcome of one case, its CPU time bounded.

    Raises: Hang; Wrong; whatever a reader lets through.
    """
    before = signal.signal(signal.SIGVTALRM, _alarm)
    signal.setitimer(signal.ITIMER_VIRTUAL, HANG_SECONDS)
    try:
        return READERS[name](case, folder)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def try_case(name: str, case: Case, folder: Path, tally: Tally) -> bool:
    """Run and count one case; True where it showed something new."""
    start = time.process_time()
    try:
        outcome = run_case(name, case, folder)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - the point of it
        tally.inputs += 1
        tally.crashes.setdefault(signature(error), (case, _told(error)))
        return False
    finally:
        tally.slowest = max(tally.slowest, time.process_time() - start)
    return tally.note(case, outcome)


def signature(error: BaseException) -> str:
    """Equal for the same fault: the exception, and the last line of kvcalc it came from."""
    frames = [item for item in traceback.extract_tb(error.__traceback__) if "/kvcalc/" in item.filename]
    where = f"{frames[-1].filename.rpartition('/kvcalc/')[2]}:{frames[-1].lineno}" if frames else ""
    return f"Wrong {error.fault}" if isinstance(error, Wrong) else f"{type(error).__name__} {where}".strip()


def _told(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)[-6:])[-2000:]


def run_chunk(
    name: str, *, seed: int, count: int, folder: Path, corpus: list[Case], known: Tally | None = None
) -> Tally:
    """`count` new cases of one format, deterministic by `seed`. known: a tally to go on with."""
    tally = known or Tally()
    chance = random.Random(f"{name} {seed}")
    sound, pool = list(seeds(name)), [*seeds(name), *corpus]
    start = time.process_time()
    for _ in range(count):
        parent = chance.choice(sound) if chance.random() < 0.4 else chance.choice(pool)
        case = mutate(parent, chance.choice(sound), chance, words(name))
        if try_case(name, case, folder, tally) and size_of(case) < LARGEST_PARENT:
            pool.append(case)
    tally.seconds += time.process_time() - start
    return tally
