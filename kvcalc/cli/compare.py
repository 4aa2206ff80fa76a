from __future__ import annotations

from kvcalc.cli.given import Given
from kvcalc.errors import EXIT_OK, UsageError


def run(given: Given) -> int:
    from kvcalc.answers.compare import compare

    if given.values.get("layouts") is not None or given.values.get("gpus") is not None:
        return _layouts(given)
    ask, registry = given.ask(), given.registry()
    gpu, notes = given.gpu_or_default(ask, registry)
    targets = given.targets(registry)
    if given.values["engines"] is not None:
        given.by_engine(targets, ask, gpu, notes)
        return EXIT_OK
    answer = compare(targets, ask, gpu)
    answer["assumptions"] = [*notes, *answer["assumptions"]]
    code = EXIT_OK
    if given.values["measure"]:
        code = given.measure(answer, answer["results"], targets, ask, gpu)
    given.emit(answer)
    return code


def _layouts(given: Given) -> int:
    from kvcalc.answers.layouts import compare_layouts

    registry = given.registry()
    for name in ("tp", "pp", "dp", "dcp", "pool"):
        if given.values.get(name) is not None:
            raise UsageError(f"--{name} contradicts --layouts", fix=f"drop --{name}", field=name)
    fleet, notes = given.fleet(registry, given.whole("gpus"))
    ask = Given({**given.values, "gpu": fleet[0][0].name}).ask()
    answer = compare_layouts(given.targets(registry), ask, fleet, given.values.get("layouts") or "all")
    answer["assumptions"] = [*notes, *answer["assumptions"]]
    given.emit(answer)
    return 0
