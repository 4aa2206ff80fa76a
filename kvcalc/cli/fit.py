from __future__ import annotations

from kvcalc.cli.given import Given
from kvcalc.errors import EXIT_DOES_NOT_FIT, EXIT_OK


def run(given: Given) -> int:
    from kvcalc.answers.fit import Required, fit
    from kvcalc.units import MAX_SESSIONS

    ask, registry = given.ask(), given.registry()
    required = Required(given.whole("require_sessions", most=MAX_SESSIONS), given.tokens("require_context"))
    target = given.target(registry)
    gpu = given.gpu(ask, registry)
    if given.values["engines"] is not None:
        answer = given.by_engine([target], ask, gpu, [])
        return EXIT_OK if any(record["fits"] for record in answer["results"]) else EXIT_DOES_NOT_FIT
    answer = fit(target, ask, gpu, required)
    met = all(item["met"] for item in answer["requirements"])
    code = EXIT_OK if answer["fits"] and met else EXIT_DOES_NOT_FIT
    if given.values["measure"]:
        code = given.measure(answer, [answer], [target], ask, gpu) or code
    given.emit(answer)
    return code
