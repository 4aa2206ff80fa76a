"""Runs mutants: one forked child each, in a process that has imported and collected everything."""

from __future__ import annotations

import ast
import gc
import json
import os
import re
import resource
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import Phase, settings
from mutation.sites import Site, sites
from mutation.tests_map import TestsMap, users
from mutation.transplant import Living, mutated, put

KILLED, SURVIVED, NO_TESTS, TIMEOUT, UNCHANGED = "killed", "survived", "no tests", "timeout", "unchanged"


#: Tests of one function in a round: written-out cases are quick and differ.
AT_ONCE = (("tests/unit/test_", 20), ("tests/golden/", 3))


class Mutant(NamedTuple):
    """Mutant `number` of a file."""

    file: str
    number: int
    site: Site

    @property
    def name(self) -> str:
        return f"{self.file}:{self.site.line}:{self.site.column}: {self.site.what}"


class Limits(NamedTuple):
    """How long one mutant is looked at: tests in number, and in seconds that they take unchanged."""

    tests: int
    seconds: float


def mutants_of(root: Path, files: Iterable[str], every: int = 1) -> list[Mutant]:
    """Every `every`-th mutant of each file."""
    found = []
    for file in files:
        listed = sites(ast.parse((root / file).read_text()))
        found += [Mutant(file, number, site) for number, site in enumerate(listed) if number % every == 0]
    return found


class Chooser:
    """The tests of a mutant, those that kill soonest first."""

    def __init__(self, root: Path, tests: TestsMap, files: list[str], before: Iterable[dict[str, Any]]) -> None:
        self.root, self.tests, self.users = root, tests, users(root, files)
        self.kills: dict[str, Counter[str]] = defaultdict(Counter)
        for row in before:
            if "killer" in row:
                self.kills[row["file"]][row["killer"]] += 1
        self.statements: dict[str, list[tuple[int, int]]] = {}
        self.said: dict[str, frozenset[str]] = {}
        self.breadth: Counter[str] = Counter()
        for found in tests.lines.values():
            for running in found.values():
                self.breadth.update(running)

    def covering(self, mutant: Mutant) -> frozenset[str]:
        """Tests that run the mutant's lines; where only the import runs them, those that run what the name is for."""
        site, lines = mutant.site, self.tests.lines.get(mutant.file, {})
        if not self.outside(mutant):
            return self.running(mutant)
        found: set[str] = set()
        for file, first, last in self.users.get(site.owner or site.inside, ()):
            inside = self.tests.lines.get(file, {})
            found.update(*(inside.get(line, ()) for line in range(first, last + 1)))
        named = site.owner or site.inside
        found.update(test for test in self.tests.seconds if named in self.words(test.partition("::")[0]))
        return frozenset(found) or frozenset().union(*lines.values())

    def words(self, test_file: str) -> frozenset[str]:
        """Names that a test file says: it may read a table without running a line that is measured."""
        if test_file not in self.said:
            path = self.root / test_file
            text = path.read_text() if path.is_file() and test_file.startswith("tests/unit/") else ""
            self.said[test_file] = frozenset(re.findall(r"\w+", text))
        return self.said[test_file]

    def running(self, mutant: Mutant) -> frozenset[str]:
        lines = self.tests.lines.get(mutant.file, {})
        first, last = self.statement(mutant.file, mutant.site)
        return frozenset().union(*(lines.get(line, ()) for line in range(first, last + 1)))

    def outside(self, mutant: Mutant) -> bool:
        """Whether the module has to run again: a table, a field, a default, a function that only the import calls."""
        lines = self.tests.lines.get(mutant.file, {})
        first, last = self.statement(mutant.file, mutant.site)
        at_import = any(line in lines for line in range(first, last + 1)) and not self.running(mutant)
        return bool(mutant.site.owner) or at_import

    def statement(self, file: str, site: Site) -> tuple[int, int]:
        """First and last line of the innermost simple statement or header around the mutant."""
        if file not in self.statements:
            tree = ast.parse((self.root / file).read_text())
            self.statements[file] = [_span(node) for node in ast.walk(tree) if isinstance(node, ast.stmt)]
        around = [span for span in self.statements[file] if span[0] <= site.line <= span[1]]
        return min(around, key=lambda span: span[1] - span[0], default=(site.line, site.last_line))

    def ordered(self, mutant: Mutant) -> list[str]:
        """Tests that killed neighbours; then by turns one over recorded answers of real engines and one of the others.

        Among each, those that run fewest lines come first, a few of every test function at once.
        """
        seconds, lines = self.tests.seconds, self.breadth
        covering = sorted((test for test in self.covering(mutant) if test in seconds), key=lambda t: (lines[t], t))
        rounds: Counter[str] = Counter()
        turn = {}
        for test in covering:
            function = test.partition("[")[0]
            turn[test] = rounds[function] // next((n for place, n in AT_ONCE if test.startswith(place)), 2)
            rounds[function] += 1
        covering.sort(key=lambda test: (turn[test], lines[test], test))
        golden = [test for test in covering if test.startswith("tests/golden/")]
        others = [test for test in covering if not test.startswith("tests/golden/")]
        by_turns = [test for pair in zip_longest(golden, others) for test in pair if test is not None]
        known = set(covering)
        first = [test for test, _ in self.kills[mutant.file].most_common(20) if test in known]
        return [*first, *(test for test in by_turns if test not in first)]

    def within(self, mutant: Mutant, limits: Limits) -> list[str]:
        chosen, left = [], limits.seconds
        for test in self.ordered(mutant)[: limits.tests]:
            left -= self.tests.seconds[test]
            if left < 0 and chosen:
                break
            chosen.append(test)
        return chosen


