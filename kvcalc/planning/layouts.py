"""Ways to divide a model over GPUs: tensor, pipeline, data, expert and decode-context parallel degrees.

A layout is written `tp8`, `tp4pp2`, `dp8ep8`, `tp2dp4`, `tp8dcp2`; degrees that are not named are 1. Expert parallelism
spreads the experts over TP x DP, so `ep` names that product (or stands alone).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from kvcalc.core.model import Model
from kvcalc.core.plan import Layout
from kvcalc.errors import UsageError, short
from kvcalc.kinds.heads import HeadAttention
from kvcalc.kinds.latent import LatentAttention
from kvcalc.planning.shape import known_shape

_PART = re.compile(r"(tp|pp|dp|dcp|ep)([0-9]{1,4})?", re.ASCII)
#: No deployment divides a layer further.
MAX_TP = 64


class Division(NamedTuple):
    """A layout and whether experts are divided over TP x DP."""

    layout: Layout
    ep: bool = False

    @property
    def gpus(self) -> int:
        return self.layout.ranks

    @property
    def replica_gpus(self) -> int:
        """GPUs of one independent cache."""
        return self.layout.tp * self.layout.pp

    @property
    def name(self) -> str:
        """As it is written: `tp4pp2dp2ep8`.

        >>> Division(Layout(tp=2, dp=4), ep=True).name
        'tp2dp4ep8'
        """
        degrees = [(name, value) for name, value in self.layout._asdict().items() if value > 1]
        if self.ep:
            degrees.append(("ep", self.layout.tp * self.layout.dp))
        return "".join(f"{name}{value}" for name, value in degrees) or "tp1"


def read_division(text: str, gpus: int | None = None) -> Division:
    """The layout called `text`, which must use exactly `gpus` GPUs where they are given.

    Raises: UsageError.
    """
    found: dict[str, int] = {}
    position = 0
    word = text.strip().lower()
    while position < len(word):
        match = _PART.match(word, position)
        if match is None or match.group(1) in found or (match.group(2) is None and match.group(1) != "ep"):
            raise UsageError(
                f"{short(text)} is no layout",
                fix="write it like tp8, tp4pp2, dp8ep8 or tp2dp4",
                field="layouts",
                value=text,
            )
        found[match.group(1)] = int(match.group(2) or 0)
        position = match.end()
    if not found or 0 in (value for name, value in found.items() if name != "ep"):
        raise UsageError(f"{short(text)} is no layout", fix="write it like tp8 or tp2dp4", field="layouts", value=text)
    ep = found.pop("ep", None)
    division = Division(Layout(**found), ep=ep is not None)
    spread = division.layout.tp * division.layout.dp
    if ep not in (None, 0, spread):
        raise UsageError(
            f"ep{ep} of {text}: experts are divided over tp x dp = {spread}", fix=f"write ep{spread}", field="layouts"
        )
    if gpus is not None and division.gpus != gpus:
        raise UsageError(
            f"{text} uses {division.gpus} GPUs, not {gpus}",
            fix=f"give degrees whose product is {gpus}, or --gpus {division.gpus}",
            field="layouts",
        )
    return division


def read_divisions(text: str, model: Model, gpus: int) -> list[Division]:
    """`tp8,dp8ep8` or `all`: the layouts asked for.

    Raises: UsageError.
    """
    if text.strip().lower() == "all":
        return all_divisions(model, gpus)
    return [read_division(part, gpus) for part in text.split(",") if part.strip()] or [read_division(text, gpus)]


def all_divisions(model: Model, gpus: int) -> list[Division]:
    """Every way to use exactly `gpus` GPUs that the model's own numbers allow.

    TP divides the query heads; PP leaves every stage a layer; DCP divides the TP ranks that would replicate; EP where
    there are experts and more than one rank to spread them over.
    """
    heads = [kind.heads for kind in model.blocks.values() if isinstance(kind, HeadAttention | LatentAttention)]
    experts = known_shape(model).experts
    found = []
    for tp in divisors(gpus):
        if tp > MAX_TP or any(count % tp for count in heads):
            continue
        for pp in divisors(gpus // tp):
            if pp > len(model.layers):
                continue
            dp = gpus // (tp * pp)
            for dcp in _context_degrees(model, tp):
                found.append(Division(Layout(tp=tp, pp=pp, dp=dp, dcp=dcp)))
                if experts and tp * dp > 1:
                    found.append(Division(Layout(tp=tp, pp=pp, dp=dp, dcp=dcp), ep=True))
    return found


def _context_degrees(model: Model, tp: int) -> list[int]:
    """1, and the largest degree that replaces replication of KV heads (or of the latent) within the TP ranks."""
    groups = {kind.kv_heads for kind in model.blocks.values() if isinstance(kind, HeadAttention)}
    latent = any(isinstance(kind, LatentAttention) for kind in model.blocks.values())
    kept = min(groups, default=1 if latent else tp)
    spare = tp if latent and not groups else tp // kept
    return [1, spare] if spare > 1 and tp % spare == 0 else [1]


def divisors(number: int) -> list[int]:
    """Whole numbers that divide `number`, in rising order.

    >>> divisors(12)
    [1, 2, 3, 4, 6, 12]
    """
    return [degree for degree in range(1, number + 1) if number % degree == 0]


def replicas_per_type(counts: list[int], replica: int) -> list[int]:
    """Replicas made of one GPU type each, per type; what is left over of a type cannot hold one.

    >>> replicas_per_type([4, 5], 2)
    [2, 2]
    """
    return [count // replica for count in counts]
