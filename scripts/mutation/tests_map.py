"""Which tests run which lines, and how long each takes: from one run of the plain suite under coverage."""

from __future__ import annotations

import ast
import pickle
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET

from coverage import CoverageData


class TestsMap(NamedTuple):
    """lines: file (relative) -> line -> tests. seconds: test -> call time."""

    lines: dict[str, dict[int, frozenset[str]]]
    seconds: dict[str, float]


def make(root: Path, folder: Path, packages: list[str], pytest_arguments: list[str], *, add: bool = False) -> TestsMap:
    """Runs the suite (or the part named) with one coverage context per test; `add`: to the map that is there."""
    folder.mkdir(exist_ok=True)
    (folder / "coveragerc").write_text(
        "[run]\nbranch = true\nsource =\n" + "".join(f"    {package}\n" for package in packages)
        + f"data_file = {folder / 'coverage'}\n"
    )  # fmt: skip
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "--cov", "--cov-report="]
    command += [f"--cov-config={folder / 'coveragerc'}", "--cov-context=test", "-o", "junit_family=xunit1"]
    command += [f"--junitxml={folder / 'junit.xml'}", *pytest_arguments]
    subprocess.run(command, cwd=root, check=False)
    before = load(folder) if add else TestsMap({}, {})
    made = _joined(before, read(root, folder))
    (folder / "map.pickle").write_bytes(pickle.dumps(tuple(made)))
    return made


def _joined(one: TestsMap, two: TestsMap) -> TestsMap:
    lines = {
        file: {
            line: one.lines.get(file, {}).get(line, frozenset()) | two.lines.get(file, {}).get(line, frozenset())
            for line in {*one.lines.get(file, ()), *two.lines.get(file, ())}
        }
        for file in {*one.lines, *two.lines}
    }
    return TestsMap(lines, one.seconds | two.seconds)


def read(root: Path, folder: Path) -> TestsMap:
    """What the last run left: its coverage and its times."""
    failed, seconds = set(), {}
    for case in ET.parse(folder / "junit.xml").getroot().iter("testcase"):  # noqa: S314  # our own file
        name = f"{case.get('file')}::{case.get('name')}"
        seconds[name] = float(case.get("time", 0))
        if any(child.tag in ("failure", "error", "skipped") for child in case):
            failed.add(name)
    data = CoverageData(str(folder / "coverage"))
    data.read()
    lines: dict[str, dict[int, frozenset[str]]] = {}
    for file in data.measured_files():
        found = {}
        for line, contexts in data.contexts_by_lineno(file).items():
            tests = frozenset(_test(context) for context in contexts if context) - failed
            found[abs(line)] = tests | found.get(abs(line), frozenset())
        lines[str(Path(file).relative_to(root))] = found
    return TestsMap(lines, {name: time for name, time in seconds.items() if name not in failed})


def load(folder: Path) -> TestsMap:
    return TestsMap(*pickle.loads((folder / "map.pickle").read_bytes()))  # noqa: S301  # our own file


def _test(context: str) -> str:
    return context.rpartition("|")[0]


def users(root: Path, files: list[str]) -> dict[str, set[tuple[str, int, int]]]:
    """Name -> the functions (file, first line, last line) that say it; names made of names count too."""
    found: dict[str, set[tuple[str, int, int]]] = defaultdict(set)
    made_of: dict[str, set[str]] = defaultdict(set)
    for file in files:
        for node in ast.parse((root / file).read_text()).body:
            _collect(node, file, found, made_of)
    for name in list(made_of):
        seen, ahead = {name}, [name]
        while ahead:
            fresh = made_of.get(ahead.pop(), set()) - seen
            seen |= fresh
            ahead += fresh
        for other in seen:
            found[name] = found[name] | found.get(other, set())
    return found


def _collect(
    node: ast.stmt, file: str, found: dict[str, set[tuple[str, int, int]]], made_of: dict[str, set[str]]
) -> None:
    if isinstance(node, ast.ClassDef):
        for inner in node.body:
            _collect(inner, file, found, made_of)
            if isinstance(inner, ast.FunctionDef):
                found[node.name].add((file, inner.lineno, inner.end_lineno or inner.lineno))
    names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    names |= {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
    if isinstance(node, ast.FunctionDef):
        for name in {*names, node.name}:
            found[name].add((file, node.lineno, node.end_lineno or node.lineno))
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        for name in names:
            made_of[name].add(ast.unparse(target))
