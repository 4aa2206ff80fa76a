"""The search behind `plan`: which units (a replica, or replicas that share their experts) are worth looking at."""

from __future__ import annotations

from collections.abc import Iterator

from kvcalc.core.model import Model
from kvcalc.core.plan import Layout
from kvcalc.kinds.heads import HeadAttention
from kvcalc.kinds.latent import LatentAttention
from kvcalc.planning.layouts import MAX_TP, Division
from kvcalc.planning.shape import known_shape

#: A plan looks at units of up to this many GPUs.
MAX_UNIT = 64
#: Pipelines deeper than this are not tried: every stage waits for the others.
MAX_PP = 8


def units(model: Model, most: int = MAX_UNIT) -> Iterator[Division]:
    """Units of at most `most` GPUs: powers of two of TP and PP, and of DP where experts are spread over it."""
    heads = [kind.heads for kind in model.blocks.values() if isinstance(kind, HeadAttention | LatentAttention)]
    experts = known_shape(model).experts
    for tp in _powers(min(most, MAX_TP)):
        if any(count % tp for count in heads):
            continue
        for pp in _powers(min(most // tp, MAX_PP, len(model.layers))):
            yield Division(Layout(tp=tp, pp=pp))
            if not experts:
                continue
            for dp in _powers(most // (tp * pp)):
                if dp > 1 and experts % (tp * dp) == 0:
                    yield Division(Layout(tp=tp, pp=pp, dp=dp), ep=True)


def _powers(most: int) -> list[int]:
    return [1 << exponent for exponent in range(max(most, 1).bit_length())]
