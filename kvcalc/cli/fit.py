from __future__ import annotations

from kvcalc.cli.given import Given
from kvcalc.errors import EXIT_DOES_NOT_FIT, EXIT_OK, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from kvcalc.answers.common import Ask
    from kvcalc.answers.fit import Required
    from kvcalc.core.gpu import Gpu
    from kvcalc.targets import Target

#: Options that are about request lengths.
_LENGTHS = ("workload", "input", "output", "shared_prompt", "image_tokens", "arrivals", "wait", "preempt")


def run(given: Given) -> int:
    from kvcalc.answers.fit import Required, fit
    from kvcalc.units import MAX_SESSIONS

    ask, registry = given.ask(), given.registry()
    required = Required(given.whole("require_sessions", most=MAX_SESSIONS), given.tokens("require_context"))
    target = given.target(registry)
    gpu = given.gpu(ask, registry)
    lengths = [name for name in _LENGTHS if given.values[name] is not None]
    if given.values["engines"] is not None:
        if lengths:
            name = lengths[0].replace("_", "-")
            raise UsageError(f"--{name} contradicts --engines", fix=f"drop --{name}, or name one -e", field="engines")
        answer = given.by_engine([target], ask, gpu, [])
        return EXIT_OK if any(record["fits"] for record in answer["results"]) else EXIT_DOES_NOT_FIT
    answer = _at_lengths(given, target, ask, gpu, required) if lengths else fit(target, ask, gpu, required)
    met = all(item["met"] for item in answer["requirements"])
    none = "at_lengths" in answer and answer["at_lengths"]["max_sessions"] == 0
    code = EXIT_OK if answer["fits"] and met and not none else EXIT_DOES_NOT_FIT
    if given.values["measure"]:
        code = given.measure(answer, [answer], [target], ask, gpu) or code
    given.emit(answer)
    return code


def _at_lengths(given: Given, target: Target, ask: Ask, gpu: Gpu | None, required: Required) -> dict[str, Any]:
    from kvcalc.answers.lengths import fit_lengths
    from kvcalc.cli.workloads import read_question

    question, other = read_question(given, ask)
    return fit_lengths(target, (ask, other), gpu, required, question)
