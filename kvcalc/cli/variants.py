from __future__ import annotations

from kvcalc.cli.given import Given


def run(given: Given) -> int:
    from kvcalc.answers.variants import Shapes, variants
    from kvcalc.units import MAX_TOKENS

    ask, registry = given.ask(), given.registry()
    gpu, notes = given.gpu_or_default(ask, registry)
    usual = Shapes()
    shapes = Shapes(
        latent_dim=given.whole("latent_dim", most=2**20) or usual.latent_dim,
        rope_dim=given.whole("rope_dim", most=2**20) or usual.rope_dim,
        window=given.whole("window", most=MAX_TOKENS) or usual.window,
        hybrid_window=given.whole("hybrid_window", most=MAX_TOKENS) or usual.hybrid_window,
        hybrid_local=given.whole("hybrid_local", most=100) or usual.hybrid_local,
    )
    answer = variants(given.target(registry), ask, gpu, shapes)
    answer["assumptions"] = [*notes, *answer["assumptions"]]
    given.emit(answer)
    return 0
