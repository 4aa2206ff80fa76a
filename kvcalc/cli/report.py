from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from kvcalc.cli.given import Given
from kvcalc.errors import EXIT_OK

if TYPE_CHECKING:
    from kvcalc.answers.report import Wish


def run(given: Given) -> int:
    from kvcalc.answers.report import Wish, report
    from kvcalc.cli.again import command_line

    path, form = given.file(), given.format()
    if path is not None:
        from kvcalc.render.report import file_kind

        file_kind(path)
    ask, registry = given.ask(), given.registry()
    gpu, notes = given.gpu_or_default(ask, registry)
    targets = given.targets(registry)
    asked = {**given.values, "format": None, "json": False}  # how it is shown changes nothing in it
    answer = report(targets, ask, gpu, _workload(given, Wish(command_line("report", asked))))
    answer["assumptions"] = [*notes, *answer["assumptions"]]
    if path is not None:
        from kvcalc.render.report import write_report

        write_report(answer, path, plots=not given.values["no_plots"])
        if form is None:
            for row in answer["refused"]:
                sys.stderr.write(f"kvcalc: warning: {row['engine']} refuses {row['model']}: {row['reason']}\n")
            sys.stdout.write(f"wrote {path}\n")
            return EXIT_OK
    given.emit(answer)
    return EXIT_OK


def _workload(given: Given, wish: Wish) -> Wish:
    """With the request lengths of --workload, if they are given; asked with one session of the longest length."""
    if given.values["workload"] is None:
        return wish
    from kvcalc.cli.workloads import read_question

    question, ask = read_question(given, given.ask())
    return wish._replace(question=question._replace(at=None), session_ask=ask)
