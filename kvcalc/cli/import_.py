from __future__ import annotations

import sys

from kvcalc.cli.given import Given


def run(given: Given) -> int:
    from kvcalc.answers.importing import import_model, write_new
    from kvcalc.targets import load_target

    answer = import_model(load_target(given.values["source"], given.registry()), name=given.values["name"])
    path = given.values["output"]
    if path is not None:
        write_new(path, answer["yaml"], force=given.values["force"])
        for text in answer["warnings"]:
            sys.stderr.write(f"kvcalc: warning: {text}\n")
    if given.values["format"] is not None or given.values["json"]:
        given.emit(answer)
    elif path is None:
        sys.stdout.write(answer["yaml"])
    return 0
