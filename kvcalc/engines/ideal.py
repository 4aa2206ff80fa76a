"""The tensor-level minimum: what a perfect allocator would hold, and the base of every comparison.

Linear n slots, windows min(n, w), one slot per full group of tokens, conv tails of kernel - 1, states once.
No pages, no padding, no slack. Not an engine anybody runs: the engines' own modules say what is really taken.
"""

from __future__ import annotations

from math import lcm, prod

from kvcalc.core.component import Component, Law, Linear, period_of, saturates_at
from kvcalc.core.light import NamedTuple
from kvcalc.core.model import Model
from kvcalc.core.plan import CachePlan, Layout, Load, RankPlan, Tensor
from kvcalc.dtypes import DTYPES
from kvcalc.engines.base import Option, Setup
from kvcalc.errors import EngineRefusal
from kvcalc.units import ceil_div


class _Row(NamedTuple):
    """One component on one class of ranks: everything but the number of slots."""

    name: str
    kind: str
    block: str
    law: Law
    law_text: str
    layers: tuple[int, ...]
    widths: tuple[int, ...]
    dtype: str
    slot_bytes: int
    token_shards: int


class _RankClass(NamedTuple):
    """Ranks of one data-parallel replica that hold equal tensors: (pp, tp) pairs and their rows."""

    places: tuple[tuple[int, int], ...]
    rows: tuple[_Row, ...]


class IdealPlanner(NamedTuple):
    """See `kvcalc.core.plan.Planner`."""

    layout: Layout
    classes: tuple[_RankClass, ...]
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]
    period_tokens: int
    saturation_tokens: int
    exactness: str = "exact"

    def plan(self, load: Load) -> CachePlan:
        """Each data-parallel replica holds its share of the sessions; the first ones hold one more."""
        share, extra = divmod(load.sessions, self.layout.dp)
        replicas = [(share, range(extra, self.layout.dp))]
        if extra:
            replicas.insert(0, (share + 1, range(extra)))
        plans = []
        for sessions, dp_ranks in replicas:
            for group in self.classes:
                ranks = tuple(self.layout.rank(dp, pp, tp) for dp in dp_ranks for pp, tp in group.places)
                tensors, total = _tensors(group.rows, load, sessions)
                plans.append(RankPlan(ranks, tensors, total))
        return CachePlan(plans)

    def report(self, load: Load, pool_bytes: int | None = None) -> dict[str, object]:
        return {}


def _tensors(rows: tuple[_Row, ...], load: Load, sessions: int) -> tuple[list[Tensor], int]:
    tensors: list[Tensor] = []
    total = 0
    for row in rows:
        slots = row.law.slots(load.context_tokens, load.encoder_tokens)
        if row.token_shards > 1:
            slots = ceil_div(slots, row.token_shards)  # the rank that gets the odd token decides
        count = len(row.layers)
        size = count * sessions * slots * row.slot_bytes
        shape = (sessions, slots, *row.widths)
        tensors.append(
            Tensor(row.name, row.kind, row.block, row.law_text, row.layers, count, slots, shape, row.dtype, size)
        )
        total += size
    return tensors, total


def stage_bounds(layers: int, stages: int) -> list[tuple[int, int]]:
    """Layers [start, stop) of each pipeline stage: as even as possible, the first stages one more."""
    share, extra = divmod(layers, stages)
    bounds, start = [], 0
    for stage in range(stages):
        stop = start + share + (stage < extra)
        bounds.append((start, stop))
        start = stop
    return bounds


def _row(
    component: Component, rank: int, setup: Setup, *, kind: str, block: str, layers: tuple[int, ...]
) -> _Row | None:
    """The component on TP rank `rank`; None where the rank holds none of it."""
    dtype = DTYPES[setup.dtypes.of(component.role)]
    units = [(part.units_on_rank(rank, setup.layout.tp), part.width) for part in component.parts]
    widths: tuple[int, ...] = units[0]
    if len(units) > 1 or (units[0][1] == 1 and component.parts[0].shard == "channels"):
        widths = (sum(count * width for count, width in units),)  # channels lie in one row, which a block format packs
    slot_bytes = prod(widths[:-1]) * dtype.row_bytes(widths[-1])
    if slot_bytes == 0:
        return None
    sharded = setup.layout.dcp > 1 and isinstance(component.law, Linear) and component.role in ("key", "value")
    return _Row(
        component.name,
        kind,
        block,
        component.law,
        str(component.law),
        layers,
        widths,
        dtype.name,
        slot_bytes,
        setup.layout.dcp if sharded else 1,
    )


