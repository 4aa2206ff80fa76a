"""SGLang's allocation of one model: the tensors a load needs, and what SGLang would make of a pool.

Three numbers are kept apart: the budget SGLang divides, what the tokens are priced at, and what is allocated (a page
and some padding more). `plan` gives the tensors; what they are charged to the pool travels in `uncharged`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from kvcalc.core.plan import CachePlan, Layout, Load, RankPlan, Tensor
from kvcalc.engines.sglang.geometry import Geometry, Stage
from kvcalc.engines.sglang.pools import Buffer, Pool, head_pool, indexed_head_pools, latent_pool, sliding_latent_pool
from kvcalc.engines.sglang.settings import Settings
from kvcalc.engines.sglang.sizing import PADDING_SLOT, OnePool, TwoPools, configurator, slot_bytes
from kvcalc.engines.sglang.v4 import V4Pools, v4_pools
from kvcalc.units import ceil_div


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePools:
    """One stage's rule and its pools: (pool, "tokens" or "swa") in the order SGLang makes them."""

    stage: Stage
    rule: OnePool | TwoPools | V4Pools
    pools: tuple[tuple[Pool, str], ...]


def stage_pools(geometry: Geometry, stage: Stage, settings: Settings) -> StagePools:
    """The pools of one stage: `_build_token_to_kv_pool`."""
    if geometry.compressed:
        return StagePools(stage=stage, rule=v4_pools(geometry, stage, settings), pools=())
    rule = configurator(geometry, stage, settings)
    hybrid = "kv.full_kv_pool." if geometry.state is not None else "kv."
    shape = geometry.attention
    if geometry.latent and geometry.sliding is not None:
        first = latent_pool(geometry, stage, settings, prefix="kv.full_kv_pool.")
        second = sliding_latent_pool(geometry.sliding, stage.sliding, settings)
        return StagePools(stage=stage, rule=rule, pools=((first, "tokens"), (second, "swa")))
    if geometry.latent:
        return StagePools(
            stage=stage, rule=rule, pools=((latent_pool(geometry, stage, settings, prefix=hybrid), "tokens"),)
        )
    if geometry.indexed_heads:
        main, index = indexed_head_pools(geometry, stage, settings)
        return StagePools(stage=stage, rule=rule, pools=((main, "tokens"), (index, "tokens")))
    if geometry.sliding is None:
        return StagePools(
            stage=stage, rule=rule, pools=((head_pool(shape, stage.full, settings, prefix=hybrid), "tokens"),)
        )
    from kvcalc.engines.sglang.classes import SLIDING_OWN_HEADS

    own = geometry.name in SLIDING_OWN_HEADS
    sliding = geometry.sliding if own else shape
    full = head_pool(shape, stage.full, settings, prefix="kv.full_kv_pool.", label="Full ", fp4=False)
    swa = head_pool(sliding, stage.sliding, settings, prefix="kv.swa_kv_pool.", label="SWA ", fp4=False)
    return StagePools(stage=stage, rule=rule, pools=((full, "tokens"), (swa, "swa")))


