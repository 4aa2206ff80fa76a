"""vLLM's planner: what the pool must hold for a load, and the report of the start-up log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from math import lcm

from kvcalc.core.model import Model
from kvcalc.core.plan import CachePlan, Load, RankPlan, Tensor
from kvcalc.engines.base import Setup
from kvcalc.engines.vllm.build import Built
from kvcalc.engines.vllm.grouping import Group
from kvcalc.engines.vllm.settings import Settings
from kvcalc.engines.vllm.spec import NULL_BLOCKS, SPEC_CLASSES, Spec
from kvcalc.units import ceil_div


@dataclass(frozen=True, slots=True)
class VllmPlanner:
    """See `kvcalc.core.plan.Planner`. `counters`: per group the distinct formats that count its blocks."""

    model: Model
    setup: Setup
    settings: Settings
    built: Built
    counters: tuple[tuple[Spec, ...], ...]
    rows: tuple[tuple[str, str, str, tuple[int, ...]], ...]
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]
    period_tokens: int
    saturation_tokens: int
    max_model_len: int | None = None
    override_blocks: int | None = None
    max_num_seqs: int | None = None
    exactness: str = "exact"

    def group_blocks(self, tokens: int) -> list[int]:
        """Blocks of each group's table that one request of `tokens` tokens may hold."""
        limits = self.settings.limits
        return [max(spec.blocks(tokens, limits) for spec in specs) for specs in self.counters]

    def request_blocks(self, tokens: int) -> int:
        """Blocks of the pool that one request may hold: every group draws from the same ids."""
        return sum(self.group_blocks(tokens))

    def block_need(self, block_bytes: int) -> Callable[[int], int]:
        """Bytes one request of n tokens takes of a pool whose blocks have `block_bytes`."""
        return lambda tokens: self.request_blocks(tokens) * block_bytes

    def layer_bytes(self, stage: range) -> Callable[[int], int]:
        """Bytes of one request of n tokens, layer by layer, without the padding of groups (up to vLLM 0.13)."""
        limits = self.settings.limits
        counts = Counter(layer.spec for group in self.built.groups for layer in group.layers if layer.number in stage)
        return lambda tokens: sum(
            count * spec.blocks(tokens, limits) * spec.page_bytes for spec, count in counts.items()
        )

    def steady_blocks(self, tokens: int) -> list[int]:
        """Blocks of each group a request holds while it decodes at `tokens` tokens."""
        return [_steady(specs, tokens, self.settings) for specs in self.counters]

    def plan(self, load: Load) -> CachePlan:
        """Blocks that `load.sessions` requests may hold at once, and the null block, on every rank."""
        layout = self.settings.layout
        blocks = self.group_blocks(load.context_tokens)
        share, extra = divmod(load.sessions, layout.dp)
        replicas = [(share, range(extra, layout.dp))]
        if extra:
            replicas.insert(0, (share + 1, range(extra)))
        plans = []
        for sessions, dp_ranks in replicas:
            for pp, stage in enumerate(self.built.stages):
                ranks = tuple(layout.rank(dp, pp, tp) for dp in dp_ranks for tp in range(layout.tp))
                plans.append(self._rank(ranks, stage.pool_bytes, blocks, sessions))
        return CachePlan(plans)

    def beyond(self, load: Load) -> str | None:
        """num_gpu_blocks_override fixes the pool, whatever memory there is; one block is the null block."""
        if self.override_blocks is None:
            return None
        needed = sum(self.group_blocks(load.context_tokens)) * ceil_div(load.sessions, self.settings.layout.dp)
        usable = self.override_blocks - NULL_BLOCKS
        return None if needed <= usable else f"num_gpu_blocks_override leaves {usable:,} blocks, {needed:,} are needed"

    def _rank(self, ranks: tuple[int, ...], pool_bytes: int, blocks: list[int], sessions: int) -> RankPlan:
        tensors = []
        total = 0
        for (kind, block, law, layers), count in zip(self.rows, blocks, strict=True):
            held = count * sessions
            size = held * pool_bytes
            tensors.append(Tensor("kv_blocks", kind, block, law, layers, 1, held, (held, pool_bytes), "int8", size))
            total += size
        if pool_bytes and self.rows:
            shape = (NULL_BLOCKS, pool_bytes)
            size = NULL_BLOCKS * pool_bytes
            tensors.append(Tensor("null_block", "", "", "constant", (), 1, NULL_BLOCKS, shape, "int8", size))
            total += size
        return RankPlan(ranks, tensors, total)

    def changes(self, load: Load, pool_bytes: int) -> list[dict[str, object]]:
        """The settings that would let most more sessions of the asked length into the pool."""
        from kvcalc.engines.vllm import ENGINE  # the engine prepares the planners compared
        from kvcalc.engines.vllm.changes import best_changes

        return best_changes(ENGINE.prepare, self, load, pool_bytes)

    def report(self, load: Load, pool_bytes: int | None = None) -> dict[str, object]:
        """See `kvcalc.engines.vllm.report`."""
        from kvcalc.engines.vllm.report import engine_report  # only a report needs it

        return engine_report(self, load, pool_bytes)


