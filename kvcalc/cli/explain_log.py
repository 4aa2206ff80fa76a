from __future__ import annotations

from kvcalc.cli.given import Given


def run(given: Given) -> int:
    from kvcalc.answers.explain_log import explain_log
    from kvcalc.targets import load_target

    registry = given.registry()
    asked, gpu = given.values["model"], given.values["gpu"]
    given.emit(
        explain_log(
            given.values["file"],
            target=None if asked is None else load_target(asked, registry),
            gpu=None if gpu is None else registry.gpu(gpu),
        )
    )
    return 0