def _span(node: ast.stmt) -> tuple[int, int]:
    body = getattr(node, "body", None)
    last = body[0].lineno - 1 if isinstance(body, list) and body else node.end_lineno
    return node.lineno, max(node.lineno, last or node.lineno)


class Loop:
    """A pytest plugin: in place of running the collected tests, runs the mutants."""

    def __init__(self, root: Path, mutants: list[Mutant], chooser: Chooser, limits: Limits, out: Path) -> None:
        self.root, self.mutants, self.chooser, self.limits, self.out = root, mutants, chooser, limits, out

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = {item.nodeid: item for item in session.items}
        living = Living([self.root / file for file in sorted({mutant.file for mutant in self.mutants})])
        gc.collect()
        gc.freeze()
        started = time.monotonic()
        with self.out.open("a", encoding="utf-8") as out:
            for count, mutant in enumerate(self.mutants, 1):
                row = self.one(mutant, items, living)
                out.write(json.dumps(row) + "\n")
                out.flush()
                if count % 100 == 0:
                    print(f"{count}/{len(self.mutants)} {time.monotonic() - started:.0f}s", file=sys.stderr, flush=True)
        return True

    def one(self, mutant: Mutant, items: dict[str, pytest.Item], living: Living) -> dict[str, Any]:
        chosen = [items[test] for test in self.chooser.within(mutant, self.limits) if test in items]
        row = {"mutant": mutant.name, "file": mutant.file, "number": mutant.number, "tests": len(chosen)}
        if not chosen:
            return row | {"status": NO_TESTS}
        outside = self.chooser.outside(mutant)
        limits = [1 + 3 * self.chooser.tests.seconds[item.nodeid] for item in chosen]
        status, killer = _in_child(
            lambda: _try(mutant, self.root, list(zip(chosen, limits, strict=True)), living, outside=outside)
        )
        if killer is not None:
            self.chooser.kills[mutant.file][chosen[killer].nodeid] += 1
            row["killer"] = chosen[killer].nodeid
        return row | {"status": status}


def _in_child(work: Callable[[], int]) -> tuple[str, int | None]:
    """What became of it, and the place of the test that failed."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_end)
        signal.alarm(120)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        soft = 3 << 30
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + soft, used + soft))
        try:
            place = work()
        except BaseException as error:  # noqa: BLE001  # a mutant can break anything; the row says what
            os.write(write_end, repr(error)[:200].encode())
            os._exit(4)
        os.write(write_end, str(place).encode())
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as stream:
        said = stream.read().decode()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return TIMEOUT, None
    if os.WEXITSTATUS(status) == 4:
        return f"broken: {said}", None
    place = int(said)
    return (SURVIVED, None) if place == -1 else (UNCHANGED, None) if place == -2 else (KILLED, place)


def _try(mutant: Mutant, root: Path, chosen: list[tuple[pytest.Item, float]], living: Living, *, outside: bool) -> int:
    """Place of the first test that fails; -1 when none does, -2 when nothing changed.

    A test that takes more CPU seconds than its limit ends the process, which counts as a failure.
    """
    path = root / mutant.file
    code = mutated(path.read_text(), path, mutant.number)
    try:
        changed = put(living, path, code, outside=outside)
    except Exception:  # noqa: BLE001  # a module that no longer imports fails every test
        return 0
    if not changed:
        return -2
    session = chosen[0][0].session
    for place, (item, seconds) in enumerate(chosen):
        signal.setitimer(signal.ITIMER_PROF, seconds)
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
        if session.testsfailed:
            return place
    return -1


def options() -> list[str]:
    """pytest's: nothing that only makes failures readable."""
    off = ("no:randomly", "no:cacheprovider", "no:cov", "no:faulthandler")
    return ["-q", "-s", "--tb=native", "--assert=plain", *(word for name in off for word in ("-p", name))]


def profile() -> None:
    """Hypothesis as in the plain suite, but a failure is not made smaller. Chosen by KVCALC_HYPOTHESIS."""
    phases = (Phase.explicit, Phase.generate)
    settings.register_profile(
        "mutation", derandomize=True, max_examples=50, deadline=None, database=None, phases=phases, print_blob=False
    )
    os.environ["KVCALC_HYPOTHESIS"] = "mutation"


def rows(out: Path) -> Iterator[dict[str, Any]]:
    if out.exists():
        for line in out.read_text().splitlines():
            yield json.loads(line)
