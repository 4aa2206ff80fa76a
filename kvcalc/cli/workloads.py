"""Request lengths as typed: a workload file, a trace, or two shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from kvcalc.cli.given import Given
from kvcalc.errors import ModelFileError, UsageError, short
from kvcalc.planning.sessions import Targets
from kvcalc.units import MAX_SESSIONS, parse_fraction

if TYPE_CHECKING:
    from kvcalc.answers.common import Ask
    from kvcalc.answers.sessions import Question
    from kvcalc.planning.workload import Workload

_TRACES = (".csv", ".jsonl", ".ndjson")


def read_targets(given: Given) -> Targets:
    """--wait and --preempt.

    Raises: UsageError.
    """
    wait, preempt = given.values.get("wait"), given.values.get("preempt")
    return Targets(
        wait=Targets().wait if wait is None else parse_fraction(wait, field="wait"),
        preempt=None if preempt is None else parse_fraction(preempt, field="preempt"),
    )


def read_question(given: Given, ask: Ask) -> tuple[Question, Ask]:
    """What is asked about real lengths, and the options it is asked with: without -c, of the longest session.

    Raises: UsageError.
    """
    from kvcalc.answers.sessions import Question

    workload = read_workload(given)
    question = Question(workload, read_targets(given), given.whole("sessions", most=MAX_SESSIONS))
    if given.values.get("context") is None:
        ask = ask._replace(context_tokens=workload.longest + workload.shared_prompt)
    return question, ask._replace(sessions=1)


def maybe_workload(given: Given) -> Workload | None:
    """The lengths, where any are given."""
    asked = any(given.values.get(name) is not None for name in ("workload", "input", "output"))
    return read_workload(given) if asked else None


def read_workload(given: Given) -> Workload:
    """The lengths of --workload, or of --input and --output; --shared-prompt and --arrivals win over the file.

    Raises: UsageError.
    """
    from kvcalc.answers.sessions import need_workload
    from kvcalc.planning.additions import with_images
    from kvcalc.planning.workload import inline

    path, prompt, output = (given.values.get(name) for name in ("workload", "input", "output"))
    if path is not None and (prompt is not None or output is not None):
        raise UsageError("--workload and --input/--output contradict", fix="keep one of them", field="workload")
    if path is not None:
        found = _read_file(path) if isinstance(path, str) else _read_object(path)
    elif prompt is None or output is None:
        raise need_workload()
    else:
        found = inline(prompt, output)
    shared, arrivals = given.tokens("shared_prompt"), given.values.get("arrivals")
    if arrivals not in (None, "closed", "poisson"):
        raise UsageError(f"--arrivals cannot be {short(arrivals)}", fix="closed or poisson", field="arrivals")
    if images := given.tokens("image_tokens"):
        found = with_images(found, images)
    return replace(
        found,
        shared_prompt=found.shared_prompt if shared is None else shared,
        poisson=found.poisson if arrivals is None else arrivals == "poisson",
    )


def _read_object(held: object) -> Workload:
    """What Python hands over instead of a file: its mapping, or rows of (prompt tokens, output tokens)."""
    from kvcalc.planning.workload import from_document, from_rows, rows_of_pairs

    return from_document(held) if isinstance(held, Mapping) else from_rows(rows_of_pairs(held))


def _read_file(path: str) -> Workload:
    """A trace (CSV, JSONL) line by line; anything else as YAML or JSON."""
    from pathlib import Path

    from kvcalc.planning.workload import from_document, from_rows, rows_of_lines, rows_of_table

    suffix = Path(path).suffix.lower()
    try:
        if suffix in _TRACES:
            with Path(path).open(encoding="utf-8-sig", errors="replace", newline="") as lines:
                rows = rows_of_table(lines, file=path) if suffix == ".csv" else rows_of_lines(lines, file=path)
                return from_rows(rows)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", fix="check --workload", field="workload") from None
    from kvcalc.yamlfile import decode, parse, read_bytes

    try:
        document = parse(decode(read_bytes(Path(path)), path), path)[0]
    except ModelFileError as error:  # the same reading as a model file's, but no model is at fault
        fix = error.fix if error.line else "name a workload file: docs/sessions.md shows one"
        raise UsageError(error.what, fix=fix, file=path, line=error.line, field=error.field) from None
    return from_document(document, file=path)