@dataclass(frozen=True, slots=True, kw_only=True)
class SglangPlanner:
    """See `kvcalc.core.plan.Planner`."""

    geometry: Geometry
    settings: Settings
    layout: Layout
    stages: tuple[StagePools, ...]
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]
    period_tokens: int
    saturation_tokens: int
    exactness: str = "exact"

    def plan(self, load: Load) -> CachePlan:
        """The tensors that hold the load; replicas and attention-DP groups share the sessions, the fullest decides."""
        groups = self.layout.dp * self.settings.attn_dp
        share, extra = divmod(load.sessions, groups)
        counts = [share + (group < extra) for group in range(groups)]
        plans: dict[tuple[int, int], RankPlan] = {}
        ranks: dict[tuple[int, int], list[int]] = {}
        for group, sessions in enumerate(counts):
            replica, inner = divmod(group, self.settings.attn_dp)
            for number, stage in enumerate(self.stages):
                key = (sessions, number)
                if key not in plans:
                    plans[key] = self._rank(stage, load.context_tokens, sessions)
                first = inner * self.settings.attn_tp
                ranks.setdefault(key, []).extend(
                    self.layout.rank(replica, number, first + rank) for rank in range(self.settings.attn_tp)
                )
        return CachePlan([plan._replace(ranks=tuple(ranks[key])) for key, plan in plans.items()])

    def beyond(self, load: Load) -> str | None:
        """max_total_tokens fixes the pool of each group, whatever memory there is."""
        most, page = self.settings.max_total, self.settings.page
        if most is None:
            return None
        groups = self.layout.dp * self.settings.attn_dp
        needed = ceil_div(load.sessions, groups) * ceil_div(load.context_tokens, page) * page
        return None if needed <= most else f"max_total_tokens is {most:,}, {needed:,} are needed"

    def _rank(self, stage: StagePools, context: int, sessions: int) -> RankPlan:
        """One rank that holds `sessions` sessions."""
        page = self.settings.page
        tokens = sessions * ceil_div(context, page) * page
        full = self._full_tokens(stage, tokens, context, sessions)
        priced = stage.rule.priced(full)
        tensors, allocated = self._tensors(stage, full, sessions)
        charged = priced
        if self.geometry.state is not None:
            charged = self._shared_budget(priced, sessions * self.settings.slots_per_request)
        charged += self.settings.reserve_mib * 2**20
        return RankPlan((), tensors, allocated, allocated - charged)

    def _full_tokens(self, stage: StagePools, tokens: int, context: int, sessions: int) -> int:
        """Tokens of the full pool so that the sliding pool, a share of it, serves every session too."""
        rule, page = stage.rule, self.settings.page
        if isinstance(rule, OnePool) or rule.cap is not None or rule.window is None:
            return tokens
        if isinstance(rule, TwoPools) and not rule.full_bytes:
            return max(tokens, rule.window + 2 * page)
        # Prefill admits a request when its window and one page are free; at least one more token than that.
        alive = min(ceil_div(context, page) * page, ceil_div(rule.window, page) * page + page)
        needed = max(sessions * alive, ceil_div(rule.window + page + 1, page) * page)
        full = ceil_div(max(tokens, ceil(needed / rule.ratio)), page) * page
        while int(full * rule.ratio) // page * page < needed:
            full += page
        return full

    def _shared_budget(self, priced: int, slots: int) -> int:
        """The smallest budget sure to hold the tokens and the slots, where SGLang splits it by a fixed ratio."""
        settings, size = self.settings, slot_bytes(self.geometry, self.settings)
        fixed = settings.mamba_slots
        if fixed is not None:
            return priced + (fixed // settings.attn_dp + PADDING_SLOT) * size
        if not settings.radix and settings.running_per_group is not None:
            return priced + (settings.running_per_group + PADDING_SLOT) * size
        ratio = settings.mamba_ratio
        return max(ceil((slots + PADDING_SLOT) * size * (1 + ratio) / ratio), ceil(priced * (1 + ratio)))

    def _tensors(self, stage: StagePools, full: int, sessions: int) -> tuple[list[Tensor], int]:
        page, rule = self.settings.page, stage.rule
        if isinstance(rule, V4Pools):
            return _v4_tensors(stage, rule, full)
        swa = 0
        if isinstance(rule, TwoPools):
            cap = rule.cap
            swa = full if not rule.full_bytes else int(full * rule.ratio) // page * page
            swa = swa if cap is None else ceil_div(cap, page) * page
        tensors: list[Tensor] = []
        for pool, size in stage.pools:
            count = full if size == "tokens" else swa
            tensors += [_tensor(pool, buffer, count, page) for buffer in pool.buffers if buffer.layers]
        if swa:
            tensors.append(_mapping(full, page))
        tensors += self._state_tensors(stage.stage, sessions * self.settings.slots_per_request)
        return tensors, sum(tensor.bytes for tensor in tensors)

    def _state_tensors(self, stage: Stage, slots: int) -> list[Tensor]:
        state, layers = self.geometry.state, stage.states
        if state is None or not layers:
            return []
        rows = slots + PADDING_SLOT
        found: list[tuple[str, tuple[int, ...], str, int]] = [
            ("conv_state", (len(layers), rows, *shape), "bfloat16", 2) for shape in state.conv
        ]
        if state.temporal_elements:
            item = 4 if self.settings.state_dtype == "float32" else 2
            found.append(("recurrent_state", (len(layers), rows, *state.temporal), self.settings.state_dtype, item))
        tensors = []
        for name, shape, dtype, item in found:
            size = item
            for extent in shape:
                size *= extent
            tensors.append(Tensor(name, "state", "state", "slots", layers, 1, rows, shape, dtype, size))
        return tensors

    def report(self, load: Load, pool_bytes: int | None = None) -> dict[str, object]:
        from kvcalc.engines.sglang.report import build_report

        return build_report(self, pool_bytes)


def _kind(pool: Pool) -> str:
    return "latent" if pool.one_size else "heads"


def _tensor(pool: Pool, buffer: Buffer, count: int, page: int) -> Tensor:
    return Tensor(
        name=buffer.name,
        kind=_kind(pool),
        block=pool.label.strip().lower() or "kv",
        law="tokens",
        layers=buffer.layers,
        count=buffer.count,
        slots=count + page,
        shape=buffer.shape(count, page),
        dtype=buffer.dtype,
        bytes=buffer.bytes(count, page),
    )


def _mapping(full: int, page: int) -> Tensor:
    """int64 from a full slot to its sliding slot, with one sentinel."""
    rows = full + page + 1
    return Tensor("full_to_swa_index_mapping", "table", "kv", "tokens", (), 1, rows, (rows, 8), "int8", rows * 8)


def _v4_tensors(stage: StagePools, rule: V4Pools, full: int) -> tuple[list[Tensor], int]:
    requests = rule.requests(rule.priced(full))
    swa = rule.swa_tokens(full)
    tensors = [_mapping(full, rule.page)]
    for _, name, ratio, shape, dtype, item in rule.arrays(full, swa, requests):
        where = tuple(
            index for index, own in enumerate(stage.stage.ratios, stage.stage.start) if ratio is None or own == ratio
        )
        size = len(where) * shape[0] * shape[1] * item
        tensors.append(Tensor(name, "compressed", "kv", "tokens", where, len(where), shape[0], shape, dtype, size))
    return tensors, sum(tensor.bytes for tensor in tensors)
