"""Mutation testing: `mutate.py map`, then `mutate.py run`, then `mutate.py report`. See docs/mutation.md."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT), str(ROOT / "tests")]

from mutation import cold, run, tests_map  # noqa: E402  # the paths above come first

FOLDER = ROOT / ".mutation"
PACKAGES = ["kvcalc/core", "kvcalc/kinds", "kvcalc/engines", "kvcalc/importers"]


def files(packages: list[str]) -> list[str]:
    found: list[Path] = []
    for package in packages:
        path = ROOT / package
        found += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return [str(path.relative_to(ROOT)) for path in found]


def main() -> int:
    asked = arguments()
    if asked.command == "map":
        made = tests_map.make(ROOT, FOLDER, PACKAGES, [*asked.packages, *asked.rest], add=asked.add)
        print(f"{len(made.seconds)} tests, {len(made.lines)} files")
        return 0
    out = FOLDER / asked.out
    if asked.command == "report":
        return report(out)
    chosen = asked.packages or PACKAGES[:3]
    mutants = run.mutants_of(ROOT, files(chosen), asked.every)
    done = {row["mutant"]: row["status"] for row in run.rows(out)}
    if asked.again or asked.command == "cold":
        wanted = {name for name, status in done.items() if status not in (run.KILLED, run.TIMEOUT)}
        mutants = [mutant for mutant in mutants if mutant.name in wanted]
    else:
        mutants = [mutant for mutant in mutants if mutant.name not in done]
    # Cut short, what was done is an even sample of every file.
    mutants.sort(key=lambda mutant: mutant.number % 8)
    mutants = mutants[asked.part :: asked.parts]
    chooser = run.Chooser(ROOT, tests_map.load(FOLDER), files(["kvcalc"]), run.rows(out))
    if asked.command == "cold":
        return cold_again(mutants, chooser, out)
    run.profile()
    import pytest

    loop = run.Loop(ROOT, mutants, chooser, run.Limits(asked.tests, asked.seconds), out)
    return int(pytest.main([*run.options(), *asked.rest], plugins=[loop]))


def cold_again(mutants: list[run.Mutant], chooser: run.Chooser, out: Path) -> int:
    """Survivors outside functions, in a fresh interpreter each."""
    with out.open("a", encoding="utf-8") as results:
        for mutant in filter(chooser.outside, mutants):
            tests = chooser.ordered(mutant)
            status = run.KILLED if tests and cold.killed(mutant.file, mutant.number, tests) else run.SURVIVED
            row = {"mutant": mutant.name, "file": mutant.file, "number": mutant.number, "status": status, "cold": True}
            results.write(json.dumps(row) + "\n")
            results.flush()
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=("map", "run", "cold", "report"))
    parser.add_argument("packages", nargs="*", help="folders, files (default core, kinds, engines); map: tests")
    parser.add_argument("--add", action="store_true", help="map: to the map that is there")
    parser.add_argument("--every", type=int, default=1, help="only every n-th mutant of each file")
    parser.add_argument("--again", action="store_true", help="only those that were not killed last time")
    parser.add_argument("--tests", type=int, default=200, help="at most so many tests for one mutant")
    parser.add_argument("--seconds", type=float, default=4.0, help="at most so long (as the tests take unchanged)")
    parser.add_argument("--part", type=int, default=0)
    parser.add_argument("--parts", type=int, default=1)
    parser.add_argument("--out", default="results.jsonl")
    asked, asked.rest = parser.parse_known_args()
    return asked


def report(out: Path) -> int:
    """Scores per package, then every survivor."""
    found = {row["mutant"]: row for row in run.rows(out)}
    files = sorted({row["file"] for row in found.values()})
    there = {mutant.name for mutant in run.mutants_of(ROOT, files)}
    last = {name: row for name, row in found.items() if name in there}
    score: dict[str, Counter[str]] = defaultdict(Counter)
    for row in last.values():
        score["/".join(row["file"].split("/")[:2])][row["status"].split(":")[0]] += 1
    for name, row in sorted(last.items()):
        if row["status"] not in (run.KILLED, run.TIMEOUT):
            print(f"{row['status']:<10}{name}")
    for package, counts in sorted(score.items()):
        killed, total = counts[run.KILLED] + counts[run.TIMEOUT], counts.total()
        print(f"{package}: {killed}/{total} = {100 * killed / total:.1f} %  {dict(counts)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
