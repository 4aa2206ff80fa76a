from __future__ import annotations

from kvcalc.cli.given import DEFAULT_GPU, Given
from kvcalc.errors import EXIT_OK


def run(given: Given) -> int:
    """Exit 0 whenever advice is given: 'it does not fit' is where advice begins. `fit` is the gate for scripts."""
    from kvcalc.answers.advise import ROWS, Shipped, advise, advise_models

    registry = given.registry()
    target = None if given.values.get("target") is None else given.target(registry)
    ask = given.ask()
    notes = [] if ask.gpu else [f"GPU {DEFAULT_GPU}: none was asked for (--gpu)"]
    gpu = registry.gpu(ask.gpu or DEFAULT_GPU)
    ask = ask._replace(gpu=gpu.name)
    shipped = Shipped(registry.models(), registry.gpus(), given.whole("rows", most=1000) or ROWS)
    answer = advise_models(ask, gpu, shipped) if target is None else advise(target, ask, gpu, shipped)
    answer["assumptions"] = [*notes, *answer["assumptions"]]
    given.emit(answer)
    return EXIT_OK