def _check_layout(model: Model, layout: Layout, components: list[Component]) -> list[str]:
    if layout.pp > len(model.layers):
        raise EngineRefusal(
            f"{layout.pp} pipeline stages for {len(model.layers)} layers", fix="lower --pp", field="pp", value=layout.pp
        )
    if layout.tp % layout.dcp:
        raise EngineRefusal(
            f"dcp {layout.dcp} does not divide tp {layout.tp}", fix="choose a divisor of --tp", field="dcp"
        )
    if layout.dcp > 1:
        _check_dcp(layout, components)
    uneven = sorted({c.name for c in components for part in c.parts if not part.divides(layout.tp)})
    if uneven:
        return [f"tp {layout.tp} does not divide {', '.join(uneven)} evenly: real engines refuse this layout"]
    return []


def _check_dcp(layout: Layout, components: list[Component]) -> None:
    for component in components:
        for part in component.parts:
            heads = part.units if part.shard == "heads" and component.role in ("key", "value") else 1
            if isinstance(component.law, Linear) and heads * layout.dcp > layout.tp:
                raise EngineRefusal(
                    f"dcp {layout.dcp} needs tp >= dcp x KV heads = {heads * layout.dcp}, tp is {layout.tp}",
                    fix="decode context parallel only divides replicated caches: raise --tp or lower --dcp",
                    field="dcp",
                    value=layout.dcp,
                )


class IdealEngine(NamedTuple):
    """See `kvcalc.engines.base.Engine`."""

    name: str = "ideal"
    versions: tuple[str, ...] = ("1",)
    verified_by: str = "published figures and measured tensors"
    summary: str = "tensor-level minimum: no pages, no padding"
    options: tuple[Option, ...] = ()

    def prepare(self, model: Model, setup: Setup) -> IdealPlanner:
        """Rows per class of equal ranks.

        Raises: EngineRefusal for a layout that cannot exist.
        """
        lowered = {name: kind.lower() for name, kind in model.blocks.items()}
        components = [component for parts in lowered.values() for component in parts]
        warnings = _check_layout(model, setup.layout, components)
        pending = any(component.role == "pending" for component in components)
        stored = [component for component in components if component.role != "pending"]
        assumptions = ["tensor-level minimum: no pages, padding or slack; a real engine takes at least this"]
        if any(component.role == "state" for component in components):
            assumptions.insert(0, f"recurrent states in {setup.dtypes.state}, convolution tails in {setup.dtypes.conv}")
        if pending:
            assumptions.append(
                "the inputs of an open compression group (fewer than tokens_per_slot tokens) are not counted"
            )
        shards = setup.layout.dcp
        return IdealPlanner(
            layout=setup.layout,
            classes=_classes(model, setup, lowered),
            assumptions=tuple(assumptions),
            warnings=tuple(warnings),
            period_tokens=lcm(shards, *(period_of(component.law) for component in stored)),
            saturation_tokens=max((saturates_at(component.law) for component in stored), default=0),
        )


def _classes(model: Model, setup: Setup, lowered: dict[str, tuple[Component, ...]]) -> tuple[_RankClass, ...]:
    """Equal ranks are planned once: cost grows with distinct components, never with layers or ranks."""
    layout = setup.layout
    places: dict[tuple[_Row, ...], list[tuple[int, int]]] = {}
    for stage, (start, stop) in enumerate(stage_bounds(len(model.layers), layout.pp)):
        blocks = model.stage_blocks(start, stop)
        by_share: dict[tuple[int, ...], tuple[_Row, ...]] = {}
        for rank in range(layout.tp):
            share = tuple(
                part.units_on_rank(rank, layout.tp)
                for name in blocks
                for component in lowered[name]
                for part in component.parts
            )
            if share not in by_share:
                rows = (
                    _row(component, rank, setup, kind=model.blocks[name].kind, block=name, layers=layers)
                    for name, layers in blocks.items()
                    for component in lowered[name]
                    if component.role != "pending"
                )
                by_share[share] = tuple(row for row in rows if row is not None)
            places.setdefault(by_share[share], []).append((stage, rank))
    return tuple(_RankClass(tuple(where), rows) for rows, where in places.items())


ENGINE = IdealEngine()