def _steady(specs: tuple[Spec, ...], tokens: int, settings: Settings) -> int:
    limits = settings.limits

    def held(spec: Spec) -> int:
        if spec.kind == "mamba":
            return 1  # the running state; earlier checkpoints are given back
        if spec.kind == "cross":
            return spec.blocks(tokens, limits)
        own = ceil_div(tokens, limits.dcp) if spec.growing and spec.dcp_sharded else tokens
        return spec.steady_blocks(own)

    return max(held(spec) for spec in specs)


def make_planner(
    model: Model, setup: Setup, settings: Settings, built: Built, *, exactness: str, warnings: tuple[str, ...]
) -> VllmPlanner:
    """The planner of a built model, with everything that does not depend on the load taken out."""
    counters = tuple(tuple(dict.fromkeys(group.specs)) for group in built.groups)
    return VllmPlanner(
        model=model,
        setup=setup,
        settings=settings,
        built=built,
        counters=counters,
        rows=tuple(_row(group) for group in built.groups),
        assumptions=(
            *settings.assumptions,
            "blocks a request may hold at most: windows reserve for every batch in flight",
        ),
        warnings=warnings,
        period_tokens=_period(counters, settings),
        saturation_tokens=_saturation(counters, settings),
        max_model_len=setup.options.get("max_model_len"),
        override_blocks=setup.options.get("num_gpu_blocks_override"),
        max_num_seqs=setup.options.get("max_num_seqs"),
        exactness=exactness,
    )


def _row(group: Group) -> tuple[str, str, str, tuple[int, ...]]:
    kinds = dict.fromkeys(SPEC_CLASSES[spec.kind] for spec in group.specs)
    blocks = dict.fromkeys(layer.block for layer in group.layers)
    first = group.layers[0].spec
    law = {"sliding": f"window {first.span:,}", "sliding_mla": f"window {first.span:,}"}.get(first.kind)
    law = law or {"chunked": f"chunk {first.span:,}", "mamba": "constant", "cross": "encoder"}.get(first.kind, "linear")
    layers = tuple(dict.fromkeys(layer.number for layer in group.layers))
    return ("+".join(kinds), "+".join(blocks), law, layers)


def _period(counters: tuple[tuple[Spec, ...], ...], settings: Settings) -> int:
    """Tokens after which every growing group has taken a whole number of blocks more."""
    dcp = settings.layout.dcp
    growing = (spec.block_tokens * (dcp if spec.dcp_sharded else 1) for s in counters for spec in s if spec.growing)
    return lcm(*growing)


def _saturation(counters: tuple[tuple[Spec, ...], ...], settings: Settings) -> int:
    """Tokens from which windows and chunks hold no more."""
    flight = settings.in_flight_tokens
    spans = (
        spec.span + spec.extra_tokens + flight
        for specs in counters
        for spec in specs
        if spec.kind in ("sliding", "sliding_mla", "chunked")
    )
    return max(spans, default=0)
